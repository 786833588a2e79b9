// A service that profiles itself, as `POST /admin/cpu-profile`, under a load with known shares: half
// of its time in alpha, a quarter in beta and in a function without a name. It wants one credential:
// the token `sesame` or the key `open`. It says `ready PORT`, `/base/work` how often it went round,
// and `/base/exit` ends it.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const inspector = require('node:inspector');

let sink = 0;
let done = 0;

function burn(n) {
  let x = n | 0;
  for (let i = 0; i < n; i++) x = (Math.imul(x, 1664525) + 1013904223) | 0;
  return x;
}

function alpha() { return burn(400000) + 1; }

function beta() { return burn(200000) + 2; }

function make() {
  return () => burn(200000) + 3;
}

const nameless = make();

function work() {
  done++;
  sink ^= alpha() ^ beta() ^ nameless();
  setImmediate(work);
}

function profile({ durationMs = 1000, intervalUs = 100 }, done) {
  const session = new inspector.Session();
  session.connect();
  session.post('Profiler.enable');
  session.post('Profiler.setSamplingInterval', { interval: intervalUs });
  session.post('Profiler.start');
  setTimeout(() => session.post('Profiler.stop', (error, result) => {
    session.disconnect();
    done(error, result && result.profile);
  }), durationMs);
}

function answer(request, response) {
  const send = (status, value) => {
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify(value));
  };
  if (request.url === '/base/work') return send(200, done);
  if (request.url === '/base/exit') return process.exit(7);
  const { authorization, 'x-api-key': key } = request.headers;
  if (request.method !== 'POST' || request.url !== '/base/admin/cpu-profile') {
    return send(404, { error: 'Not found' });
  }
  if (authorization !== undefined && key !== undefined) {
    return send(400, { error: 'Two credentials' });
  }
  if (authorization !== 'Bearer sesame' && key !== 'open') {
    return send(401, { error: 'Unauthorized' });
  }
  let body = '';
  request.on('data', (chunk) => { body += chunk; });
  request.on('end', () => profile(JSON.parse(body), (error, value) => (
    error ? send(500, { error: error.message }) : send(200, value))));
}

// With files of a key and a certificate: over TLS.
const [key, cert] = process.argv.slice(2).map((file) => fs.readFileSync(file));
const server = cert ? https.createServer({ key, cert }, answer) : http.createServer(answer);

setTimeout(() => process.exit(1), 120000).unref();
server.listen(0, 'localhost', () => {
  console.log('ready', server.address().port);
  work();
});
