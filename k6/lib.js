// What the four scripts share: settings, connections, pushes and, above all, the accounting.
//
// Accounting. k6 runs each virtual user (VU) in its own JavaScript runtime, so the VU that pushes and the VU that holds
// the addressee share no variables. Metrics are the one thing they share: `pushes_missing` goes up by the number of
// arrivals a push must cause before it is sent, and down by one with each first arrival. It is zero at the end only if
// everything arrived, and it stays above zero if a VU dies half-way. Duplicates and strangers never lower it.

import http from 'k6/http';
import exec from 'k6/execution';
import ws from 'k6/ws';
import { check } from 'k6';
import { Counter, Trend } from 'k6/metrics';

// Two WebSocket modules, because each can do what the other cannot. The event-loop one holds thousands of connections in
// one VU, but it starts to read before it is open by its own account and drops what comes in between: with k6 1.1.0 about
// one `ready` in 2,500, each of which the node had written. `k6/ws` has its handlers in place before it reads, but blocks
// its VU. So connections are held by the first, before anything is pushed to them, and `ready` is awaited by the second.
//
// The first left `experimental` during k6 1.x and the old name is gone in 2.x; `import` could not try both.
const { WebSocket } = websocketsModule();
function websocketsModule() {
  try {
    return require('k6/websockets');
  } catch (_) {
    return require('k6/experimental/websockets');
  }
}

const metrics = {
  opened: new Counter('connections_opened'),
  failed: new Counter('connections_failed'),
  lost: new Counter('connections_lost'),
  resyncs: new Counter('resyncs'),
  sent: new Counter('pushes_sent'),
  arrived: new Counter('pushes_arrived'),
  missing: new Counter('pushes_missing'),
  misrouted: new Counter('pushes_misrouted'),
  duplicated: new Counter('pushes_duplicated'),
  outOfOrder: new Counter('pushes_out_of_order'),
  latency: new Trend('push_latency', true),
  connect: new Trend('connect_latency', true),
};

// ---- settings ----

export const nodeUrls = (__ENV.NODE_URLS || 'http://127.0.0.1:8080')
  .split(',')
  .map((url) => url.trim().replace(/\/+$/, ''))
  .filter((url) => url !== '');

/** The script's own figures for `smoke` and `load`, each of which the environment may override. */
export function settings(profiles) {
  const name = __ENV.PROFILE || 'smoke';
  const profile = profiles[name];
  if (!profile) throw new Error(`PROFILE=${name}: must be smoke or load`);
  if (nodeUrls.length === 0) throw new Error('NODE_URLS names no node');
  const users = count('USERS', profile.users);
  const connections = users * (profile.connectionsPerUser || 1);
  const connectRate = count('CONNECT_RATE', 500);
  return {
    users,
    connections,
    connectRate,
    rate: count('RATE', profile.rate),
    duration: seconds('DURATION', profile.duration),
    // A node may retry a push for 3 s before it gives up: a shorter drain would call a late push lost.
    drain: seconds('DRAIN', name === 'smoke' ? '3s' : '10s'),
    // Time to open everything before the first push; the spare second(s) are for the slowest handshake.
    connect: Math.ceil(connections / connectRate) + (name === 'smoke' ? 1 : 5),
    receivers: Math.min(connections, count('RECEIVERS', name === 'smoke' ? 2 : 8)),
    pushers: count('PUSHERS', profile.pushers || 1),
  };
}

function count(name, byDefault) {
  const value = __ENV[name] === undefined ? byDefault : Number(__ENV[name]);
  if (!Number.isInteger(value) || value < 1) throw new Error(`${name}=${__ENV[name]}: must be a whole number above 0`);
  return value;
}

function seconds(name, byDefault) {
  const text = __ENV[name] || byDefault;
  const match = /^(\d+)(s|m|h)$/.exec(text);
  if (!match) throw new Error(`${name}=${text}: must be a whole number and a unit, such as 30s or 5m`);
  return Number(match[1]) * { s: 1, m: 60, h: 3600 }[match[2]];
}

// ---- options ----

