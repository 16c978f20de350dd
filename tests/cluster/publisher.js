// Publishes to pushnode with nothing but ioredis.
//
//     node publisher.js <folder of ioredis> <redis port> <user> <data as JSON>
//
// Looks the user's nodes up, publishes to each, and waits for a receipt on a channel of its
// own. Prints the receipt.
const assert = require("node:assert");
const [folder, port, user, json] = process.argv.slice(2);
const Redis = require(folder);

async function main() {
  const data = JSON.parse(json);
  const client = new Redis(Number(port));
  const inbox = new Redis(Number(port));

  // A channel of our own to hear receipts on: <name>.<boot> like a node's, but nobody's.
  const me = "node-publisher.1";
  await inbox.subscribe(`pn:n:{${me}}`);
  const receipt = new Promise((resolve) => {
    inbox.on("message", (_channel, payload) => {
      // A payload holds several lines; a node's first line is its header.
      const lines = payload.split("\n").map((line) => JSON.parse(line));
      resolve(lines.find((line) => line.cmd === "receipt"));
    });
  });

  const fields = await client.hkeys(`pn:user:{${user}}`);
  const nodes = new Set(fields.map((field) => field.slice(0, field.lastIndexOf("/"))));
  assert(nodes.size > 0, "the user is offline");
  const push = { to: { user }, data, reply: { node: me, ref: "r1" } };
  for (const node of nodes) {
    const listeners = await client.publish(`pn:n:{${node}}`, JSON.stringify(push));
    assert.strictEqual(listeners, 1, `${listeners} listeners on the channel of ${node}`);
  }

  // To all nodes at once, without a look-up: to one user, then to everybody.
  await client.publish("pn:g", JSON.stringify({ to: { user }, data: [data, "by pn:g"] }));
  await client.publish("pn:g", JSON.stringify({ to: { all: true }, data: [data, "to all"] }));

  console.log(JSON.stringify(await receipt));
  client.disconnect();
  inbox.disconnect();
}

main();
