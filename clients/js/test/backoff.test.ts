// Pauses, by clocks that the test moves: their bounds, and how ten thousand clients spread.
import { connect, type Client, type State } from "pushnode-js";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Clock } from "./rig/clock.js";

/** A WebSocket without a network. */
class Fake {
  static all: Fake[] = [];
  static isUp = true;
  static closeMs = 1;
  onmessage: ((event: any) => void) | null = null;
  onclose: ((event: any) => void) | null = null;
  onerror = null;
  readyState = 0;
  at = Date.now();
  sent: any[] = [];

  constructor() {
    Fake.all.push(this);
    setTimeout(() => {
      if (this.readyState) return;
      if (!Fake.isUp) return this.end(1006);
      this.readyState = 1;
      this.say({ type: "ready", node: "a.b", fd: 1, user: "42" });
    }, 1);
  }

  say(frame: object) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  send(text: string) {
    this.sent.push(JSON.parse(text));
  }

  end(code: number) {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason: "" });
  }

  close() {
    if (this.readyState < 2) setTimeout(() => this.end(1000), Fake.closeMs);
    if (this.readyState < 2) this.readyState = 2;
  }
}

let clock: Clock;
let clients: Client[] = [];
const start = (options = {}) => {
  const push = connect("ws://node", { user: "42", transports: ["ws"], WebSocket: Fake, ...options });
  const pauses: number[] = [];
  push.on("state", (state: State, why) => {
    if (state === "reconnecting") pauses.push((why as { retryIn: number }).retryIn);
  });
  clients.push(push);
  return { push, pauses };
};

beforeEach(() => {
  clock = new Clock();
  Fake.all = [];
  Fake.isUp = true;
  Fake.closeMs = 1;
  clients = [];
});

afterEach(() => {
  for (const push of clients) push.close();
  clock.restore();
});

test("a pause is at least min and at most min + max, and doubles in between", async () => {
  Fake.isUp = false;
  const all: number[][] = [];
  for (let one = 0; one < 200; one++) all.push(start().pauses);
  await clock.advance(200_000, 5);
  for (let n = 0; n < 10; n++) {
    const pauses = all.map((pauses) => pauses[n]!);
    const most = 500 + Math.min(20_000, 500 * 2 ** n);
    expect(Math.min(...pauses)).toBeGreaterThanOrEqual(500);
    expect(Math.max(...pauses)).toBeLessThanOrEqual(most);
    // Over the whole range, not around its middle.
    expect(Math.min(...pauses)).toBeLessThan(500 + (most - 500) * 0.15);
    expect(Math.max(...pauses)).toBeGreaterThan(500 + (most - 500) * 0.85);
  }
});

test("what the node asks for is waited, and up to a quarter more", async () => {
  const all = Array.from({ length: 200 }, () => start().pauses);
  await clock.advance(10);
  for (const socket of Fake.all) {
    socket.say({ type: "bye", code: 1012, reason: "drain", retry_ms: 2_000 });
  }
  await clock.advance(10);
  const pauses = all.map(([pause]) => pause!);
  expect(Math.min(...pauses)).toBeGreaterThanOrEqual(2_000);
  expect(Math.max(...pauses)).toBeLessThanOrEqual(2_500);
  expect(Math.max(...pauses) - Math.min(...pauses)).toBeGreaterThan(400);
});

test("five seconds connected begin the doubling again, less do not", async () => {
  const { pauses } = start({ backoff: { min: 100, max: 100_000 } });
  for (let n = 0; n < 6; n++) {
    await clock.advance(6_000);
    Fake.all.at(-1)!.end(1006);
  }
  await clock.advance(10);
  expect(pauses).toHaveLength(6);
  expect(Math.max(...pauses)).toBeLessThanOrEqual(200);
  pauses.length = 0;
  for (let n = 0; n < 8; n++) {
    const before = Fake.all.length;
    while (Fake.all.length === before) await clock.advance(10);
    await clock.advance(10);
    Fake.all.at(-1)!.end(1006);
    await clock.advance(10);
  }
  expect(Math.max(...pauses)).toBeGreaterThan(200);
});

