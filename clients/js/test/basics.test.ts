// What the first ten lines of an application do, on two nodes.
import { expect, test, vi } from "vitest";
import { PushError } from "pushnode-js";
import { client, next, startPair, startProxy, startNode, until } from "./rig/index.js";

test("pushes to the user, to everybody and to a topic arrive, from either node", async () => {
  const [a, b] = await startPair();
  const push = client(a.url);
  const got: unknown[] = [];
  push.on("message", (data, { topic, kept }) => got.push([data, topic, kept]));
  const news = push.topic("news");
  news.on("message", (data, { topic }) => got.push([data, topic]));
  await news.ready();
  expect([push.state, push.user, news.state]).toEqual(["connected", "42", "subscribed"]);
  expect(push.connection).toMatch(/^\S+\.\w+\/\d+$/);
  await b.push({ to: { user: "42" }, data: { n: 1 } });
  await b.push({ to: { all: true }, data: 2 });
  await a.push({ to: { topic: "news" }, data: "three" });
  await b.push({ to: { user: "42" }, keep: true, data: null });
  await until("all have come", () => got.length === 4);
  expect(got).toEqual(
    expect.arrayContaining([[{ n: 1 }, undefined, false], [2, undefined, false], ["three", "news"], [null, undefined, true]]),
  );
});

test("what has an id is acknowledged after its handlers, unless one threw", async () => {
  const node = await startNode();
  const push = client(node.url);
  await push.ready();
  const off = push.on("message", () => {
    throw new Error("on purpose");
  });
  const still = next(push, "message");
  const body = { to: { user: "42" }, wait: "acked", timeout_ms: 300, data: 1 };
  expect((await node.push({ ...body, id: "one" })).status).not.toBe("acked");
  expect(await still).toBe(1);
  expect(push.log.find(([event]) => event === "error")?.[1]).toMatchObject({ message: "on purpose" });
  off();
  expect((await node.push({ ...body, id: "two", timeout_ms: 9000 })).status).toBe("acked");

  const manual = client(node.url, { user: "7", ack: "manual" });
  manual.on("message", (_, message) => void setTimeout(() => message.ack(), 50));
  await manual.ready();
  const answer = await node.push({ ...body, to: { user: "7" }, id: "three", timeout_ms: 9000 });
  expect(answer.status).toBe("acked");
});

test("a topic is one subscription for all its handles, and ends with the last", async () => {
  const node = await startNode();
  const push = client(node.url);
  const [one, two] = [push.topic("news"), push.topic("news")];
  const got: string[] = [];
  one.on("message", (data) => got.push("one " + data));
  two.on("message", (data) => got.push("two " + data));
  await Promise.all([one.ready(), two.ready()]);
  await node.push({ to: { topic: "news" }, data: 1 });
  await until("both have it", () => got.length === 2);
  one.close();
  await node.push({ to: { topic: "news" }, data: 2 });
  await until("the other has it", () => got.length === 3);
  expect(got).toEqual(["one 1", "two 1", "two 2"]);
  two.close();
  await until("the node knows", async () => {
    return (await node.push({ to: { topic: "news" }, data: 3 })).status === "offline";
  });
  expect([one.state, two.state]).toEqual(["closed", "closed"]);
});

test("a topic is read by for await, until it is closed", async () => {
  const node = await startNode();
  const push = client(node.url);
  const topic = push.topic<"count">("count");
  await topic.ready();
  const read = (async () => {
    const got: unknown[] = [];
    for await (const n of topic) if (got.push(n) === 3) topic.close();
    return got;
  })();
  for (const data of [1, 2, 3]) await node.push({ to: { topic: "count" }, data });
  expect(await read).toEqual([1, 2, 3]);
});

