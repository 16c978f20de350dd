// A real browser, by the DevTools protocol: the script for pages, hidden and frozen tabs, a network
// that goes away, and the back/forward cache.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { Browser, Page } from "puppeteer-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startBrowser } from "./rig/browser.js";
import { atEnd, startNode, startProxy, until } from "./rig/index.js";

const script = readFileSync(new URL("../dist/pushnode.js", import.meta.url), "utf8");

let browser: Browser;

test("nodes serve what the sources make", () => {
  const served = readFileSync(new URL("../../../src/api/pushnode.js", import.meta.url), "utf8");
  expect(served === script, "run `npm run served`, and commit src/api/pushnode.js").toBe(true);
});

beforeAll(async () => {
  browser = await startBrowser();
});
afterAll(() => browser?.close());

/** A page of an application, and its node behind a proxy. */
async function stage() {
  const server = createServer((request, answer) => {
    answer.setHeader("content-type", request.url === "/pushnode.js" ? "text/javascript" : "text/html");
    if (request.url === "/pushnode.js") answer.end(script);
    else if (request.url === "/other") answer.end("<title>other</title>");
    else answer.end(`<script src="/pushnode.js"></script>`);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const origin = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
  const node = await startNode({ PUSH_ORIGINS: origin });
  const proxy = await startProxy(node.port);
  const page = await browser.newPage();
  atEnd(async () => {
    await page.close();
    server.closeAllConnections();
    server.close();
  });
  await page.goto(origin);
  await page.evaluate((url) => {
    const all = window as any;
    all.log = [];
    all.push = all.pushnode.connect(url, { user: "42", backoff: { min: 200, max: 400 } });
    all.push.on("message", (data: unknown) => all.log.push(data));
    all.push.on("state", (state: string) => all.log.push(state));
  }, proxy.url);
  await is(page, "connected");
  return { node, proxy, page, origin };
}

const state = (page: Page) => page.evaluate(() => (window as any).push.state as string);
const is = (page: Page, wanted: string) => until(wanted, async () => (await state(page)) === wanted);
const log = (page: Page) => page.evaluate(() => (window as any).log as unknown[]);

test("the script for pages connects, receives, and sees a refusal by SSE", async () => {
  const { node, proxy, page } = await stage();
  await node.push({ to: { user: "42" }, data: "hello" });
  await until("it comes", async () => (await log(page)).includes("hello"));
  proxy.webSockets = "forbid";
  await page.evaluate((url) => {
    const all = window as any;
    all.second = all.pushnode.connect(url, { user: "7" });
    return all.second.ready();
  }, proxy.url);
  expect(proxy.requests.at(-1)).toContain("GET /sse");
  await node.http("PUT", "/v1/users/8/ban", { seconds: 60 });
  await page.evaluate((url) => {
    const all = window as any;
    all.third = all.pushnode.connect(url, { user: "8" });
    all.third.on("state", (state: string, why: object) => (all.why = [state, why]));
  }, proxy.url);
  const why = await until("it is told", () => page.evaluate(() => (window as any).why));
  expect(why).toEqual(["closed", { code: 4403, reason: "banned" }]);
});

// Chromium may cut the connection of a page that it freezes, and may not.
test("a frozen page comes back with what was kept, once", async () => {
  const { node, proxy, page } = await stage();
  const session = await page.createCDPSession();
  for (const cuts of [false, true]) {
    const data = cuts ? "while cut off" : "while frozen";
    await session.send("Page.setWebLifecycleState", { state: "frozen" });
    if (cuts) proxy.cut();
    await node.push({ to: { user: "42" }, keep: true, data });
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    await session.send("Page.setWebLifecycleState", { state: "active" });
    await until("it comes", async () => (await log(page)).includes(data));
    await is(page, "connected");
  }
  const data = (await log(page)).filter((one) => String(one).startsWith("while"));
  expect(data).toEqual(["while frozen", "while cut off"]);
  expect(proxy.most).toBe(1);
});

test("a page without a network makes no tries, and comes back with it", async () => {
  const { proxy, page } = await stage();
  await page.setOfflineMode(true);
  await until("the page knows", () => page.evaluate(() => !navigator.onLine));
  proxy.cut();
  await is(page, "reconnecting");
  const before = proxy.count;
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  expect(proxy.count).toBe(before);
  await page.setOfflineMode(false);
  await is(page, "connected");
});

test("a page goes into the back/forward cache, and resumes when it comes out", async () => {
  const { node, proxy, page, origin } = await stage();
  await page.evaluate(() => {
    (window as any).marked = true;
    window.addEventListener("pageshow", (event) => ((window as any).persisted = event.persisted));
  });
  await page.goto(origin + "/other");
  await until("its connection is closed", () => proxy.open === 0);
  await node.push({ to: { user: "42" }, keep: true, data: "meanwhile" });
  await page.goBack();
  await until("the page is the same", () => page.evaluate(() => (window as any).marked === true));
  expect(await page.evaluate(() => (window as any).persisted)).toBe(true);
  await until("it has what came meanwhile", async () => (await log(page)).includes("meanwhile"));
});

test("a hidden tab keeps its connection, and has what came", async () => {
  const { node, proxy, page } = await stage();
  const session = await page.createCDPSession();
  await session.send("Emulation.setIdleOverride", { isUserActive: false, isScreenUnlocked: false });
  const front = await browser.newPage();
  await front.bringToFront();
  for (let n = 0; n < 3; n++) await node.push({ to: { user: "42" }, data: n });
  await until("all came", async () => (await log(page)).includes(2));
  await page.bringToFront();
  await front.close();
  expect(await log(page)).toEqual(["connected", 0, 1, 2]);
  expect(proxy.count).toBe(1);
});
