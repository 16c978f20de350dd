// Carries out what stands on each line of its input, and prints the answers: see the test.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { Publisher } from "../pushnode-publish.mjs";

const [port, folder] = process.argv.slice(2);
const Redis = createRequire(import.meta.url)(folder);
const redis = new Redis(Number(port));
const publisher = new Publisher(redis);
for await (const line of createInterface({ input: process.stdin })) {
  const [method, to, data, { timeout = 3, ...options }] = JSON.parse(line);
  const began = performance.now();
  if (method === "push") options.timeout = timeout * 1000;
  const answer = await publisher[method](to, data, options).catch(({ message }) => ({ error: message }));
  console.log(JSON.stringify({ ...answer, took: (performance.now() - began) / 1000 }));
}
await publisher.close();
redis.disconnect();
