// The examples of the repository, in a browser.
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import type { Browser, Page } from "puppeteer-core";
import { expect, test } from "vitest";
import { startBrowser } from "./rig/browser.js";
import { atEnd, freePort, startNode, startProxy, startRedis, until } from "./rig/index.js";

const folder = (name: string) => fileURLToPath(new URL(`../../../${name}`, import.meta.url));

test.each(["node server.mjs", "python3 server.py"])("the bell rings with %s", async (backend) => {
  const port = await freePort();
  const origin = `http://127.0.0.1:${port}`;
  const node = await startNode({ PUSH_AUTH: "session", PUSH_ORIGINS: origin });
  const [program, file] = backend.split(" ") as [string, string];
  const cwd = folder("examples/bell");
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

/**
 * The page of an example as a web server hands it out, its node and Redis, and its worker, if it
 * has one. The page's addresses are the defaults; they are replaced, and nothing else is.
 */
async function stage(name: string, settings: Record<string, string> = {}, page?: string) {
  const redis = await startRedis();
  const server = createServer((_, answer) => {
    answer.setHeader("content-type", "text/html");
    const html = page ?? readFileSync(folder(`examples/${name}/index.html`), "utf8");
    answer.end(html.replaceAll("http://127.0.0.1:8080", proxy.url.replace("ws:", "http:")));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const origin = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
  const node = await startNode({ PUSH_REDIS_URL: redis.url, PUSH_ORIGINS: origin, ...settings });
  const proxy = await startProxy(node.port);
  if (settings.PUSH_UPSTREAM_ROUTES) {
    const env = { ...process.env, REDIS_URL: redis.url };
    const python = folder("target/test-tools/venv/bin/python");
    const worker = spawn(python, ["-B", folder(`examples/${name}/worker.py`)], { env, stdio: ["ignore", "pipe", "inherit"] });
    atEnd(() => worker.kill());
    let said = "";
    worker.stdout.on("data", (data) => (said += data));
    await until("the worker is ready", () => said.includes("ready"));
  }
  const browser = await startBrowser();
  atEnd(async () => {
    await browser.close();
    server.closeAllConnections();
    server.close();
  });
  return { node, proxy, origin, browser };
}

async function visit(browser: Browser, url: string): Promise<Page> {
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(url, error));
  await page.goto(url);
  return page;
}

const shown = (page: Page, selector: string) =>
  page.$eval(selector, (one) => (one as HTMLElement).textContent ?? "");

/** The rules of an example. */
const rules = (name: string) => ({ PUSH_TOPIC_RULES_FILE: folder(`examples/${name}/rules.json`) });

test("the chat has its last 50, its members, and who is typing", async () => {
  const { node, origin, browser, proxy } = await stage("chat", rules("chat"));
  const ann = await visit(browser, `${origin}/?user=ann`);
  await until("ann is in", async () => (await shown(ann, "#members")) === "ann");
  const say = async (page: Page, text: string) => {
    await page.bringToFront();
    await page.type("#text", text);
    await page.click("button");
    await until("it is said", () => page.$eval("#text", (one) => !(one as HTMLInputElement).value));
  };
  await say(ann, "good day");
  const bob = await visit(browser, `${origin}/?user=bob`);
  await until("bob has the history", async () => (await shown(bob, "#lines")) === "ann: good day");
  await until("they see each other", async () => (await shown(ann, "#members")) === "ann, bob");
  await bob.bringToFront();
  await bob.type("#text", "g");
  await until("bob is seen to type", async () => (await shown(ann, "#typing")) === "bob is typing");
  expect(await shown(bob, "#typing"), "not told of itself").toBe("");
  proxy.cut();
  await say(bob, "ood night");
  for (const page of [ann, bob]) {
    const all = "ann: good daybob: good night";
    await until("both have both, once", async () => (await shown(page, "#lines")) === all);
  }
  await bob.close();
  await until("bob has left", async () => (await shown(ann, "#members")) === "ann");
  const numbers = Array.from({ length: 60 }, (_, at) => at + 1);
  for (const text of numbers) await node.push({ to: { topic: "chat.1" }, data: { text } });
  const carl = await visit(browser, `${origin}/?user=carl`);
  const last = numbers.slice(10).map((text) => `app: ${text}`).join("");
  await until("an entrant has exactly the last 50", async () => (await shown(carl, "#lines")) === last);
  await say(ann, "live");
  await until("and then live", async () => (await shown(carl, "#lines")) === `${last}ann: live`);
});

test("the ticker shows the current prices at once, and the newest after a cut", async () => {
  const { node, origin, browser, proxy } = await stage("ticker", rules("ticker"));
  const feed = async (rounds: number) => {
    const env = { ...process.env, PUSHNODE: node.url };
    const words = [folder("examples/ticker/feed.mjs"), "1", `${rounds}`];
    const child = spawn(process.execPath, words, { env });
    await new Promise((resolve) => child.once("exit", resolve));
  };
  await feed(3);
  const page = await visit(browser, origin);
  const round = async () => {
    const cells = await page.$$eval("td", (all) => all.map((one) => one.textContent && one.title));
    return cells.join();
  };
  await until("the current prices are there", async () => (await round()) === "3,3,3");
  await feed(5);
  await until("they go on", async () => (await round()) === "5,5,5");
  proxy.cut();
  await feed(7);
  await until("the newest has come", async () => (await round()) === "7,7,7");
});

test("orders change by an event stream, and none is missed or counted twice", async () => {
  const { node, origin, browser, proxy } = await stage("orders");
  const shop = async (order: string) => {
    const env = { ...process.env, PUSHNODE: node.url };
    const child = spawn(process.execPath, [folder("examples/orders/shop.mjs"), "ann", order, "1"], { env });
    await new Promise((resolve) => child.once("exit", resolve));
  };
  await shop("1");
  const page = await visit(browser, `${origin}/?user=ann`);
  await until("what was before is there", async () => (await shown(page, "#orders")).includes("1shipped3"));
  await until("it is live", async () => (await shown(page, "#state")) === "live");
  const before = proxy.count;
  proxy.cut();
  await shop("2");
  const both = "2shipped31shipped3";
  const rows = async () => (await shown(page, "#orders")).replace(/\s/g, "");
  await until("it has come back with what was missed", async () => (await rows()) === both);
  expect(proxy.count).toBeGreaterThan(before);
  await shop("3");
  await until("and goes on", async () => (await rows()) === "3shipped3" + both);
});

test("an answer of 5,000 messages survives a reload, is followed on another device, and stops", async () => {
  const port = await freePort();
  const origin = `http://127.0.0.1:${port}`;
  const secret = "0123456789abcdef0123456789abcdef";
  const redis = await startRedis();
  const node = await startNode({
    PUSH_REDIS_URL: redis.url, PUSH_ORIGINS: origin, PUSH_HOOK_SECRET: secret,
    PUSH_UPSTREAM_ROUTES: `ai.*=${origin}/`, ...rules("answer"),
  });
  const env = { ...process.env, PORT: `${port}`, PUSHNODE: node.url, PUSH_HOOK_SECRET: secret };
  const server = spawn("python3", ["-B", folder("examples/answer/server.py")], { env, stdio: "ignore" });
  atEnd(() => server.kill());
  await until("the backend answers", () => fetch(origin).then((answer) => answer.ok, () => false));
  const browser = await startBrowser();
  atEnd(() => browser.close());

  const page = await visit(browser, origin);
  const length = async (one: Page) => (await shown(one, "#text")).split(" ").length - 1;
  const ends = (one: Page, how: string, seconds = 20) =>
    until(`it is ${how}`, async () => (await shown(one, "#state")) === how, seconds * 1000);
  const isWhole = async (one: Page, count?: number) => {
    const numbers = [...(await shown(one, "#text")).matchAll(/\((\d+)\)/g)].map(([, number]) => +number!);
    const all = Array.from({ length: count ?? numbers.length }, (_, at) => at + 1);
    expect(numbers, "no token is missing, doubled or out of order").toEqual(all);
  };
  await page.click("button");
  await until("it has begun", async () => (await length(page)) > 1000);
  await page.reload();
  await until("it goes on", async () => (await length(page)) > 3000);
  const other = await visit(browser, page.url());
  for (const one of [page, other]) {
    await ends(one, "done", 120);
    await isWhole(one, 4999);
  }
  const began = Date.now();
  await page.reload();
  await ends(page, "done");
  console.log(`all 4,999 tokens are shown ${Date.now() - began} ms after a reload began`);
  await isWhole(page, 4999);

  await page.bringToFront();
  await page.click("button");
  await until("another one has begun", async () => (await shown(page, "#state")) === "writing");
  const device = await visit(browser, page.url());
  await until("it is there, too", async () => (await length(device)) > 10);
  await device.bringToFront();
  await device.click("#halt");
  for (const one of [page, device]) {
    await ends(one, "stopped");
    await isWhole(one);
  }
  expect(await shown(page, "#text")).toBe(await shown(device, "#text"));
}, 300_000);

test("cursors move, and leave with their user", async () => {
  const { origin, browser } = await stage("cursors", { PUSH_UPSTREAM_ROUTES: "board.*=board" });
  const ann = await visit(browser, `${origin}/?user=ann`);
  const bob = await visit(browser, `${origin}/?user=bob`);
  await until("both are here", async () => (await bob.title()) === "2 here" && (await ann.title()) === "2 here");
  await bob.bringToFront();
  const { width, height } = bob.viewport()!;
  for (let step = 1; step <= 10; step++) await bob.mouse.move((width * step) / 20, (height * step) / 20);
  const place = () =>
    ann.evaluate(() => {
      const { left, top } = document.querySelector<HTMLElement>(".cursor")?.style ?? {};
      return `${left} ${top}`;
    });
  await until("the last move has come", async () => (await place()) === "50% 50%");
  expect(await shown(ann, ".cursor")).toBe("bob");
  expect(await bob.$(".cursor"), "no cursor of its own").toBeNull();
  await bob.close();
  await until("bob's cursor is gone", async () => (await ann.$(".cursor")) === null);
});

test("the bell of the README counts, and has what was kept during a reload", async () => {
  const text = readFileSync(folder("README.md"), "utf8");
  const block = /^```html page\n(.*?)^```$/ms.exec(text)![1]!;
  expect(block.split("\n").length - 1, "ten lines, as is said").toBe(10);
  const { node, origin, browser } = await stage("README", {}, `<!doctype html><meta charset="utf-8">${block}`);
  const page = await visit(browser, origin);
  const push = (data: string) => node.push({ to: { user: "42" }, keep: true, data });
  await until("it is connected", async () => (await node.metric("connections")) === 1);
  await push("one");
  await until("it rings", async () => (await shown(page, "#count")) === "1");
  await page.goto("about:blank");
  await push("two");
  await push("three");
  await page.goto(origin);
  await until("it has what was kept", async () => (await shown(page, "#count")) === "2");
});