test("presence lists members, and tells who joined and who left", async () => {
  const [a, b] = await startPair({ PUSH_PRESENCE_GRACE_SECONDS: "0" });
  const ann = client(a.url, { user: "ann" });
  const room = ann.topic("room", { presence: true });
  const seen: unknown[] = [];
  room.on("presence", ({ members, joined, left }) => seen.push([[...members.keys()], joined, left]));
  await until("she sees herself", () => room.members?.has("ann"));
  const bob = client(b.url, { user: "bob" });
  bob.topic("room");
  await until("bob is there", () => room.members?.has("bob"));
  expect(seen.at(-1)).toEqual([["ann", "bob"], ["bob"], []]);
  bob.close();
  await until("bob has left", () => !room.members!.has("bob"));
  expect(seen.at(-1)).toEqual([["ann"], [], ["bob"]]);
});

test("a refused topic is closed with the reason, and the client goes on", async () => {
  const node = await startNode({ PUSH_TOPICS: "news" });
  const push = client(node.url);
  const secret = push.topic("secret");
  const news = push.topic("news");
  const closed = new Promise<PushError>((resolve) => secret.on("closed", resolve));
  expect((await closed).code).toBe("forbidden");
  await expect(secret.ready()).rejects.toMatchObject({ code: "forbidden" });
  await expect(secret[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: "forbidden" });
  await news.ready();
  expect(push.state).toBe("connected");
});

test("a sender subscribes and unsubscribes, and is told of", async () => {
  const node = await startNode();
  const push = client(node.url);
  await push.ready();
  await node.http("PUT", "/v1/topics/deal/users/42");
  await node.push({ to: { topic: "deal" }, data: "for you" });
  await until("it comes without a handle", () =>
    push.log.some(([event, data]) => event === "message" && data === "for you"),
  );
  const own = push.topic("own");
  await own.ready();
  await node.http("DELETE", "/v1/topics/own/users/42");
  await until("the handle is closed", () => own.state === "closed");
  expect(push.log.filter(([event]) => event === "topic")).toEqual([
    ["topic", "deal", "subscribed"],
    ["topic", "own", "unsubscribed"],
  ]);
});

test("calls are answered, and a handler that throws is an error for the caller", async () => {
  const node = await startNode();
  const push = client(node.url);
  await push.ready();
  const call = (ask: unknown) =>
    node.http("POST", "/v1/call", { to: { user: "42" }, data: ask }).catch(String);
  const off = push.answer(async (ask) => {
    if (ask === "fail") throw new Error("no battery");
    return { percent: 81 };
  });
  expect(JSON.stringify(await call("battery"))).toContain('{"percent":81}');
  expect(JSON.stringify(await call("fail"))).toContain("no battery");
  off();
  expect(JSON.stringify(await call("battery"))).toContain("no handler");
});

test("ready rejects once its client or handle is closed, or when its signal says so", async () => {
  const proxy = await startProxy();
  const push = client(proxy.url);
  const abort = new AbortController();
  const aborted = push.ready(abort.signal);
  abort.abort(new Error("enough"));
  await expect(aborted).rejects.toThrow("enough");
  const topic = push.topic("soon");
  const early = topic.ready();
  topic.close();
  await expect(early).rejects.toMatchObject({ code: "closed" });
  const closed = push.ready();
  push.close();
  await expect(closed).rejects.toMatchObject({ code: "closed" });
  await expect(push.send("x", 1)).rejects.toMatchObject({ code: "closed" });
  expect(push.topic("late").state).toBe("closed");
  expect(push.log.at(-1)).toEqual(["state", "closed", { code: 1000, reason: "goodbye" }]);
});

test("a handler of errors that throws is logged, and stops nothing", async () => {
  const node = await startNode();
  const push = client(node.url);
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  push.on("error", () => {
    throw new Error("while handling");
  });
  push.on("message", () => {
    throw new Error("first");
  });
  await push.ready();
  const came = next(push, "message");
  await node.push({ to: { user: "42" }, data: 1 });
  expect(await came).toBe(1);
  expect(warn.mock.calls.map(([, error]) => error.message)).toEqual(["while handling"]);
  warn.mockRestore();
});