// `url` is left out: it carries the user, and one time series per user would cost more memory than the connections.
const systemTags = ['check', 'error_code', 'method', 'name', 'scenario', 'status'];
const summaryTrendStats = ['min', 'med', 'avg', 'p(95)', 'p(99)', 'max'];

const nothingWrong = {
  checks: ['rate==1'],
  connections_failed: ['count==0'],
  connections_lost: ['count==0'],
  pushes_missing: ['count==0'],
  pushes_misrouted: ['count==0'],
  pushes_duplicated: ['count==0'],
  // Without these a run that connects nobody or pushes nothing would pass: nothing sent, nothing missing.
  connections_opened: ['count>0'],
  pushes_sent: ['count>0'],
  pushes_arrived: ['count>0'],
};

/**
 * Two scenarios: `connections` opens every connection and holds it to the end; `pushes` starts once they should be
 * open. Both end by the clock, so a run lasts `connect + duration + drain` whatever is lost.
 */
export function holdAndPush(config, { connections = config.connections, thresholds = {} } = {}) {
  const total = config.connect + config.duration + config.drain;
  return {
    scenarios: {
      connections: {
        executor: 'per-vu-iterations',
        exec: 'connections',
        vus: config.receivers,
        iterations: 1,
        maxDuration: `${total + 30}s`,
      },
      pushes: {
        executor: 'constant-arrival-rate',
        exec: 'pushes',
        startTime: `${config.connect}s`,
        duration: `${config.duration}s`,
        rate: config.rate,
        preAllocatedVUs: config.pushers,
        gracefulStop: `${config.drain}s`,
      },
    },
    thresholds: Object.assign({}, nothingWrong, { connections_opened: [`count==${connections}`] }, thresholds),
    systemTags,
    summaryTrendStats,
  };
}

/** One scenario: `config.users` VUs start `config.rate` iterations of `default` a second. */
export function storm(config) {
  return {
    scenarios: {
      storm: {
        executor: 'constant-arrival-rate',
        duration: `${config.duration}s`,
        rate: config.rate,
        preAllocatedVUs: config.users,
        // Long enough for every timeout inside an iteration, so that none is cut off before it has counted.
        gracefulStop: `${3 * config.drain + 5}s`,
      },
    },
    thresholds: nothingWrong,
    systemTags,
    summaryTrendStats,
  };
}

// ---- a run ----

/** A name that no other run has: users carry it, so what an earlier run left behind is seen as misrouted. */
export function newRun() {
  const random = Math.floor(Math.random() * 0x100000000);
  return `${Date.now().toString(36)}${random.toString(36)}`;
}

export const userName = (run, index) => `k6-${run}-${index}`;

/** Milliseconds since the run began: finer than `Date.now()` and the same clock in every VU. */
const now = () => exec.instance.currentTestRunDuration;

// A broken run has one cause and many victims: the first few of each VU tell the story, the rest only fill the disk.
let complaints = 0;
function complain(text) {
  complaints += 1;
  if (complaints <= 10) console.error(text);
}

// ---- receiving ----

/** What one addressee has received so far. A fault becomes a metric, never an exception: the run goes on counting. */
export class Inbox {
  /**
   * `to` is what the payloads must carry as `user`. `number(seq)` maps the sequence numbers of this addressee to
   * 0, 1, 2..., and all others to undefined. With `publishers: n` the numbers that leave the same remainder by n come
   * from one publisher and must arrive in order; with 0 order is not looked at.
   */
  constructor(run, to, { number = (seq) => seq, publishers = 0 } = {}) {
    this.run = run;
    this.to = to;
    this.number = number;
    this.newest = new Array(publishers).fill(-1);
    // Everything below `next` has arrived. Only what overtook a gap needs an entry, so memory does not grow with time.
    this.next = 0;
    this.ahead = new Set();
  }

