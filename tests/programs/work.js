// Functions with a known call structure, hot enough to be compiled.
'use strict';

let sink = 0;

function burn(n) {
  let x = n | 0;
  for (let i = 0; i < n; i++) x = (Math.imul(x, 1664525) + 1013904223) | 0;
  return x;
}
const inner = (n) => burn(n) + 1;
function outer(n) {
  return inner(n) + 2;
}
// Calls that are not inlined: each function is too large or called through a table.
const table = [outer, (n) => burn(n) + 3];

const end = Date.now() + 120000;
for (let i = 0; i < 2000; i++) sink += table[i & 1](20000);
console.log('ready');
while (Date.now() < end) {
  for (let i = 0; i < 100; i++) sink += table[i & 1](50000);
}
