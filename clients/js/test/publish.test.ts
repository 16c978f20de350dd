// The publisher helpers of clients/publish: each does the same, against two nodes and Redis.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { atEnd, client, startNode, startPair, startRedis, until } from "./rig/index.js";

const path = (name: string) => fileURLToPath(new URL(`../../../${name}`, import.meta.url));

function tool(name: string): string {
  const found = path(`target/test-tools/${name}`);
  if (!existsSync(found)) throw new Error(`${found} is missing; scripts/setup installs it`);
  return found;
}

const HELPERS = {
  Python: () => [tool("venv/bin/python"), "driver.py"],
  "Node.js": () => [process.execPath, "driver.mjs"],
  PHP: () => ["php", "driver.php"],
};

/** A program that takes one command a line and answers each by a line. */
function startProgram([program, file, ...rest]: string[]) {
  const cwd = path("clients/publish/test");
  const child = spawn(program!, [file!, ...rest], { cwd, stdio: ["pipe", "pipe", "inherit"] });
  atEnd(() => child.kill());
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return async (...command: unknown[]) => {
    child.stdin.write(JSON.stringify(command) + "\n");
    const { value, done } = await lines.next();
    if (done) throw new Error(`${program} ended at ${JSON.stringify(command)}`);
    return JSON.parse(value);
  };
}

const portOf = ({ url }: { url: string }) => new URL(url).port;

/** Speaks Redis, as much as a test needs. */
function redisCli(port: string, ...words: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn("redis-cli", ["-p", port, ...words]);
    let said = "";
    child.stdout.on("data", (data) => (said += data));
    child.on("error", reject).on("close", () => resolve(said.trim()));
  });
}

test.each(Object.keys(HELPERS) as (keyof typeof HELPERS)[])(
  "the helper in %s finds users, proves what it says, and finds out who is gone",
  async (language) => {
    const [a, b, redis] = await startPair();
    const port = portOf(redis);
    const run = startProgram([...HELPERS[language](), port, tool("node/node_modules/ioredis")]);
    const ask = (method: string, to: unknown, data: unknown, options = {}) => run(method, to, data, options);

    const user = "Ann Müller/(7)*'!~:@";
    const desk = client(a.url, { user });
    const phone = client(b.url, { user });
    const other = client(b.url, { user: "7" });
    const news = other.topic("news");
    const seen: unknown[] = [];
    for (const [name, push] of Object.entries({ desk, phone, other })) {
      push.on("message", (data, { event }) => seen.push([name, data, event].filter((one) => one !== undefined)));
    }
    news.on("message", (data) => seen.push(["news", data]));
    await Promise.all([desk.ready(), phone.ready(), other.ready(), news.ready()]);
    await until("the topic has a row", () => redisCli(port, "HKEYS", "pn:topic:{news}"));
    const saw = async (...wanted: unknown[]) => {
      const text = (list: unknown[]) => list.map((one) => JSON.stringify(one)).sort().join();
      await until("it is seen", () => seen.length >= wanted.length);
      expect(text(seen.splice(0))).toBe(text(wanted));
    };

    const data = { text: 'Grüße 👋\n"quoted"', n: 1.5 };
    expect(await ask("push", user, data, { event: "told" })).toMatchObject({ status: "routed", nodes: 2 });
    await saw(["desk", data, "told"], ["phone", data, "told"]);

    const id = "m1";
    const written = { status: "written", id, nodes: 2, connections: 2 };
    expect(await ask("push", user, 1, { id, wait: "written" })).toMatchObject(written);
    const repeated = await ask("push", user, 1, { id, wait: "written" });
    expect(repeated).toMatchObject({ status: "duplicate", id, nodes: 2, connections: 0 });
    const acked = { status: "acked", nodes: 1, connections: 1 };
    expect(await ask("push", "7", 2, { wait: "acked" })).toMatchObject(acked);
    await saw(["desk", 1], ["phone", 1], ["other", 2]);

    expect(await ask("push", "away", 3)).toMatchObject({ status: "offline", nodes: 0 });
    expect(await ask("push", { topic: "news" }, 4)).toMatchObject({ status: "routed", nodes: 1 });
    const except = { users: ["7"] };
    const toAll = await ask("push", { all: true }, 5, { except, wait: "written" });
    expect(toAll).toMatchObject({ status: "written", nodes: 2, connections: 2 });
    expect(await ask("push", { fd: phone.connection }, 6)).toMatchObject({ status: "routed", nodes: 1 });
    await saw(["news", 4], ["desk", 5], ["phone", 5], ["phone", 6]);

    // A row that names a connection which is no longer there.
    const fd = desk.connection!.replace(/\d+$/, "999");
    await redisCli(port, "HSET", "pn:user:{ghost}", fd, "{}");
    expect(await ask("push", "ghost", 7, { wait: "written" })).toMatchObject({ status: "offline", nodes: 0 });

    // Kept, for a user and for a topic: also for those who come later.
    expect((await ask("keep", user, 8, { event: "mail" })).status).toBe("stored");
    await saw(["desk", 8, "mail"], ["phone", 8, "mail"]);
    expect((await ask("keep", { topic: "log" }, 9)).status).toBe("stored");
    expect((await ask("keep", { topic: "log" }, 10)).status).toBe("stored");
    const later: unknown[] = [];
    desk.topic("log", { since: "0" }).on("message", (data) => later.push(data));
    await until("the log is read", () => later.length === 2);
    expect(later).toEqual([9, 10]);

    // A node that holds a lease and hears nothing is tried until the end; one that has started
    // again, or has no lease, is not.
    const gone = { timeout: 60 };
    await redisCli(port, "HSET", "pn:user:{lost}", "deaf.1/9", "{}");
    await redisCli(port, "SET", "pn:node:deaf", '{"boot":"1"}');
    const lost = await ask("push", "lost", 11, { timeout: 0.3 });
    expect(lost).toMatchObject({ status: "unrouted", nodes: 0 });
    expect(lost.took).toBeGreaterThan(0.3);
    await redisCli(port, "SET", "pn:node:deaf", '{"boot":"2"}');
    expect(await ask("push", "lost", 12, gone)).toMatchObject({ status: "offline" });
    await redisCli(port, "DEL", "pn:node:deaf");
    expect(await ask("push", "lost", 13, gone)).toMatchObject({ status: "offline" });
  },
);

