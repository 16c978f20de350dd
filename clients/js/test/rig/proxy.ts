// A TCP proxy between the client and the nodes, which does what networks do: it resets
// connections, swallows what passes, answers late, and lets no WebSocket through. It counts the
// connections of the client that are open at the same time.
import { createConnection, createServer, type Socket } from "node:net";
import { atEnd } from "./process.js";

type Mode = "pass" | "refuse" | "swallow";

export interface Proxy {
  url: string;
  /** The ports behind it, of which it takes the first that answers. */
  targets: number[];
  mode: Mode;
  /** WebSocket handshakes: passed on, answered 403, or reset. */
  webSockets: "pass" | "forbid" | "reset";
  /** Milliseconds before a connection is passed on. */
  delay: number;
  /** Connections so far, open now, and at most at the same time. */
  readonly count: number;
  readonly open: number;
  most: number;
  /** First lines of the requests. */
  readonly requests: string[];
  /** Resets all connections. */
  cut(): void;
  /** Passes nothing on of the connections that are open now, and closes none. */
  swallow(): void;
}

export async function startProxy(...targets: number[]): Promise<Proxy> {
  const live = new Set<{ client: Socket; server?: Socket; isSwallowed: boolean }>();
  const server = createServer((client) => {
    proxy.count++;
    const pair: { client: Socket; server?: Socket; isSwallowed: boolean } = {
      client,
      isSwallowed: proxy.mode === "swallow",
    };
    live.add(pair);
    // What was swallowed is over for the client, which cannot tell the other side.
    const seen = [...live].filter((one) => !one.isSwallowed).length;
    proxy.most = Math.max(proxy.most, seen);
    const end = () => {
      live.delete(pair);
      client.destroy();
      pair.server?.destroy();
    };
    client.on("error", end);
    client.on("close", end);
    if (proxy.mode === "refuse") return void client.resetAndDestroy();
    client.once("data", (head) => {
      const line = head.toString().split("\r\n")[0]!;
      proxy.requests.push(line);
      if (/^GET \S*\/ws[? ]/.test(line) && proxy.webSockets !== "pass") {
        if (proxy.webSockets === "reset") client.resetAndDestroy();
        else client.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
      }
      client.pause();
      const go = () => {
        if (!live.has(pair)) return;
        connect([...proxy.targets], (upstream) => {
          if (!upstream || !live.has(pair)) {
            upstream?.destroy();
            return end();
          }
          pair.server = upstream;
          upstream.on("error", end);
          upstream.on("close", () => pair.isSwallowed || end());
          if (!pair.isSwallowed) upstream.write(head);
          client.on("data", (data) => pair.isSwallowed || upstream.write(data));
          upstream.on("data", (data) => pair.isSwallowed || client.write(data));
          client.resume();
        });
      };
      if (proxy.delay) setTimeout(go, proxy.delay);
      else go();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", 4096, resolve));
  const { port } = server.address() as { port: number };
  const proxy = {
    url: `ws://127.0.0.1:${port}`,
    targets,
    mode: "pass" as Mode,
    webSockets: "pass" as Proxy["webSockets"],
    delay: 0,
    count: 0,
    most: 0,
    requests: [] as string[],
    get open() {
      return live.size;
    },
    cut() {
      for (const { client, server } of [...live]) {
        client.resetAndDestroy();
        server?.resetAndDestroy();
      }
    },
    swallow() {
      for (const pair of live) pair.isSwallowed = true;
    },
  };
  atEnd(() => {
    server.close();
    for (const { client, server } of live) {
      client.destroy();
      server?.destroy();
    }
  });
  return proxy;
}

function connect(targets: number[], then: (socket?: Socket) => void) {
  const port = targets.shift();
  if (port === undefined) return then();
  const socket = createConnection(port, "127.0.0.1");
  socket.once("connect", () => {
    socket.removeAllListeners("error");
    then(socket);
  });
  socket.once("error", () => connect(targets, then));
}
