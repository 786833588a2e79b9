// A program whose work is done by two worker threads, of which one waits half of its time; the first
// thread waits. It says `ready` when both work.
'use strict';

const { Worker, isMainThread, workerData, parentPort } = require('node:worker_threads');

let sink = 0;

function burn(n) {
  let x = n | 0;
  for (let i = 0; i < n; i++) x = (Math.imul(x, 1664525) + 1013904223) | 0;
  return x;
}

function busy() {
  sink ^= burn(300000);
  setImmediate(busy);
}

function lazy() {
  const end = Date.now() + 10;
  while (Date.now() < end) sink ^= burn(30000);
  setTimeout(lazy, 10);
}

if (isMainThread) {
  let waiting = 2;
  for (const name of ['busy', 'lazy']) {
    const worker = new Worker(__filename, { name, workerData: name });
    worker.on('message', () => { if (--waiting === 0) console.log('ready'); });
  }
  setTimeout(() => process.exit(1), 120000);
} else {
  parentPort.postMessage('works');
  if (workerData === 'busy') busy(); else lazy();
}
