// What the documents show works: their first example runs, the others are at least JavaScript, and the
// reference is no older than the types.
import { transform } from "esbuild";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import * as package_ from "pushnode-js";
import { expect, test } from "vitest";
import { atEnd, startNode, until } from "./rig/index.js";

test.each(["../README.md", "../../../docs/javascript.md"])("the examples of %s", async (path) => {
  const text = readFileSync(new URL(path, import.meta.url), "utf8");
  const blocks = [...text.matchAll(/^```jsx?\n(.*?)^```$/gms)].map(([, code]) => code!);
  for (const code of blocks) await transform(code, { loader: "jsx" });

  const node = await startNode();
  const lines: string[] = [];
  const body = blocks[0]!
    .replace('import { connect } from "pushnode-js";', "")
    .replace("ws://127.0.0.1:8080", node.url);
  const run = new Function("connect", "console", `return (async () => { ${body}; return push; })()`);
  const console_ = { log: (...words: unknown[]) => lines.push(words.join(" ")) };
  const push = await run(package_.connect, console_);
  atEnd(() => push.close());
  await node.push({ to: { user: "42" }, data: "hello" });
  await node.push({ to: { topic: "chat.17" }, data: "good day" });
  await until("all is shown", () => lines.length === 3);
  expect(lines.sort()).toEqual(["chat: good day", "here: 42", "to me: hello"]);
});

test("the reference is what the types make", async () => {
  const { reference, written } = await import(String(new URL("../reference.mjs", import.meta.url)));
  const isNew = readFileSync(written, "utf8") === reference();
  expect(isNew, "run `npm run reference`, and commit docs/javascript-reference.md").toBe(true);
});

test("the package has what it exports and nothing else", async () => {
  const folder = fileURLToPath(new URL("..", import.meta.url));
  const said = execFileSync("npm", ["pack", "--dry-run", "--ignore-scripts", "--json"], { cwd: folder });
  const [{ files }] = JSON.parse(String(said));
  const names: string[] = files.map(({ path }: { path: string }) => path).sort();
  const entries = ["index", "ws", "react"];
  const endings = [".js", ".cjs", ".d.ts", ".d.cts"];
  const built = entries.flatMap((entry) => endings.map((ending) => `dist/${entry}${ending}`));
  expect(names).toEqual(["LICENSE", "README.md", "package.json", "dist/pushnode.js", ...built].sort());
});
