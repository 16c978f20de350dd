// Publishes with nothing but ioredis, as docs/redis.md tells, and prints what it hears.
import { createRequire } from "node:module";
import { join } from "node:path";

const [, , , mode, address, user] = process.argv;
// Where the packages are.
const require = createRequire(join(process.env.INTEROP_PACKAGES, "node_modules", "any.js"));
const Redis = require("ioredis");

// Of a Redis, of a Sentinel, or of one node of a cluster.
const [host, port] = address.split(":");
const connect = {
  standalone: () => new Redis({ host, port }),
  sentinel: () => new Redis({ sentinels: [{ host, port }], name: "mymaster" }),
  cluster: () => new Redis.Cluster([{ host, port }], { shardedSubscribers: true }),
}[mode];

const quoted = (id) =>
  encodeURIComponent(id)
    .replace(/%3A/g, ":")
    .replace(/%40/g, "@")
    .replace(/[!'()*]/g, (sign) => "%" + sign.charCodeAt(0).toString(16).toUpperCase());

const redis = connect();
const inbox = connect();
const isCluster = mode === "cluster";

// A channel of our own to hear receipts on.
const me = "ioredis.1";
const receipt = new Promise((resolve) => {
  inbox.on(isCluster ? "smessage" : "message", (_channel, payload) => {
    // A payload holds several lines; a node's first line is its header.
    const lines = payload.split("\n").map((line) => JSON.parse(line));
    const found = lines.find((line) => line.cmd === "receipt");
    if (found) resolve(found);
  });
});
const channel = `pn:n:{${me}}`;
await (isCluster ? inbox.ssubscribe(channel) : inbox.subscribe(channel));

// To the nodes of the user.
const tag = `{${quoted(user)}}`;
const fields = await redis.hkeys("pn:user:" + tag);
const nodes = new Set(fields.map((field) => field.slice(0, field.lastIndexOf("/"))));
const reply = { node: me, ref: "r1" };
const push = JSON.stringify({ to: { user }, id: "m1", data: "to the node", reply });
for (const node of nodes) {
  const name = `pn:n:{${node}}`;
  await (isCluster ? redis.spublish(name, push) : redis.publish(name, push));
}
const { status, connections } = await receipt;
console.log("receipt", status, connections);

// To all nodes.
await redis.publish("pn:g", JSON.stringify({ to: { user }, id: "m2", data: "to all nodes" }));

// Kept in the inbox.
const results = await redis
  .multi()
  .set("pn:pos:" + tag, "206158430208", "NX")
  .incr("pn:pos:" + tag)
  .xadd("pn:inbox:" + tag, "MAXLEN", "~", 1000, "*", "id", "m3", "data", '"kept"')
  .expire("pn:inbox:" + tag, 86400)
  .expire("pn:pos:" + tag, 172800)
  .exec();
for (const [error] of results) if (error) throw error;
await redis.publish("pn:g", JSON.stringify({ to: { user }, keep: true }));

console.log("done");
redis.disconnect();
inbox.disconnect();