  /** `where` tells in a complaint which of the addressee's connections received it. */
  take(push, where = '') {
    const mine = push !== null && typeof push === 'object' && push.run === this.run && push.user === this.to;
    const number = mine ? this.number(push.seq) : undefined;
    if (number === undefined) {
      metrics.misrouted.add(1);
      complain(`${this.to} received what is not its own: ${JSON.stringify(push)}`);
      return;
    }
    if (number < this.next || this.ahead.has(number)) {
      metrics.duplicated.add(1);
      complain(`${this.to} received push ${push.seq} again${where}`);
      return;
    }
    if (this.newest.length > 0) {
      const publisher = number % this.newest.length;
      if (number < this.newest[publisher]) metrics.outOfOrder.add(1);
      else this.newest[publisher] = number;
    }
    this.ahead.add(number);
    while (this.ahead.delete(this.next)) this.next += 1;
    metrics.missing.add(-1);
    metrics.arrived.add(1);
    metrics.latency.add(now() - push.at);
  }
}

const socketUrl = (nodeUrl, user) => `${nodeUrl.replace(/^http/, 'ws')}/ws?user=${encodeURIComponent(user)}`;

/** Counts how one connection fares: opening, then open, then over, each of them once. */
class Fate {
  constructor(nodeUrl, user) {
    this.who = `${user} at ${nodeUrl}`;
    this.started = now();
    this.state = 'opening';
  }
  open() {
    if (this.state !== 'opening') return;
    this.state = 'open';
    metrics.opened.add(1);
    metrics.connect.add(now() - this.started);
  }
  /** The end that the script wanted. */
  left() {
    this.state = 'over';
  }
  /** Any other end. */
  broke(reason) {
    if (this.state === 'over') return;
    const opening = this.state === 'opening';
    this.state = 'over';
    (opening ? metrics.failed : metrics.lost).add(1);
    complain(`${this.who} ${opening ? 'could not connect' : 'lost the connection'}: ${reason}`);
  }
}

/** Takes a pushnode.v1 frame apart. Frame types unknown here are left alone, as the protocol asks of clients. */
function onFrame(text, user, { onReady = () => {}, onData }) {
  const frame = parse(text);
  switch (frame && frame.type) {
    case 'ready':
      return onReady(frame);
    case 'message':
      return onData(frame.data);
    case 'resync':
      return metrics.resyncs.add(1);
    case 'bye':
    case 'degraded':
    case 'error':
      return complain(`${user} was told: ${text}`);
  }
}

/**
 * Holds one connection, open when the upgrade is answered. With `protocol: true` it speaks pushnode.v1; without, each
 * frame is the data. Gives `{ close(), giveUp() }`; `giveUp` closes what has not opened by now and counts it as failed.
 */
function hold(nodeUrl, user, { protocol = false, onData }) {
  const fate = new Fate(nodeUrl, user);
  const socket = new WebSocket(socketUrl(nodeUrl, user), protocol ? ['pushnode.v1'] : [], { tags: { name: 'ws' } });
  socket.addEventListener('open', () => fate.open());
  socket.addEventListener('message', (event) => {
    if (protocol) onFrame(event.data, user, { onData });
    else onData(parse(event.data));
  });
  socket.addEventListener('error', (event) => fate.broke(event.error));
  socket.addEventListener('close', () => fate.broke('closed by the node'));
  return {
    close() {
      fate.left();
      socket.close();
    },
    giveUp() {
      if (fate.state !== 'opening') return;
      fate.broke('timed out');
      socket.close();
    },
  };
}

/**
 * One visit in pushnode.v1, open when `ready` has come; returns when it is over. `onReady(ready, leave)` and
 * `onData(data, leave)` may call `leave(ms)` to close after so many milliseconds. Returns whether `ready` came.
 */
