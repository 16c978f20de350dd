// Networks that let no WebSocket through, and connects that are slower than the client waits.
import { connect } from "pushnode-js";
import { expect, test } from "vitest";
import { client, sleep, startNode, startPair, startProxy, until } from "./rig/index.js";

const backoff = { min: 20, max: 100 };

test.each(["forbid", "reset"] as const)("where a proxy has %s for WebSockets, events come by SSE", async (how) => {
  const [a, b] = await startPair();
  const proxy = await startProxy(a.port);
  proxy.webSockets = how;
  const push = client(proxy.url, { backoff });
  await push.ready();
  await b.push({ to: { user: "42" }, data: "by stream" });
  await until("it comes", () => push.log.some(([, data]) => data === "by stream"));
  await expect(push.send("x", 1)).rejects.toMatchObject({ code: "read_only" });
  // The same way again: the WebSocket is not tried at each reconnect.
  proxy.requests.length = 0;
  proxy.cut();
  await until("it is lost", () => push.state !== "connected");
  await push.ready();
  expect(proxy.requests.every((line) => line.startsWith("GET /sse"))).toBe(true);
  expect((await a.http("GET", "/v1/users/42")).connections).toHaveLength(1);
});

test("what is kept comes once and in order over event streams, too", async () => {
  const [a, b] = await startPair();
  const proxy = await startProxy(a.port, b.port);
  const push = client(proxy.url, { backoff, transports: ["sse"] });
  const got: number[] = [];
  push.on("message", (n) => got.push(n));
  await push.ready();
  for (let n = 1; n <= 60; n++) {
    await b.push({ to: { user: "42" }, keep: true, data: n });
    if (n % 4 === 0) {
      proxy.cut();
      await until("it is lost", () => push.state !== "connected" || proxy.open === 0);
    }
  }
  await until("the last has come", () => got.at(-1) === 60);
  expect(got).toEqual(Array.from({ length: 60 }, (_, n) => n + 1));
  expect(push.log.filter(([event]) => event === "gap")).toEqual([]);
  expect(proxy.most).toBe(1);
});

test("statuses of an event stream are seen: for good, later, or another token", async () => {
  const node = await startNode({ PUSH_AUTH: "session" });
  let asked = 0;
  const token = async ({ reason }: { reason: string }) => {
    asked++;
    if (reason === "connect") return "no-session-of-ours";
    return (await node.http("POST", "/v1/sessions", { user: "42", ttl_seconds: 60 })).token;
  };
  const push = client(node.url, { user: undefined, transports: ["sse"], token });
  await push.ready();
  expect([asked, push.user]).toEqual([2, "42"]);
  await node.http("PUT", "/v1/users/42/ban", { seconds: 60 });
  await until("the ban ends it", () => push.state === "closed");
  expect(push.log.at(-1)).toMatchObject(["state", "closed", { code: 4006 }]);
  const late = client(node.url, { user: undefined, transports: ["sse"], token });
  await until("it is refused", () => late.state === "closed");
  expect(late.log.at(-1)).toEqual(["state", "closed", { code: 4403, reason: "banned" }]);
});

test("connects that are slower than the client waits leave no second connection", async () => {
  const node = await startNode();
  const proxy = await startProxy(node.port);
  proxy.delay = 400;
  const push = client(proxy.url, { backoff, timeout: 150, transports: ["ws"] });
  await until("it has tried a few times", () => proxy.count >= 6);
  expect(push.state).not.toBe("connected");
  let most = 0;
  for (let look = 0; look < 20; look++) {
    most = Math.max(most, (await node.http("GET", "/v1/users/42")).connections.length);
    await sleep(20);
  }
  expect(most).toBe(0);
  proxy.delay = 0;
  await push.ready();
  await sleep(500);
  expect((await node.http("GET", "/v1/users/42")).connections).toHaveLength(1);
  expect(proxy.most).toBe(1);
});

test("a slow WebSocket gives way to the event stream in the same try", async () => {
  const node = await startNode();
  const proxy = await startProxy(node.port);
  const fetchNow: typeof fetch = (input, init) =>
    fetch(String(input).replace(/:\d+/, `:${node.port}`), init);
  proxy.delay = 60_000;
  const push = client(proxy.url, { timeout: 200, fetch: fetchNow, backoff: { min: 60_000 } });
  await push.ready();
  expect(push.log.map(([, state]) => state)).toEqual(["connected"]);
});

test("the URL may have a path, a query, any of four schemes, and an end of its own", async () => {
  const proxy = await startProxy();
  proxy.webSockets = "forbid";
  const host = proxy.url.slice(5);
  for (const url of [`http://${host}/`, `ws://${host}/ws`, `ws://${host}/push?x=1`]) {
    const push = connect(url, { user: "a b&c", device: "tab", backoff: { min: 60_000 } });
    const before = proxy.requests.length;
    await until("both were tried", () => proxy.requests.length === before + 2);
    push.close();
  }
  const paths = proxy.requests.map((line) => line.split(" ")[1]!);
  expect(paths[0]).toMatch(/^\/ws\?user=a%20b%26c&device=tab&/);
  expect(paths[1]).toMatch(/^\/sse\?user=a%20b%26c&device=tab&/);
  expect(paths[2]).toMatch(/^\/ws\?user=/);
  expect(paths[4]).toMatch(/^\/push\/ws\?x=1&user=/);
  expect(paths[5]).toMatch(/^\/push\/sse\?x=1&user=/);
});

test("an address that no WebSocket can have is an end, not a loop", async () => {
  const push = client("ws://127.0.0.1:1", { token: "not a token", transports: ["ws"] });
  await expect(push.ready()).rejects.toMatchObject({ code: "closed" });
});

test("a topic that is opened while a stream opens is in the next one", async () => {
  const node = await startNode();
  const proxy = await startProxy(node.port);
  proxy.delay = 500;
  const push = client(proxy.url, { transports: ["sse"] });
  await until("it is on its way", () => proxy.requests.length === 1);
  const topic = push.topic("late");
  const got: unknown[] = [];
  topic.on("message", (data) => got.push(data));
  await push.ready();
  await topic.ready();
  await node.push({ to: { topic: "late" }, data: "hello" });
  await until("it comes", () => got.length === 1);
  expect(proxy.requests.at(-1)).toContain("topics=late");
});

test("a topic that goes from a WebSocket to a stream has a gap, and says so", async () => {
  const node = await startNode();
  const proxy = await startProxy(node.port);
  const push = client(proxy.url, { backoff });
  const topic = push.topic("log");
  await topic.ready();
  await node.push({ to: { topic: "log" }, keep: true, data: 1 });
  let gaps = 0;
  topic.on("gap", () => gaps++);
  proxy.webSockets = "reset";
  proxy.cut();
  await until("it is back, by a stream", () => push.state === "connected" && proxy.requests.at(-1)!.includes("/sse"));
  expect(gaps).toBe(1);
  expect(push.log).toContainEqual(["gap", "log"]);
});
