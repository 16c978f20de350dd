// The size gate: each entry as it is published, compressed by gzip. No entry may grow above what a
// page was promised: 5 KB for all, 4 KB without event streams.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const KB = 1024;
const GATES = [
  ["pushnode-js", "index.js", 5],
  ["pushnode-js/ws", "ws.js", 4],
  ["pushnode-js/react", "react.js", 0.7],
];

let isTooBig = false;
for (const [name, file, most] of GATES) {
  const code = readFileSync(fileURLToPath(new URL(`dist/${file}`, import.meta.url)));
  const size = gzipSync(code, { level: 9 }).length / KB;
  isTooBig ||= size > most;
  console.log(`${name.padEnd(18)} ${size.toFixed(2)} KB of ${most.toFixed(2)} KB`);
}
if (isTooBig) {
  console.error("size: too big");
  process.exit(1);
}
