// The backend of the bell, in Node.js: the page, a token for its user, and a route that rings.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";

const node = process.env.PUSHNODE ?? "http://127.0.0.1:8080";

async function call(path, body) {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(node + path, { method: "POST", headers, body: JSON.stringify(body) });
  return answer.json();
}

const routes = {
  "GET /": async () => [
    "text/html",
    (await readFile(new URL("index.html", import.meta.url), "utf8")).replaceAll("NODE", node),
  ],
  // Your own login says who the user is; here it is the page.
  "GET /push-token": async (user) => {
    const { token } = await call("/v1/sessions", { user, ttl_seconds: 300 });
    return ["text/plain", token];
  },
  "POST /ring": async (user) => {
    const data = { text: `ding at ${new Date().toISOString()}` };
    return ["text/plain", (await call("/v1/push", { to: { user }, keep: true, data })).status];
  },
};

createServer(async (request, answer) => {
  const url = new URL(request.url, "http://backend");
  const route = routes[`${request.method} ${url.pathname}`];
  if (!route) return answer.writeHead(404).end();
  const [type, body] = await route(url.searchParams.get("user"));
  answer.writeHead(200, { "content-type": type }).end(body);
}).listen(process.env.PORT ?? 3000, "127.0.0.1");
