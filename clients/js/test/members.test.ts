// Members of a topic: what they publish, how many they are, and what the node tells of them.
import { once } from "node:events";
import { type Message, type Presence } from "pushnode-js";
import { WebSocketServer } from "ws";
import { expect, test } from "vitest";
import { atEnd, client, startNode, startPair, startProxy, until } from "./rig/index.js";

const RULES = {
  PUSH_TOPIC_RULES: JSON.stringify([
    { match: "chat.**", send: "members", keep: { messages: 50, every: true } },
    { match: "slow.**", send: "members", rate: 5, max_bytes: 100 },
    { match: "seen.**", presence: "count" },
  ]),
};

test("what a member publishes reaches the others, with its author, and itself if it asks", async () => {
  const [a, b] = await startPair(RULES);
  const ann = client(a.url, { user: "ann" });
  const bob = client(b.url, { user: "bob" });
  const got: Record<string, unknown[]> = { ann: [], bob: [] };
  for (const push of [ann, bob]) {
    const list = got[push === ann ? "ann" : "bob"]!;
    const room = push.topic("chat.1");
    room.on("message", (data, { from, event, kept }: Message) => {
      list.push([data, from?.user, event, kept]);
    });
  }
  await bob.topic("chat.1").ready();
  // Before the topic is subscribed: it waits until it is.
  await ann.topic("chat.1").publish("early");
  await ann.topic("chat.1").publish("hello", { event: "said", echo: true });
  await until("both came", () => got.bob!.length === 2 && got.ann!.length === 1);
  expect(got.bob).toEqual([
    ["early", "ann", undefined, true],
    ["hello", "ann", "said", true],
  ]);
  expect(got.ann).toEqual([["hello", "ann", "said", true]]);
});

test("a refused publish says why, and one that is too early comes later", async () => {
  const node = await startNode(RULES);
  const push = client(node.url);
  await expect(push.topic("news").publish(1)).rejects.toMatchObject({ code: "forbidden" });
  await expect(push.topic("slow.1").publish("x".repeat(100))).rejects.toMatchObject({
    code: "too_large",
  });
  const stream = client(node.url, { transports: ["sse"], user: "7" });
  await stream.ready();
  await expect(stream.topic("chat.1").publish(1)).rejects.toMatchObject({ code: "read_only" });
  const got: unknown[] = [];
  const other = client(node.url, { user: "8" }).topic("slow.1");
  other.on("message", (data) => got.push(data));
  await other.ready();
  // Five a second: the node says when the others may come.
  await Promise.all(Array.from({ length: 12 }, (_, n) => push.topic("slow.1").publish(n)));
  await until("all came", () => got.length === 12);
  expect(new Set(got).size).toBe(12);
});

test("a publish waits for a connection, and one without an answer is not repeated", async () => {
  const node = await startNode(RULES);
  const proxy = await startProxy(node.port);
  const got: unknown[] = [];
  const other = client(node.url, { user: "8" }).topic("chat.1");
  other.on("message", (data) => got.push(data));
  const push = client(proxy.url, { backoff: { min: 20, max: 50 } });
  const room = push.topic("chat.1");
  await Promise.all([other.ready(), room.ready()]);
  proxy.cut();
  await until("it is lost", () => push.state === "reconnecting");
  await room.publish("later");
  await until("it came", () => got.length === 1);
  proxy.swallow();
  const lost = room.publish("swallowed");
  proxy.cut();
  await expect(lost).rejects.toMatchObject({ code: "unknown" });
  await room.publish("last");
  await until("it came", () => got.includes("last"));
  expect(got).toEqual(["later", "last"]);
});

test("where a rule hides names, members are counted", async () => {
  const node = await startNode(RULES);
  const room = client(node.url).topic("seen.1", { presence: true });
  const told: Presence[] = [];
  room.on("presence", (now) => told.push(now));
  await until("one is there", () => room.count === 1);
  const other = client(node.url, { user: "7" });
  other.topic("seen.1");
  await until("two are there", () => room.count === 2);
  other.close();
  await until("one is left", () => room.count === 1);
  expect(told.map(({ count }) => count)).toEqual([1, 2, 1]);
  expect(told.every(({ members }) => members.size === 0)).toBe(true);
});

test("members have what the node tells of them", async () => {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  atEnd(() => server.close());
  server.on("connection", (socket) => {
    atEnd(() => socket.terminate());
    const say = (object: object) => socket.send(JSON.stringify(object));
    say({ type: "ready", node: "n", fd: 1, user: "42", beat_ms: 25_000 });
    socket.on("message", (text) => {
      const { type, topic, ref } = JSON.parse(String(text));
      if (type !== "subscribe") return;
      say({ type: "reply", ref, topic, status: "subscribed" });
      say({ type: "presence", topic, members: [{ user: "ann", info: { name: "Ann" } }, "bob"] });
      say({ type: "presence", topic, join: [{ user: "cid", info: 1 }], leave: ["bob"] });
      say({ type: "presence", topic, leave: [{ user: "ann", info: { name: "Ann" } }] });
    });
  });
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  const room = client(`ws://127.0.0.1:${port}`).topic("room", { presence: true });
  const told: unknown[] = [];
  room.on("presence", ({ members, joined, left, count }) => {
    told.push([[...members], joined, left, count]);
  });
  await until("all is told", () => told.length === 3);
  const ann = ["ann", { name: "Ann" }];
  expect(told).toEqual([
    [[ann, ["bob", undefined]], ["ann", "bob"], [], 2],
    [[ann, ["cid", 1]], ["cid"], ["bob"], 2],
    [[["cid", 1]], [], ["ann"], 1],
  ]);
});
