// The last messages of a topic, and paging backwards.
import { expect, test } from "vitest";
import { client, startNode, startPair, startProxy, until } from "./rig/index.js";

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, n) => from + n);

test("a topic begins with its last messages, goes on live, and pages backwards", async () => {
  const [a, b] = await startPair();
  const keep = (n: number) => a.push({ to: { topic: "chat.1" }, keep: true, id: `m${n}`, data: n });
  for (const n of range(1, 30)) await keep(n);
  const proxy = await startProxy(b.port);
  const push = client(proxy.url, { backoff: { min: 20, max: 100 } });
  const room = push.topic("chat.1", { last: 10 });
  const got: unknown[] = [];
  let oldest: string | undefined;
  room.on("message", (data, { position, kept }) => {
    oldest ??= position;
    expect(kept).toBe(true);
    got.push(data);
  });
  await room.ready();
  await keep(31);
  await until("the last and a live one", () => got.length >= 11);
  expect(got).toEqual(range(21, 31));

  const past = await room.history({ before: oldest, limit: 15 });
  expect(past.messages.map(({ data }) => data)).toEqual(range(6, 20));
  expect([past.more, past.messages[0]!.id]).toEqual([true, "m6"]);
  const rest = await room.history({ before: past.messages[0]!.entry });
  expect(rest.messages.map(({ data }) => data)).toEqual(range(1, 5));
  expect(rest.more).toBe(false);
  await expect(room.history({ limit: 101 })).rejects.toMatchObject({ code: "bad_message" });

  // It comes back to where it was, not to the last ones again.
  proxy.cut();
  await until("it knows", () => push.state === "reconnecting");
  await keep(32);
  await until("what it missed", () => got.length >= 12);
  await keep(33);
  await until("what is new", () => got.length >= 13);
  expect(got).toEqual(range(21, 33));
});

test("there is no history over server-sent events", async () => {
  const node = await startNode();
  const push = client(node.url, { transports: ["sse"] });
  const room = push.topic("chat.1");
  await room.ready();
  await expect(room.history()).rejects.toMatchObject({ code: "read_only" });
});