test.each(Object.keys(HELPERS) as (keyof typeof HELPERS)[])(
  "the helper in %s refuses a Redis Cluster, and asks once where it may not ask",
  async (language) => {
    const cluster = await startRedis("--cluster-enabled", "yes");
    const start = (redis: { url: string }) =>
      startProgram([...HELPERS[language](), portOf(redis), tool("node/node_modules/ioredis")]);
    const refused = start(cluster);
    for (const method of ["push", "keep"]) {
      const { error } = await refused(method, { topic: "news" }, 1, {});
      expect(error).toContain("Redis Cluster");
    }
    const redis = await startRedis();
    await redisCli(portOf(redis), "ACL", "SETUSER", "default", "-cluster");
    const allowed = start(redis);
    expect(await allowed("push", "42", 1, {})).toMatchObject({ status: "offline" });
    await redisCli(portOf(redis), "CONFIG", "RESETSTAT");
    expect(await allowed("push", "42", 1, {})).toMatchObject({ status: "offline" });
    expect(await redisCli(portOf(redis), "INFO", "commandstats")).not.toContain("cluster");
  },
);

test("events of Laravel reach the page, and its channels are checked", async () => {
  if (!existsSync("/usr/share/php/Illuminate/Broadcasting")) {
    return console.warn("not run: install the Debian package php-illuminate-broadcasting");
  }
  const redis = await startRedis();
  const node = await startNode({ PUSH_REDIS_URL: redis.url, PUSH_AUTH: "session" });
  const run = startProgram(["php", "laravel.php", portOf(redis)]);
  const own = "private-orders.7";

  for (const channels of [["private-orders.8"], ["**"], ["private-*"], ["news", "private-orders.{user}"]]) {
    expect(await run("auth", [7, channels])).toHaveProperty("error");
  }
  expect(await run("auth", [null, ["news"]])).toHaveProperty("error");
  const { token, user } = await run("auth", [7, ["news", own]]);
  expect(user).toBe("7");

  const seen: unknown[] = [];
  const connect = async () => {
    const push = client(node.url, { token, user: undefined });
    push.on("message", (data, { event }) => seen.push([event, data]));
    const topics = ["news", own].map((name) => push.topic(name));
    for (const topic of topics) topic.on("message", (data, { event }) => seen.push([topic.name, event, data]));
    await Promise.all(topics.map((topic) => topic.ready()));
    return push;
  };
  const first = await connect();
  await expect(first.topic("private-orders.8").ready()).rejects.toMatchObject({ code: "forbidden" });
  await connect();
  await until("the topic has its row", async () => {
    return (await redisCli(portOf(redis), "HVALS", `pn:topic:{${own}}`)) === "2";
  });
  await run("events", [first.connection]);
  await until("all came", () => seen.length >= 5);
  expect(seen.map((one) => JSON.stringify(one)).sort()).toEqual(
    [
      ["news", "NewsWritten", { title: "one" }],
      ["news", "NewsWritten", { title: "one" }],
      [own, "OrderPaid", { n: 1 }], // but not to the connection that caused it
      ["Told", { n: 2 }],
      ["Told", { n: 2 }],
    ]
      .map((one) => JSON.stringify(one))
      .sort(),
  );
});
