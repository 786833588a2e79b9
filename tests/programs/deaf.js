// Does not come back to JavaScript for as many seconds as it is told, and works from then on.
const { execFileSync } = require("child_process");

console.log("ready");
execFileSync("sleep", [process.argv[2]]);
function works() {
  const end = Date.now() + 50;
  while (Date.now() < end);
  setTimeout(works, 1);
}
works();
