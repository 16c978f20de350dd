// Sends to services: replies, errors, and what becomes of them when the connection is lost.
import { expect, test } from "vitest";
import { client, sleep, startNode, startProxy, startRedis, until } from "./rig/index.js";
import { startService, type Task } from "./rig/service.js";

async function stage(work: (task: Task) => unknown) {
  const redis = await startRedis();
  const node = await startNode({ PUSH_REDIS_URL: redis.url, PUSH_UPSTREAM_ROUTES: "chat.*=chat" });
  await startService(redis, "chat", work);
  const proxy = await startProxy(node.port);
  return { redis, node, proxy };
}

const backoff = { min: 20 };

test("a send is accepted, and resolves with the service's reply", async () => {
  const { proxy } = await stage(({ data, reply }) => reply({ echo: data.text }));
  const push = client(proxy.url);
  const sent = push.send("chat.say", { text: "hello" });
  await sent.accepted;
  expect(await sent).toEqual({ echo: "hello" });
  await expect(push.send("nobody.listens", 1)).rejects.toMatchObject({ code: "no_route" });
  const silent = await stage(() => {});
  const other = client(silent.proxy.url);
  const alone = other.send("chat.say", 1, { timeout: 700 });
  await alone.accepted;
  await expect(alone).rejects.toMatchObject({ code: "timeout" });
});

test("sends wait in order while there is no connection, and no more than the queue holds", async () => {
  const got: number[] = [];
  const { proxy } = await stage(({ data, reply }) => {
    got.push(data);
    reply(data);
  });
  proxy.mode = "refuse";
  const push = client(proxy.url, { backoff, queue: 60, timeout: 100_000 });
  const sends = Array.from({ length: 60 }, (_, n) => push.send("chat.say", n));
  await expect(push.send("chat.say", 61)).rejects.toMatchObject({ code: "queue_full" });
  await sleep(100);
  proxy.mode = "pass";
  // The node takes 20 in a second; the client waits where it is told to.
  expect(await Promise.all(sends)).toEqual(Array.from({ length: 60 }, (_, n) => n));
  expect([...got].sort((a, b) => a - b)).toEqual(Array.from({ length: 60 }, (_, n) => n));
});

test("a network that comes back between a WebSocket and a stream gives a WebSocket", async () => {
  const { proxy } = await stage(({ data, reply }) => reply(data));
  proxy.mode = "refuse";
  // It comes back as the stream is tried.
  const fetchNow: typeof fetch = (input, init) => {
    proxy.mode = "pass";
    return fetch(input, init);
  };
  const push = client(proxy.url, { backoff, fetch: fetchNow, timeout: 20_000 });
  expect(await push.send("chat.say", 1)).toBe(1);
  await until("the stream is closed", () => proxy.open === 1);
});

test("a send that cannot be sent in time fails, and is not sent later", async () => {
  const got: unknown[] = [];
  const { proxy } = await stage(({ data, reply }) => {
    got.push(data);
    reply(data);
  });
  proxy.mode = "refuse";
  const push = client(proxy.url, { backoff, timeout: 200 });
  await expect(push.send("chat.say", "late")).rejects.toMatchObject({ code: "timeout" });
  proxy.mode = "pass";
  await push.ready();
  expect(await push.send("chat.say", "after", { timeout: 9_000 })).toBe("after");
  expect(got).toEqual(["after"]);
});

test("what was sent without an answer is unknown, and repeated only if it may be", async () => {
  const tasks: Task[] = [];
  const { proxy } = await stage((task) => tasks.push(task));
  const push = client(proxy.url, { backoff });
  const once = push.send("chat.say", "once");
  const again = push.send("chat.say", "again", { idempotent: true });
  await until("the service has both", () => tasks.length === 2);
  proxy.cut();
  await expect(once).rejects.toMatchObject({ code: "unknown" });
  await until("the repeat has come", () => tasks.length === 3);
  expect(tasks.map(({ data }) => data)).toEqual(["once", "again", "again"]);
  expect(tasks[2]!.ref).toBe(tasks[1]!.ref);
  await tasks[2]!.reply("done");
  expect(await again).toBe("done");
});

test("a hundred topics and sends at once stay below the node's limits", async () => {
  const { proxy } = await stage(({ data, reply }) => reply(data));
  const push = client(proxy.url, { timeout: 30_000 });
  const topics = Array.from({ length: 100 }, (_, n) => push.topic(`t.${n}`));
  await Promise.all(topics.map((topic) => topic.ready()));
  for (let cut = 0; cut < 2; cut++) {
    proxy.cut();
    await until("it is lost", () => push.state !== "connected");
    await Promise.all(topics.map((topic) => topic.ready()));
  }
  expect(push.log.filter(([event]) => event === "error" || event === "gap")).toEqual([]);
  expect(push.state).toBe("connected");
});
