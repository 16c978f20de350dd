// Names of pushes, beats, refusals that a WebSocket shows, many topics in one request.
import { expect, test } from "vitest";
import { client, listening, sleep, startNode, startPair, startProxy, until } from "./rig/index.js";

test("pushes are told apart by their names, over both transports", async () => {
  const [a, b] = await startPair();
  for (const transport of ["ws", "sse"] as const) {
    const push = client(a.url, { user: transport, transports: [transport] });
    const paid: unknown[] = [];
    push.on(":order.paid", (data, { event, topic }) => paid.push([data, event, topic]));
    const orders = push.topic("orders");
    const all: unknown[] = [];
    orders.on("message", (data, { event }) => all.push([data, event]));
    await orders.ready();
    await b.push({ to: { user: transport }, event: "order.paid", keep: true, data: 1 });
    await b.push({ to: { topic: "orders" }, event: "order.paid", data: 2 });
    await b.push({ to: { topic: "orders" }, event: "order.sent", data: 3 });
    await until("all came", () => all.length === 2 && paid.length === 2);
    expect(paid.sort()).toEqual([
      [1, "order.paid", undefined],
      [2, "order.paid", "orders"],
    ]);
    expect(all).toEqual([
      [2, "order.paid"],
      [3, "order.sent"],
    ]);
    push.close();
  }
});

test("a node that beats is not asked, and its silence is noticed", async () => {
  const node = await startNode({ PUSH_PING_SECONDS: "1", PUSH_PONG_SECONDS: "2" });
  const proxy = await startProxy(node.port);
  const { sent, WebSocket } = listening();
  const push = client(proxy.url, { WebSocket, backoff: { min: 20 }, transports: ["ws"] });
  await push.ready();
  await sleep(4_500);
  expect(sent.length).toBeGreaterThanOrEqual(3);
  expect(sent.every(({ type }) => type === "pong")).toBe(true);
  const began = Date.now();
  const states: string[] = [];
  push.on("state", (state) => states.push(state));
  proxy.swallow();
  await until("it knows", () => states.includes("reconnecting"));
  const took = Date.now() - began;
  expect(took).toBeGreaterThan(8_000);
  await push.ready();
});

test("a WebSocket alone sees why it is refused", async () => {
  const node = await startNode({ PUSH_AUTH: "session" });
  const reasons: string[] = [];
  const push = client(node.url, {
    user: undefined,
    transports: ["ws"],
    token: async ({ reason }) => {
      reasons.push(reason);
      if (reason === "connect") return "no-session-of-ours";
      return (await node.http("POST", "/v1/sessions", { user: "42", ttl_seconds: 60 })).token;
    },
  });
  await push.ready();
  expect(reasons).toEqual(["connect", "refused"]);
  await node.http("PUT", "/v1/users/42/ban", { seconds: 60 });
  const late = client(node.url, {
    user: undefined,
    transports: ["ws"],
    token: (await node.http("POST", "/v1/sessions", { user: "42", ttl_seconds: 60 })).token,
  });
  await until("it is closed", () => late.state === "closed");
  expect(late.log.at(-1)).toEqual(["state", "closed", { code: 4403, reason: "banned" }]);
});

test("ninety topics are one request, and one that is refused is one", async () => {
  const node = await startNode({ PUSH_TOPICS: "t.*" });
  const proxy = await startProxy(node.port);
  const { sent, WebSocket } = listening();
  const push = client(proxy.url, { WebSocket, backoff: { min: 20 }, transports: ["ws"] });
  const topics = Array.from({ length: 90 }, (_, n) => push.topic(`t.${n}`));
  const secret = push.topic("secret");
  await Promise.all(topics.map((topic) => topic.ready()));
  await expect(secret.ready()).rejects.toMatchObject({ code: "forbidden" });
  await node.push({ to: { topic: "t.7" }, keep: true, data: 1 });
  const got: unknown[] = [];
  topics[7]!.on("message", (data) => got.push(data));
  await until("it has come", () => got.length === 1);
  for (let cut = 2; cut < 5; cut++) {
    proxy.cut();
    await until("it is lost", () => push.state !== "connected");
    await node.push({ to: { topic: "t.7" }, keep: true, data: cut });
    await until("it has come", () => got.length === cut);
  }
  expect(got).toEqual([1, 2, 3, 4]);
  const asked = sent.filter(({ type }) => type === "subscribe");
  expect(asked.map(({ topics }) => topics.length)).toEqual([91, 90, 90, 90]);
});