test("silence is asked about, and ends the connection", async () => {
  const { push } = start();
  await clock.advance(10);
  const [socket] = Fake.all as [Fake];
  // A node that tells no `beat_ms`: 25 s, 7 s more, then a question.
  await clock.advance(31_900);
  expect(socket.sent).toEqual([]);
  await clock.advance(200);
  expect(socket.sent).toEqual([{ type: "ping" }]);
  socket.say({ type: "pong" });
  await clock.advance(10_000);
  expect(push.state).toBe("connected");
  await clock.advance(25_000);
  expect(push.state).toBe("reconnecting");
});

test("a node that beats is given its beat and ten seconds, and asked nothing before", async () => {
  const { push } = start();
  await clock.advance(10);
  const [socket] = Fake.all as [Fake];
  socket.end(1006);
  await clock.advance(1_010);
  const again = Fake.all[1]!;
  again.say({ type: "ready", node: "a.b", fd: 2, user: "42", beat_ms: 5_000 });
  for (let beat = 0; beat < 20; beat++) {
    await clock.advance(5_000);
    again.say({ type: "ping" });
  }
  expect(again.sent.every(({ type }) => type === "pong")).toBe(true);
  expect(again.sent).toHaveLength(20);
  await clock.advance(14_900);
  expect(push.state).toBe("connected");
  await clock.advance(200);
  expect(push.state).toBe("reconnecting");
});

test("a try that takes too long is known to be closed before the next begins", async () => {
  const { push } = start({ timeout: 1_000, backoff: { min: 20, max: 20 } });
  Fake.closeMs = 700; // longer than the pause
  await clock.advance(10);
  Fake.all[0]!.end(1006);
  const slow = vi.spyOn(Fake.prototype, "say").mockImplementation(() => {});
  let most = 0;
  for (let n = 0; n < 3_000; n++) {
    await clock.advance(10);
    most = Math.max(most, Fake.all.filter(({ readyState }) => readyState < 3).length);
  }
  slow.mockRestore();
  expect(Fake.all.length).toBeGreaterThan(3);
  expect(most).toBe(1);
  expect(push.state).toBe("reconnecting");
});

/** How many of the times are in each tenth of the range. */
function histogram(title: string, times: number[], from: number, to: number) {
  const bins = new Array<number>(10).fill(0);
  for (const time of times) bins[Math.min(9, Math.floor(((time - from) / (to - from)) * 10))]!++;
  const lines = bins.map((count, bin) => {
    const start = Math.round(from + ((to - from) * bin) / 10);
    return `${String(start).padStart(7)} ms ${String(count).padStart(6)} ${"#".repeat(count / 50)}`;
  });
  console.log(`${title}\n${lines.join("\n")}`);
  return bins;
}

test("ten thousand clients that are cut off at once come back apart", async () => {
  const count = 10_000;
  for (let one = 0; one < count; one++) start();
  await clock.advance(6_000);
  const cutAt = Date.now();
  const cut = Fake.all.splice(0);
  for (const socket of cut) socket.end(1006);
  await clock.advance(1_100);
  const first = Fake.all.map(({ at }) => at - cutAt);
  expect(first).toHaveLength(count);
  const bins = histogram("first tries after a cut", first, 500, 1_000);
  for (const bin of bins) expect(Math.abs(bin - count / 10)).toBeLessThan(count / 40);

  // For a fifth of them the network stays down.
  for (const push of clients.splice(count / 5)) push.close();
  Fake.isUp = false;
  await clock.advance(6_000);
  for (const socket of Fake.all.splice(0)) socket.end(1006);
  await clock.advance(45_000, 20);
  const perSecond: Record<number, number> = {};
  for (const { at } of Fake.all) perSecond[Math.floor(at / 1_000)] = (perSecond[Math.floor(at / 1_000)] ?? 0) + 1;
  const late = Object.entries(perSecond).filter(([second]) => +second * 1_000 > Date.now() - 15_000);
  const most = Math.max(...late.map(([, tries]) => tries));
  console.log(`after half a minute of outage: at most ${most} of 2,000 clients try in one second`);
  // A pause of 10.5 s on average: about 190 in a second, if they are spread.
  expect(most).toBeLessThan(300);
});
