// Two hundred forced cuts of four kinds, with a checker: what is kept arrives once and in order,
// topics and presence are as they were, and a client has never more than one connection.
import { expect, test } from "vitest";
import {
  atEnd,
  client,
  freePort,
  type Node,
  sleep,
  startNode,
  startProxy,
  startRedis,
  until,
} from "./rig/index.js";

const CLIENTS = 8;
const CUTS_OF_ONE = 26;
const TOPICS = ["log.a", "log.b", "log.c"];
const WAYS = ["socket reset", "black hole", "node killed", "node drained"] as const;
type Way = (typeof WAYS)[number];

test("nothing that is kept is lost, doubled or out of order in 200 cuts", async () => {
  const redis = await startRedis();
  const ports = [await freePort(), await freePort()];
  const start = (which: number): Promise<Node> =>
    startNode({
      PUSH_REDIS_URL: redis.url,
      PUSH_NODE_NAME: `cut-${which}`,
      PUSH_LISTEN: `127.0.0.1:${ports[which]}`,
      PUSH_KEEP_MESSAGES: "100000",
      PUSH_KEEP_BYTES: "100000000",
      PUSH_PRESENCE_GRACE_SECONDS: "10",
    });
  const nodes = [await start(0), await start(1)];
  const sender = await startNode({ PUSH_REDIS_URL: redis.url, PUSH_NODE_NAME: "sender" });

  /** How long clients were away, by what cut them off. */
  const away: Record<Way, number[]> = { "socket reset": [], "black hole": [], "node killed": [], "node drained": [] };
  /** What became of the nodes last. */
  let ofNodes: Way = "node killed";

  const clients = await Promise.all(
    Array.from({ length: CLIENTS }, async (_, which) => {
      const proxy = await startProxy(...(which % 2 ? ports : [...ports].reverse()));
      const events = new EventTarget();
      const user = `u${which}`;
      const push = client(proxy.url, {
        user,
        events,
        transports: ["ws"],
        backoff: { min: 20, max: 300, stable: 100 },
      });
      const got: Record<string, number[]> = { inbox: [] };
      push.on("message", (n) => got.inbox!.push(n));
      for (const name of TOPICS) {
        got[name] = [];
        push.topic(name).on("message", (n: number) => got[name]!.push(n));
      }
      const room = push.topic("room", { presence: true });
      let losses = 0;
      let lost: { way: Way; at: number } | undefined;
      const own: { way?: Way } = {}; // what the test has done to this client
      push.on("state", (state) => {
        if (state === "connected" && lost) {
          away[lost.way].push(Date.now() - lost.at);
          lost = undefined;
        }
        if (state !== "reconnecting") return;
        losses++;
        lost ??= { way: own.way ?? ofNodes, at: Date.now() };
        own.way = undefined;
      });
      await push.ready();
      await Promise.all(TOPICS.map((name) => push.topic(name).ready()));
      return { proxy, events, user, push, got, room, own, losses: () => losses };
    }),
  );

  // What is sent: a number to each user's inbox and to each topic, all the time.
  let isOver = false;
  let n = 0;
  const sending = (async () => {
    while (!isOver) {
      n++;
      await sender.push({ to: { users: clients.map(({ user }) => user) }, keep: true, data: n });
      for (const topic of TOPICS) await sender.push({ to: { topic }, keep: true, data: n });
      await sleep(15);
    }
  })();
  sending.catch(() => {});
  atEnd(() => (isOver = true));

  // Nodes that are killed, and nodes that leave.
  const restarting = (async () => {
    for (let round = 0; !isOver && round < 8; round++) {
      const which = round % 2;
      ofNodes = round % 4 < 2 ? "node killed" : "node drained";
      await (ofNodes === "node killed" ? nodes[which]!.kill() : nodes[which]!.drain());
      nodes[which] = await start(which);
      await sleep(300);
    }
  })();
  const cutting = clients.map(async ({ proxy, events, push, own, losses }, which) => {
    for (let cut = 0; losses() < CUTS_OF_ONE; cut++) {
      await push.ready();
      await sleep(Math.random() * 200);
      if ((cut + which) % 15 === 5) {
        // A black hole, which the client is made to look for: it asks, and has no answer for 3 s.
        own.way = "black hole";
        proxy.swallow();
        const count = proxy.count;
        await until("it connects again", () => {
          events.dispatchEvent(new Event("online"));
          return proxy.count > count;
        });
      } else {
        own.way = "socket reset";
        proxy.cut();
      }
      await until("it knows", () => push.state !== "connected" || proxy.open);
    }
  });
  await Promise.all([...cutting, restarting]);
  isOver = true;
  await sending;

  const losses = clients.reduce((sum, { losses }) => sum + losses(), 0);
  const all = Array.from({ length: n }, (_, at) => at + 1);
  for (const { got, push, proxy, room } of clients) {
    await push.ready();
    for (const name of ["inbox", ...TOPICS]) {
      await until(`the last of ${n} comes`, () => got[name]!.at(-1) === n).catch(() => {});
      const wrong = got[name]!.findIndex((one, at) => one !== all[at]);
      const near = got[name]!.slice(Math.max(0, wrong - 3), wrong + 3);
      expect(wrong, `${name}: ${near} around the first that is wrong`).toBe(-1);
      expect(got[name]).toHaveLength(n);
    }
    // A gap may be told all the same: the node cannot prove it of what is not kept.
    expect(push.log.filter(([event]) => event === "error")).toEqual([]);
    expect(proxy.most).toBe(1);
    await until("all are in the room", () => room.members?.size === CLIENTS);
  }
  console.log(`${losses} connections lost, ${n} kept messages in each of ${1 + TOPICS.length} logs`);
  console.log("none lost, none doubled, none misplaced\nway            cuts  away p50     p99");
  for (const way of WAYS) {
    const times = away[way].sort((a, b) => a - b);
    const at = (share: number) => `${times[Math.floor(share * (times.length - 1))]} ms`.padStart(8);
    const cuts = String(times.length).padStart(6);
    console.log(`${way.padEnd(13)}${cuts}  ${at(0.5)}${at(0.99)}`);
    expect(times.length, way).toBeGreaterThan(0);
  }
  expect(losses).toBeGreaterThanOrEqual(200);

  // The topics are subscribed still: what is not kept arrives as well.
  await sender.push({ to: { topics: TOPICS }, data: -1 });
  for (const { got } of clients) {
    for (const name of TOPICS) await until("it comes live", () => got[name]!.at(-1) === -1);
  }
});
