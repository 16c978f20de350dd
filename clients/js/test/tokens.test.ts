// Tokens, sessions and ends that are for good.
import { Unauthorized, type TokenReason } from "pushnode-js";
import { expect, test } from "vitest";
import { client, next, type Node, sleep, startNode, startProxy, until } from "./rig/index.js";

const SESSIONS = { PUSH_AUTH: "session", PUSH_TOPICS: "*" };

async function session(node: Node, user: string, seconds = 600): Promise<string> {
  const { token } = await node.http("POST", "/v1/sessions", { user, ttl_seconds: seconds });
  return token;
}

/** A provider that opens a session for the user, and the reasons for which it was asked. */
function provider(node: Node, lives: number[] = [], user = () => "42") {
  const reasons: TokenReason[] = [];
  const tokens: string[] = [];
  const token = async ({ reason }: { reason: TokenReason }) => {
    reasons.push(reason);
    const opened = await session(node, user(), lives[tokens.length] ?? 600);
    tokens.push(opened);
    return opened;
  };
  return { token, reasons, tokens };
}

const only = { user: undefined };

test("a token is renewed on the connection before it ends", async () => {
  const node = await startNode(SESSIONS);
  const { token, reasons, tokens } = provider(node, [4]);
  const push = client(node.url, { ...only, token });
  await push.ready();
  expect(push.user).toBe("42");
  await until("it is renewed", () => tokens.length === 2);
  const came = next(push, "message");
  // The old one is no longer what the connection lives by.
  await sleep(4_500);
  await node.push({ to: { user: "42" }, data: "still here" });
  expect(await came).toBe("still here");
  expect(reasons).toEqual(["connect", "expiring"]);
  expect(await node.metric("connects_total")).toBe(1);
});

test("a session that has ended is replaced by a new token, at once", async () => {
  const node = await startNode(SESSIONS);
  const { token, reasons, tokens } = provider(node);
  const push = client(node.url, { ...only, token, backoff: { min: 30_000 } });
  await push.ready();
  const states: string[] = [];
  push.on("state", (state) => states.push(state));
  await node.http("DELETE", "/v1/sessions", { token: tokens[0] });
  await until("it knows", () => states.includes("reconnecting"));
  await push.ready();
  expect(reasons).toEqual(["connect", "expired"]);
});

test("a token that a provider cannot get is asked for again, in one flight", async () => {
  const node = await startNode(SESSIONS);
  let asked = 0;
  const token = async () => {
    if (++asked < 3) throw new Error("backend is down");
    return session(node, "42");
  };
  const push = client(node.url, { ...only, token, backoff: { min: 20 } });
  await push.ready();
  expect(asked).toBe(3);
  expect(push.log.filter(([event]) => event === "error")).toHaveLength(2);
  const before = asked;
  await Promise.all([push.renew(), push.renew(), push.renew()]);
  expect(asked).toBe(before + 1);
});

test("Unauthorized from the provider closes for good", async () => {
  const node = await startNode(SESSIONS);
  const token = () => {
    throw new Unauthorized("log in first");
  };
  const push = client(node.url, { ...only, token });
  await expect(push.ready()).rejects.toMatchObject({ code: "closed" });
  expect(push.log).toEqual([["state", "closed", { code: 4401, reason: "log in first" }]]);
});

test("a fixed token that is refused closes for good, where the refusal can be seen", async () => {
  const node = await startNode(SESSIONS);
  const push = client(node.url, { ...only, token: "no-session-of-ours" });
  await expect(push.ready()).rejects.toMatchObject({ code: "closed" });
  expect(push.log.at(-1)).toMatchObject(["state", "closed", { code: 4401 }]);
});

test("a refused token is asked for again at once, and then with pauses", async () => {
  const node = await startNode(SESSIONS);
  const reasons: TokenReason[] = [];
  const token = async ({ reason }: { reason: TokenReason }) => {
    reasons.push(reason);
    return reasons.length < 4 ? "no-session-of-ours" : session(node, "42");
  };
  const push = client(node.url, { ...only, token, backoff: { min: 20 } });
  await push.ready();
  expect(reasons).toEqual(["connect", "refused", "refused", "refused"]);
  const pauses = push.log.filter(([, state]) => state === "reconnecting");
  expect(pauses[0]).toEqual(["state", "reconnecting", { retryIn: 0 }]);
  expect((pauses[1]![2] as { retryIn: number }).retryIn).toBeGreaterThanOrEqual(20);
});

test.each([
  ["kicked", 4001, (node: Node) => node.http("DELETE", "/v1/users/42")],
  ["banned", 4006, (node: Node) => node.http("PUT", "/v1/users/42/ban", { seconds: 60 })],
])("%s is for good", async (reason, code, act) => {
  const node = await startNode();
  const proxy = await startProxy(node.port);
  const push = client(proxy.url, { backoff: { min: 10 } });
  await push.ready();
  await act(node);
  await until("it is closed", () => push.state === "closed");
  expect(push.log.at(-1)).toEqual(["state", "closed", { code, reason }]);
  await sleep(300);
  expect(proxy.count).toBe(1);
});

test("a banned user is refused for good, where the refusal can be seen", async () => {
  const node = await startNode();
  await node.http("PUT", "/v1/users/42/ban", { seconds: 60 });
  const push = client(node.url);
  await until("it is closed", () => push.state === "closed");
  expect(push.log.at(-1)).toMatchObject(["state", "closed", { code: 4403 }]);
});

test("replaced is for good, so two pages do not take turns", async () => {
  const node = await startNode({ PUSH_MAX_CONNECTIONS_PER_USER: "1" });
  const one = client(node.url);
  await one.ready();
  const two = client(node.url);
  await until("the first is closed", () => one.state === "closed");
  expect(one.log.at(-1)).toEqual(["state", "closed", { code: 4005, reason: "replaced" }]);
  await two.ready();
  expect(two.state).toBe("connected");
});

test.each(["renew", "reconnect"])("another user by %s has nothing of the first", async (by) => {
  const node = await startNode(SESSIONS);
  const proxy = await startProxy(node.port);
  let user = "ann";
  const { token, tokens } = provider(node, [], () => user);
  const push = client(proxy.url, { ...only, token, backoff: { min: 10 } });
  const secret = push.topic("ann.secret");
  await secret.ready();
  await node.push({ to: { user: "ann" }, keep: true, data: "for ann" });
  await until("it comes", () => push.log.some(([, data]) => data === "for ann"));
  user = "bob";
  if (by === "renew") await push.renew();
  else await node.http("DELETE", "/v1/sessions", { token: tokens.at(-1) });
  await until("it is bob's", () => push.user === "bob" && push.state === "connected");
  expect(secret.state).toBe("closed");
  await node.push({ to: { topic: "ann.secret" }, data: "not for bob" });
  await node.push({ to: { user: "ann" }, keep: true, data: "for ann alone" });
  const came = next(push, "message");
  await node.push({ to: { user: "bob" }, keep: true, data: "for bob" });
  expect(await came).toBe("for bob");
  expect(push.log.filter(([, data]) => String(data).includes("alone"))).toEqual([]);
  expect(proxy.most).toBe(1);
  expect(proxy.requests.at(-1)).not.toContain("since=");
});
