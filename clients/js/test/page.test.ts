// What the page around the client does, by events that the test makes. test/browser.test.ts does
// the same to a real browser.
import { expect, test } from "vitest";
import { client, sleep, startNode, startProxy, until } from "./rig/index.js";

/** As much of a window as the client looks at. */
class Page extends EventTarget {
  document = { hidden: false };
  navigator = { onLine: true };
  say(type: string) {
    this.dispatchEvent(new Event(type));
  }
}

const backoff = { min: 60_000 };

async function stage() {
  const node = await startNode();
  const proxy = await startProxy(node.port);
  const events = new Page();
  const push = client(proxy.url, { events, backoff, transports: ["ws"] });
  await push.ready();
  return { node, proxy, events, push };
}

test.each(["visibilitychange", "online", "pageshow", "resume"])("%s ends a pause", async (type) => {
  const { proxy, events, push } = await stage();
  proxy.cut();
  await until("it waits", () => push.state === "reconnecting");
  await sleep(100);
  expect(push.state).toBe("reconnecting");
  events.say(type);
  await push.ready();
});

test("a page that becomes hidden wakes nothing", async () => {
  const { proxy, events, push } = await stage();
  proxy.cut();
  await until("it waits", () => push.state === "reconnecting");
  events.document.hidden = true;
  events.say("visibilitychange");
  await sleep(200);
  expect(proxy.count).toBe(1);
  events.document.hidden = false;
  events.say("visibilitychange");
  await push.ready();
});

test("a page that comes back finds out within three seconds that its connection is dead", async () => {
  const { proxy, events, push } = await stage();
  events.say("visibilitychange");
  await sleep(3_300);
  expect(push.state).toBe("connected");
  proxy.swallow();
  const began = Date.now();
  const states: string[] = [];
  push.on("state", (state) => states.push(state));
  events.say("visibilitychange");
  await until("it knows", () => states.includes("reconnecting"));
  expect(Date.now() - began).toBeGreaterThan(2_500);
});

test("offline leaves the connection alone, and makes no tries", async () => {
  const { proxy, events, push } = await stage();
  events.navigator.onLine = false;
  events.say("offline");
  await sleep(100);
  expect(push.state).toBe("connected");
  proxy.cut();
  await until("it waits", () => push.state === "reconnecting");
  events.say("visibilitychange");
  await sleep(300);
  expect(proxy.count).toBe(1);
  events.navigator.onLine = true;
  events.say("online");
  await push.ready();
  expect(proxy.count).toBe(2);
});

test("a page that is left closes, and resumes when it is shown again", async () => {
  const { node, proxy, events, push } = await stage();
  const got: unknown[] = [];
  push.on("message", (data) => got.push(data));
  events.say("pagehide");
  // As browsers do, in this order.
  events.document.hidden = true;
  events.say("visibilitychange");
  await until("it is closed", () => proxy.open === 0);
  await node.push({ to: { user: "42" }, keep: true, data: "meanwhile" });
  await sleep(200);
  expect([push.state, proxy.count]).toEqual(["reconnecting", 1]);
  events.document.hidden = false;
  events.say("pageshow");
  await until("it has what came meanwhile", () => got.length === 1);
  expect(got).toEqual(["meanwhile"]);
  push.close();
  events.say("pageshow");
  await sleep(200);
  expect(proxy.count).toBe(2);
});

test("a reload of the page resumes from its session storage, and another user does not", async () => {
  const node = await startNode();
  const data = new Map<string, string>();
  const storage = {
    getItem: (key: string) => data.get(key) ?? null,
    setItem: (key: string, value: string) => void data.set(key, value),
  };
  (globalThis as any).sessionStorage = storage;
  const load = (user = "42") => {
    const push = client(node.url, { user, resume: "session", transports: ["ws"] });
    const got: unknown[] = [];
    push.on("message", (data) => got.push(data));
    const topic = push.topic("log");
    topic.on("message", (data) => got.push("log " + data));
    return { push, got, topic };
  };
  const first = load();
  await first.topic.ready();
  await node.push({ to: { user: "42" }, keep: true, data: 1 });
  await node.push({ to: { topic: "log" }, keep: true, data: 1 });
  await until("both have come", () => first.got.length === 2);
  first.push.close();
  await node.push({ to: { user: "42" }, keep: true, data: 2 });
  await node.push({ to: { topic: "log" }, keep: true, data: 2 });
  const second = load();
  await until("both have come", () => second.got.length === 2);
  expect(second.got.sort()).toEqual([2, "log 2"]);
  second.push.close();
  await node.push({ to: { user: "42" }, keep: true, data: 3 });
  const other = load("7");
  await other.topic.ready();
  expect([other.push.user, other.got, other.topic.state]).toEqual(["7", [], "subscribed"]);
  delete (globalThis as any).sessionStorage;
});

test("without resuming, what was kept while it was away does not come", async () => {
  const { node, proxy } = await stage();
  const push = client(proxy.url, { user: "7", resume: false, transports: ["ws"], backoff: { min: 300 } });
  const topic = push.topic("log");
  topic.on("message", (data) => push.log.push(["message", data]));
  await topic.ready();
  await node.push({ to: { user: "7" }, keep: true, data: 1 });
  await until("it comes", () => push.log.some(([event]) => event === "message"));
  proxy.cut();
  await until("it waits", () => push.state === "reconnecting");
  await node.push({ to: { user: "7" }, keep: true, data: 2 });
  await node.push({ to: { topic: "log" }, keep: true, data: 2 });
  await topic.ready();
  await node.push({ to: { user: "7" }, data: 3 });
  await until("the next comes", () => push.log.some(([, data]) => data === 3));
  expect(push.log.filter(([event]) => event === "message").map(([, data]) => data)).toEqual([1, 3]);
});
