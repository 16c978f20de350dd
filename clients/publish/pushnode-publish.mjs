// Pushes to the users of pushnode by Redis alone. One file: copy it. It needs ioredis.
//
//   const publisher = new Publisher(new Redis("redis://127.0.0.1:6379"));
//   await publisher.push("42", { text: "hello" });                   // { status: "routed", ... }
//   await publisher.push({ topic: "news" }, "hello", { wait: "written" });
//   await publisher.keep("42", { text: "you have mail" });           // also for users who are away
import { randomBytes, randomInt } from "node:crypto";

/** Milliseconds between two looks at a row whose node did not take the push. */
const PAUSE = 50;

const random = (bytes) => randomBytes(bytes).toString("hex");
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const hex = (c) => "%" + c.charCodeAt(0).toString(16).toUpperCase();
/** A user's id as it stands in keys. */
const inKey = (user) =>
  encodeURIComponent(user).replace(/%3A/g, ":").replace(/%40/g, "@").replace(/[!'()*]/g, hex);
const target = (to) => (typeof to === "string" ? { user: to } : to);

export class Publisher {
  #waiting = new Map(); // by ref: who hears the receipts
  #checked;
  #inbox;

  /** `prefix` is `PUSH_PREFIX`, `database` the number in the nodes' `PUSH_REDIS_URL`. */
  constructor(redis, { prefix = "pn:", database = 0, name = "publisher" } = {}) {
    this.redis = redis;
    this.prefix = prefix;
    this.channels = prefix + (database ? `${database}:` : "");
    this.me = `${name}.${random(8)}`;
  }

  /**
   * Pushes to a user's id, or to `{ topic }`, `{ fd }` or `{ all: true }`.
   *
   * `wait` is `routed`, `written` or `acked`; `timeout` counts milliseconds. Further options are
   * fields of an envelope: `event`, `policy`, `except`. The answer has `status`, `id`, `nodes` (how
   * many took it) and `connections` (how many are proven). The status is one of `routed`,
   * `written`, `acked`, `duplicate`, `offline` and `unrouted`: a node that holds the user could not
   * be reached. Repeat an `unrouted` one with the same `id`.
   */
  async push(to, data, { id = random(12), wait = "routed", timeout = 3000, ...fields } = {}) {
    await (this.#checked ??= this.#check());
    const envelope = { to: target(to), data, id, ...fields };
    const deadline = Date.now() + timeout;
    if (wait === "routed") return this.#push(envelope, deadline);
    const ref = random(8);
    envelope.reply = { node: this.me, ref, wait, timeout_ms: timeout };
    await (this.#inbox ??= this.#listen());
    const heard = { receipts: new Map(), wake: () => {} };
    this.#waiting.set(ref, heard);
    try {
      return await this.#push(envelope, deadline, heard);
    } finally {
      this.#waiting.delete(ref);
    }
  }

  /**
   * Keeps a message in a user's inbox, or in a topic's log, and tells the nodes. `messages` and
   * `seconds` are the nodes' `PUSH_KEEP_MESSAGES` and `PUSH_KEEP_SECONDS`.
   */
  async keep(to, data, { id = random(12), event, messages = 1000, seconds = 86400 } = {}) {
    await (this.#checked ??= this.#check());
    to = target(to);
    const tag = `{${to.topic ?? inKey(to.user)}}`;
    const [log, position] = to.topic
      ? [`${this.prefix}log:${tag}`, `${this.prefix}logpos:${tag}`]
      : [`${this.prefix}inbox:${tag}`, `${this.prefix}pos:${tag}`];
    const entry = ["id", id, "data", JSON.stringify(data)];
    if (event !== undefined) entry.push("event", event);
    // The first number is one that no earlier log had.
    const first = BigInt(randomInt(1, 2 ** 26)) << 36n;
    const answers = await this.redis
      .multi()
      .set(position, first.toString(), "NX")
      .incr(position)
      .xadd(log, "MAXLEN", "~", messages, "*", ...entry)
      .expire(log, seconds)
      .expire(position, 2 * seconds)
      .exec();
    for (const [error] of answers) if (error) throw error;
    await this.redis.publish(this.channels + "g", JSON.stringify({ to, keep: true }));
    return { status: "stored", id };
  }

  /** Ends the connection that hears receipts; yours stays open. */
  async close() {
    (await this.#inbox)?.disconnect();
  }

  async #push(envelope, deadline, heard) {
    const { to, id } = envelope;
    const line = JSON.stringify(envelope);
    const took = new Set();
    let isUnreached = false;
    let expected;
    if (to.all) expected = await this.redis.publish(this.channels + "g", line);
    else {
      isUnreached = await this.#offer(to, line, took, deadline);
      expected = took.size;
    }
    const receipts = heard?.receipts ?? new Map();
    let hasLookedAgain = false;
    // A node answers by the deadline at the latest; its answer takes a moment.
    while (heard && receipts.size < expected && Date.now() < deadline + 500) {
      await Promise.race([new Promise((resolve) => (heard.wake = resolve)), sleep(PAUSE)]);
      const isStale = [...receipts.values()].some(({ status }) => status === "stale");
      if (isStale && !to.all && !hasLookedAgain) {
        hasLookedAgain = true; // the user has moved
        isUnreached = (await this.#offer(to, line, took, deadline)) || isUnreached;
        expected = took.size;
      }
    }
    const all = [...receipts.values()];
    const said = new Set(all.map(({ status }) => status));
    const nodes = expected - all.filter(({ status }) => status === "stale").length;
    const connections = all.reduce((sum, receipt) => sum + receipt.connections, 0);
    const order = ["acked", "written", "routed", "duplicate"];
    let status = order.find((one) => said.has(one)) ?? "routed";
    if (!nodes) status = isUnreached ? "unrouted" : "offline";
    else if (all.length < expected && status === "duplicate") status = "routed";
    return { status, id, nodes, connections };
  }

  /** In a Redis Cluster channels are sharded, and 0 receivers prove nothing. */
  async #check() {
    try {
      await this.redis.call("CLUSTER", "KEYSLOT", this.prefix);
    } catch (error) {
      // Switched off, or not allowed to us; a connection that fails is another matter.
      if (/cluster/i.test(error.message)) return;
      this.#checked = undefined;
      throw error;
    }
    throw new Error("this is a Redis Cluster: push by HTTP there (POST /v1/push)");
  }

  /** Publishes to each node that has not taken it. Whether one could not be reached. */
  async #offer(to, line, took, deadline) {
    const missing = new Map();
    for (;;) {
      let isOpen = false;
      for (const node of await this.#nodes(to)) {
        if (took.has(node)) continue;
        // 0 proves that no node has it. In a Redis Cluster it proves nothing.
        if (await this.redis.publish(`${this.channels}n:{${node}}`, line)) took.add(node);
        else if (!(await this.#isGone(node, missing))) isOpen = true;
      }
      if (!isOpen || Date.now() > deadline) return isOpen;
      await sleep(PAUSE);
    }
  }

  async #nodes({ user, topic, fd }) {
    const node = (connection) => connection.slice(0, connection.lastIndexOf("/"));
    if (fd) return [node(fd)];
    if (topic) return this.redis.hkeys(`${this.prefix}topic:{${topic}}`);
    const fields = await this.redis.hkeys(`${this.prefix}user:{${inKey(user)}}`);
    return new Set(fields.map(node));
  }

  /** Its name has started again, or it has had no lease at two looks. */
  async #isGone(node, missing) {
    const dot = node.lastIndexOf(".");
    const lease = await this.redis.get(`${this.prefix}node:${node.slice(0, dot)}`);
    if (lease) return JSON.parse(lease).boot !== node.slice(dot + 1);
    missing.set(node, (missing.get(node) ?? 0) + 1);
    return missing.get(node) > 1;
  }

  async #listen() {
    const inbox = this.redis.duplicate();
    inbox.on("message", (_channel, payload) => {
      // A payload has several lines; a node's first one is its header.
      for (const line of payload.split("\n")) {
        const receipt = JSON.parse(line);
        const heard = receipt.cmd === "receipt" && this.#waiting.get(receipt.ref);
        if (!heard) continue;
        heard.receipts.set(receipt.node, receipt);
        heard.wake();
      }
    });
    await inbox.subscribe(`${this.channels}n:{${this.me}}`);
    return inbox;
  }
}