export function visit(nodeUrl, user, { seconds, onReady, onData }) {
  const fate = new Fate(nodeUrl, user);
  let ready = false;
  const params = { headers: { 'Sec-WebSocket-Protocol': 'pushnode.v1' }, tags: { name: 'ws' } };
  const response = ws.connect(socketUrl(nodeUrl, user), params, (socket) => {
    const end = () => {
      if (fate.state === 'opening') fate.broke(`no \`ready\` in ${seconds} s`);
      else fate.left();
      socket.close();
    };
    // k6 has no timeout of zero.
    const leave = (ms) => socket.setTimeout(end, Math.max(ms, 1));
    socket.on('message', (text) =>
      onFrame(text, user, {
        onReady: (frame) => {
          ready = true;
          fate.open();
          onReady(frame, leave);
        },
        onData: (data) => onData(data, leave),
      }),
    );
    socket.on('error', (error) => fate.broke(error.error()));
    socket.on('close', () => fate.broke('closed by the node'));
    leave(1000 * seconds);
  });
  fate.broke(`upgrade answered with ${response.status} ${response.error || ''}`);
  return ready;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch (_) {
    return text;
  }
}

/**
 * The body of the `connections` scenario: opens this VU's share of the connections, evenly spread so that the node's
 * accept queue is not what is measured, and closes them when the run is over.
 * `describe(index)` gives each one's `{ nodeUrl, user, inbox, protocol }`; `onAllOpen()` is called before the first push.
 */
export function holdConnections(config, describe, onAllOpen = () => {}) {
  const held = [];
  for (let index = exec.scenario.iterationInTest; index < config.connections; index += config.receivers) {
    const { nodeUrl, user, inbox, protocol } = describe(index);
    setTimeout(() => {
      held.push(hold(nodeUrl, user, { protocol, onData: (push) => inbox.take(push) }));
    }, (1000 * index) / config.connectRate);
  }
  // A little before the first push, so that what `onAllOpen` asks does not meet the pushes.
  setTimeout(() => onAllOpen(), config.connect * 1000 - 500);
  setTimeout(() => held.forEach((connection) => connection.giveUp()), config.connect * 1000);
  const total = config.connect + config.duration + config.drain;
  setTimeout(() => held.forEach((connection) => connection.close()), total * 1000);
}

// ---- pushing ----

const pushParams = (timeout) => ({
  timeout: `${timeout}s`,
  headers: Object.assign({ 'content-type': 'application/json' }, authorization()),
});

function authorization() {
  return __ENV.API_KEY ? { authorization: `Bearer ${__ENV.API_KEY}` } : {};
}

function pushBody(run, to, seq) {
  return JSON.stringify({ to, data: { run, user: to.all ? '*' : to.user, seq, at: now() } });
}

/** One push that must cause `arrivals` arrivals. A push that is refused counts as missing too: nobody got it. */
export function push(config, nodeUrl, run, to, seq, arrivals = 1) {
  metrics.sent.add(1);
  metrics.missing.add(arrivals);
  const response = http.post(`${nodeUrl}/v1/push`, pushBody(run, to, seq), pushParams(config.drain));
  checkAnswer(response, to);
}

/** The same without waiting: from inside a visit, a blocking call would hold up the VU's own connection. */
export async function pushAsync(config, nodeUrl, run, to, seq) {
  metrics.sent.add(1);
  metrics.missing.add(1);
  const body = pushBody(run, to, seq);
  checkAnswer(await http.asyncRequest('POST', `${nodeUrl}/v1/push`, body, pushParams(config.drain)), to);
}

function checkAnswer(response, to) {
  const answer = parse(response.body) || {};
  const good = check(response, {
    'push is answered with 200': (r) => r.status === 200,
    'push is routed': () => answer.status === 'routed',
  });
  if (!good) complain(`push to ${JSON.stringify(to)}: ${response.status} ${response.body || response.error}`);
}

// ---- asking ----

/** What the cluster knows about a user: `{ online, connections }`, or an empty object if it does not answer. */
export function whereIs(nodeUrl, user) {
  const response = http.get(`${nodeUrl}/v1/users/${user}`, { headers: authorization(), tags: { name: 'user' } });
  return parse(response.body) || {};
}

/** The id of the node behind a URL, which only a connection is told. */
export function nodeId(nodeUrl, run, index) {
  let id;
  const onReady = (ready, leave) => {
    id = ready.node;
    leave(0);
  };
  if (!visit(nodeUrl, userName(run, `probe${index}`), { seconds: 5, onReady, onData: () => {} })) {
    throw new Error(`no connection to ${nodeUrl}`);
  }
  return id;
}
