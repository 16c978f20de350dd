// A thousand clients in one process: their memory, and how long they are away when their node is
// killed. Figures are printed; only that all come back is asserted.
import { connect, type Client } from "pushnode-js";
import { expect, test } from "vitest";
import { atEnd, startPair, until } from "./rig/index.js";

const COUNT = 1_000;

// By itself (`npm run figures`): beside other tests it would measure those.
test.skipIf(!process.env.FIGURES)("a thousand clients come back to another node when theirs is killed", async () => {
  const [a, b] = await startPair();
  let port = a.port;
  const open = (n: number) =>
    // As by a load balancer that knows who lives.
    connect("ws://127.0.0.1", {
      user: `u${n}`,
      transports: ["ws"],
      WebSocket: class {
        constructor(url: string, protocols?: string[]) {
          return new WebSocket(url.replace("127.0.0.1", `127.0.0.1:${port}`), protocols);
        }
      } as any,
    });
  globalThis.gc?.();
  const before = process.memoryUsage();
  const clients: Client[] = [];
  atEnd(() => clients.forEach((push) => push.close()));
  for (let n = 0; n < COUNT; n++) {
    clients.push(open(n));
    if (n % 100 === 99) await Promise.all(clients.slice(-100).map((push) => push.ready()));
  }
  globalThis.gc?.();
  const after = process.memoryUsage();
  const kib = (name: "rss" | "heapUsed") => ((after[name] - before[name]) / 1024 / COUNT).toFixed(1);
  console.log(`a client with its socket: ${kib("heapUsed")} KiB of heap, ${kib("rss")} KiB of memory`);

  port = b.port;
  const back: number[] = [];
  const began = Date.now();
  for (const push of clients) {
    push.on("state", (state) => state === "connected" && void back.push(Date.now() - began));
  }
  await a.kill();
  await until("all are back", () => back.length === COUNT);
  back.sort((x, y) => x - y);
  const at = (share: number) => back[Math.floor(share * (COUNT - 1))];
  console.log(`from the kill to connected: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, all ${at(1)} ms`);
  for (let n = 0; n < COUNT; n += 50) {
    // The dead node's row may stand still.
    const { connections } = await b.http("GET", `/v1/users/u${n}`);
    const here = connections.filter((one: object) => JSON.stringify(one).includes(`"${b.name}.`));
    expect(here).toHaveLength(1);
  }
});
