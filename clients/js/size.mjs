// The size gate: each entry, minified and compressed by gzip, as a bundler would ship it.
import { build } from "esbuild";
import { gzipSync } from "node:zlib";

const KB = 1024;
const GATES = [
  ["pushnode-js", 'export { connect } from "./dist/index.js"', 5 * KB],
  ["pushnode-js/ws", 'export { connect } from "./dist/ws.js"', 4 * KB],
  ["pushnode-js/react", 'export * from "./dist/react.js"', 0.7 * KB],
];

let isTooBig = false;
for (const [name, contents, most] of GATES) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: import.meta.dirname ?? "." },
    bundle: true,
    minify: true,
    format: "esm",
    external: ["react"],
    write: false,
  });
  const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  isTooBig ||= size > most;
  console.log(`${name.padEnd(18)} ${(size / KB).toFixed(2)} KB of ${(most / KB).toFixed(1)} KB`);
}
if (isTooBig) {
  console.error("size: too big");
  process.exit(1);
}
