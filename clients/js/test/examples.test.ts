// The examples of the repository, in a browser.
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { startBrowser } from "./rig/browser.js";
import { atEnd, freePort, startNode, until } from "./rig/index.js";

test.each(["node server.mjs", "python3 server.py"])("the bell rings with %s", async (backend) => {
  const port = await freePort();
  const origin = `http://127.0.0.1:${port}`;
  const node = await startNode({ PUSH_AUTH: "session", PUSH_ORIGINS: origin });
  const [program, file] = backend.split(" ") as [string, string];
  const cwd = fileURLToPath(new URL("../../../examples/bell", import.meta.url));
  const env = { ...process.env, PORT: `${port}`, PUSHNODE: node.url };
  const server = spawn(program, [file], { cwd, env, stdio: "ignore" });
  atEnd(() => server.kill());
  await until("the backend answers", () => fetch(origin).then((answer) => answer.ok, () => false));

  const browser = await startBrowser();
  atEnd(() => browser.close());
  const page = await browser.newPage();
  await page.goto(`${origin}/?user=ann`);
  const shown = (selector: string) => page.$eval(selector, (one) => one.textContent);
  const title = () => page.$eval("#bell", (one) => (one as HTMLElement).title);
  await until("it is connected", async () => (await title()) === "connected");
  await page.click("#bell");
  await until("it rings", async () => (await shown("#count")) === "1");
  expect(await shown("#list")).toMatch(/^ding at /);
  // What comes during a reload is there after it.
  await page.goto("about:blank");
  await page.evaluate(() => {});
  await fetch(`${origin}/ring?user=ann`, { method: "POST" });
  await page.goto(`${origin}/?user=ann`);
  await until("it has rung meanwhile", async () => (await shown("#count")) === "1");
});
