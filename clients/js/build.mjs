// Builds dist: ESM, CommonJS and types of each entry, and the script for pages (`pushnode.js`,
// which defines `pushnode.connect`). Names of our own properties are shortened.
import { build } from "esbuild";
import { minify } from "terser";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");

const common = {
  absWorkingDir: here,
  bundle: true,
  target: "es2022",
  legalComments: "none",
  external: ["react"],
  // What begins with `_` is ours: neither the application, the node nor the platform knows it.
  mangleProps: /^_[a-z]/,
  tsconfigRaw: { compilerOptions: { useDefineForClassFields: false } },
};
const entries = { index: "src/index.ts", ws: "src/ws-only.ts", react: "src/react.ts" };

/**
 * The text of `client.ts` and of all that it imports as the body of `connect`, so that each client
 * has variables of its own (src/create.d.ts). Only the classes of errors are shared.
 */
const oneClient = (entry) => ({
  name: "one client",
  setup({ onLoad }) {
    onLoad({ filter: /src\/(index|ws-only)\.ts$/ }, async () => {
      const inner = await build({
        ...common,
        entryPoints: ["src/client.ts"],
        define: { STREAMS: String(entry !== "ws") },
        external: ["./types.js"],
        format: "esm",
        write: false,
      });
      let shared = "";
      const body = inner.outputFiles[0].text
        .replace(/^import .*;$/gm, (line) => ((shared += line + "\n"), ""))
        .replace(/^export \{[^]*\};$/m, "return client;")
        .replace(/\b(const|var) /g, "let "); // one word for all of them is shorter
      const contents = `export * from "./types.js";
        ${shared}
        export const connect = (url, options = {}) => {
          ${body}
        };`;
      return { contents, resolveDir: join(here, "src") };
    });
  },
});

/** Makes it smaller still. */
async function smaller(code, isModule, preamble) {
  const compress = {
    passes: 6,
    ecma: 2020,
    keep_fargs: false,
    pure_getters: true,
    unsafe: true,
    unsafe_arrows: true,
    unsafe_methods: true,
  };
  const format = { preamble };
  return (await minify(code, { module: isModule, compress, mangle: true, format })).code + "\n";
}

/** The script for pages: what a node serves at `/pushnode.js`, too. */
export async function script() {
  const result = await build({
    ...common,
    entryPoints: ["src/index.ts"],
    plugins: [oneClient("index")],
    format: "iife",
    globalName: "pushnode",
    write: false,
  });
  const { version } = JSON.parse(readFileSync(join(here, "package.json"), "utf8"));
  return smaller(result.outputFiles[0].text, false, `/*! pushnode-js ${version}, MIT */`);
}

/** Where the node has it: the node is built without Node.js. */
export const served = join(here, "../../src/api/pushnode.js");

/** One file of types for an entry: `import` and `require` each want one of their own. */
function types(folder, name, source) {
  const read = (file) => readFileSync(join(folder, `${file}.d.ts`), "utf8");
  const bare = (text) => text.replace(/^(import|export) [^;]*from "\.\/[^;]*;\n/gm, "");
  const needed = source === "react" ? "" : bare(read("types"));
  return { name, text: needed + (source === "react" ? read(source) : bare(read(source))) };
}

async function main() {
  rmSync(dist, { recursive: true, force: true });
  mkdirSync(dist);
  for (const [format, ending] of [
    ["esm", ".js"],
    ["cjs", ".cjs"],
  ]) {
    for (const [name, source] of Object.entries(entries)) {
      const options = { entryPoints: [source], plugins: [oneClient(name)], format, write: false };
      const { outputFiles } = await build({ ...common, ...options });
      const code = await smaller(outputFiles[0].text, format === "esm");
      writeFileSync(join(dist, name + ending), code);
    }
  }
  writeFileSync(join(dist, "pushnode.js"), await script());
  if (process.argv.includes("--served")) writeFileSync(served, await script());

  const folder = join(dist, "types");
  const tsc = join(here, "node_modules/typescript/bin/tsc");
  const flags = ["--noEmit", "false", "--declaration", "--emitDeclarationOnly", "--outDir", folder];
  execFileSync(process.execPath, [tsc, "-p", here, ...flags], { stdio: "inherit" });
  for (const [name, source] of [
    ["index", "index"],
    ["ws", "ws-only"],
    ["react", "react"],
  ]) {
    const { text } = types(folder, name, source);
    writeFileSync(join(dist, `${name}.d.ts`), text);
    writeFileSync(join(dist, `${name}.d.cts`), text.replace('"./index.js"', '"./index.cjs"'));
  }
  rmSync(folder, { recursive: true });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
