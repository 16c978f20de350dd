// A real Redis and real nodes, on free ports of this machine. What a test starts ends with it.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** For anything that should come soon. Generous: a slow machine is no fault. */
export const PATIENCE = 60_000;

const endings: (() => unknown)[] = [];

/** Runs after the test, the last one first. */
export function atEnd(end: () => unknown) {
  endings.push(end);
}

export async function endAll() {
  for (const end of endings.splice(0).reverse()) await end();
}

export const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Waits until it is so, and says what it saw last if it never is. */
export async function until<T>(
  what: string,
  look: () => T | Promise<T>,
  patience = PATIENCE,
): Promise<NonNullable<T>> {
  const end = Date.now() + patience;
  for (;;) {
    const seen = await look();
    if (seen) return seen as NonNullable<T>;
    if (Date.now() > end) throw new Error(`not in ${patience} ms: ${what}`);
    await sleep(10);
  }
}

export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => {
    child.once("exit", () => resolve());
    child.kill("SIGKILL");
  });
}

export interface Redis {
  url: string;
}

export async function startRedis(...more: string[]): Promise<Redis> {
  const port = await freePort();
  const folder = mkdtempSync(join(tmpdir(), "pushnode-js-"));
  const flags = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--dir", folder, ...more];
  const child = spawn("redis-server", flags, { stdio: "ignore" });
  child.on("error", (error) => console.error("redis-server must be on the PATH:", error.message));
  atEnd(async () => {
    await stop(child);
    rmSync(folder, { recursive: true, force: true });
  });
  const answers = () =>
    new Promise<boolean>((resolve) => {
      const socket = createConnection(port, "127.0.0.1", () => socket.write("PING\r\n"));
      socket.on("data", (data) => {
        resolve(data.toString().startsWith("+PONG"));
        socket.destroy();
      });
      socket.on("error", () => resolve(false));
    });
  await until("Redis answers", answers);
  return { url: `redis://127.0.0.1:${port}` };
}

function binary(): string {
  const built = fileURLToPath(new URL("../../../../target/debug/pushnode", import.meta.url));
  const path = process.env.PUSHNODE_BIN ?? built;
  if (!existsSync(path)) throw new Error(`no node at ${path}: set PUSHNODE_BIN, or \`cargo build\``);
  return path;
}

export interface Node {
  name: string;
  port: number;
  /** `http://127.0.0.1:<port>`; the client makes its own addresses of it. */
  url: string;
  /** At once, without a goodbye. */
  kill(): Promise<void>;
  /** With a goodbye to its clients. */
  drain(): Promise<void>;
  /** Stops it as it is, and lets it go on. */
  signal(name: NodeJS.Signals): void;
  http(method: string, path: string, body?: unknown): Promise<any>;
  push(body: object): Promise<any>;
  metric(name: string): Promise<number>;
}

let count = 0;

export async function startNode(settings: Record<string, string> = {}): Promise<Node> {
  const name = settings.PUSH_NODE_NAME ?? `n${++count}`;
  const env = {
    PATH: process.env.PATH,
    PUSH_LISTEN: "127.0.0.1:0",
    PUSH_ADMIN_LISTEN: "127.0.0.1:0",
    PUSH_NODE_NAME: name,
    PUSH_DRAIN_SECONDS: "1",
    ...settings,
  };
  const child = spawn(binary(), [], { env, stdio: ["ignore", "pipe", process.env.RIG_LOG ? "inherit" : "ignore"] });
  atEnd(() => stop(child));
  let said = "";
  child.stdout!.on("data", (data) => (said += data));
  await until("the node has started", () => {
    if (child.exitCode !== null) throw new Error(`the node ended: ${said}`);
    return said.includes("try it");
  });
  const port = +/clients +http:\/\/127\.0\.0\.1:(\d+)/.exec(said)![1]!;
  const admin = /operations +(http:\/\/[\d.:]+)/.exec(said)![1]!;
  await until("the node is ready", async () => (await fetch(`${admin}/readyz`)).ok);

  const url = `http://127.0.0.1:${port}`;
  const http = async (method: string, path: string, body?: unknown) => {
    const answer = await fetch(url + path, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await answer.text();
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return text ? JSON.parse(text) : undefined;
  };
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  return {
    name,
    port,
    url,
    kill: () => stop(child),
    drain() {
      child.kill("SIGTERM");
      return ended;
    },
    signal: (signal) => void child.kill(signal),
    http,
    push: (body) => http("POST", "/v1/push", body),
    async metric(metric) {
      const text = await (await fetch(`${admin}/metrics`)).text();
      return +(new RegExp(`^pushnode_${metric} (\\S+)$`, "m").exec(text)?.[1] ?? Number.NaN);
    },
  };
}

/** Two nodes on one Redis. */
export async function startPair(settings: Record<string, string> = {}): Promise<[Node, Node, Redis]> {
  const redis = await startRedis();
  const all = { PUSH_REDIS_URL: redis.url, ...settings };
  const [a, b] = await Promise.all([startNode(all), startNode(all)]);
  return [a!, b!, redis];
}
