// What the four scripts share: settings, connections, pushes and, above all, the accounting.
//
// Accounting. k6 runs each virtual user (VU) in its own JavaScript runtime, so the VU that pushes and the VU that holds
// the addressee share no variables. Metrics are the one thing they share: `pushes_missing` goes up by the number of
// arrivals a push must cause before it is sent, and down by one with each first arrival. It is zero at the end only if
// everything arrived, and it stays above zero if a VU dies half-way. Duplicates and strangers never lower it.

import http from 'k6/http';
import exec from 'k6/execution';
import { check } from 'k6';
import { Counter, Trend } from 'k6/metrics';

// The module left `experimental` during k6 1.x and the old name is gone in 2.x; `import` could not try both.
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

  take(push) {
    const mine = push !== null && typeof push === 'object' && push.run === this.run && push.user === this.to;
    const number = mine ? this.number(push.seq) : undefined;
    if (number === undefined) {
      metrics.misrouted.add(1);
      complain(`${this.to} received what is not its own: ${JSON.stringify(push)}`);
      return;
    }
    if (number < this.next || this.ahead.has(number)) {
      metrics.duplicated.add(1);
      complain(`${this.to} received push ${push.seq} again`);
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

/**
 * Opens one connection and counts how it fares. With `protocol: true` it speaks pushnode.v1 and is open when `ready`
 * has come; without, each frame is the data and it is open when the upgrade is answered.
 * Gives `{ opened, closed, close(), giveUp() }`: `opened` resolves to the `ready` object, or to null if there will be
 * no connection, `closed` when the socket is gone; `giveUp` closes what has not opened by now and counts it as failed.
 */
export function openConnection(nodeUrl, user, { protocol = false, onData }) {
  const started = now();
  const socket = new WebSocket(
    `${nodeUrl.replace(/^http/, 'ws')}/ws?user=${encodeURIComponent(user)}`,
    protocol ? ['pushnode.v1'] : [],
    { tags: { name: 'ws' } },
  );
  let state = 'opening';
  let settle;
  let settleClosed;
  const opened = new Promise((resolve) => (settle = resolve));
  const closed = new Promise((resolve) => (settleClosed = resolve));

  function open(ready) {
    if (state !== 'opening') return;
    state = 'open';
    metrics.opened.add(1);
    metrics.connect.add(now() - started);
    settle(ready);
  }
  function end(reason) {
    if (state === 'opening') {
      metrics.failed.add(1);
      complain(`${user} could not connect to ${nodeUrl}: ${reason}`);
    } else if (state === 'open') {
      metrics.lost.add(1);
      complain(`${user} lost its connection to ${nodeUrl}: ${reason}`);
    }
    state = 'closed';
    settle(null);
  }

  socket.addEventListener('open', () => {
    if (!protocol) open({});
  });
  socket.addEventListener('message', (event) => {
    const frame = parse(event.data);
    if (!protocol) return onData(frame);
    switch (frame && frame.type) {
      case 'ready':
        return open(frame);
      case 'message':
        return onData(frame.data);
      case 'resync':
        return metrics.resyncs.add(1);
      case 'bye':
      case 'degraded':
      case 'error':
        return complain(`${user} was told: ${event.data}`);
    }
  });
  socket.addEventListener('error', (event) => {
    if (state !== 'closed') end(event.error);
  });
  socket.addEventListener('close', () => {
    if (state !== 'closed') end('closed by the node');
    settleClosed();
  });
  return {
    opened,
    closed,
    close() {
      state = 'closed';
      settle(null);
      socket.close();
    },
    giveUp() {
      if (state !== 'opening') return;
      end('timed out');
      socket.close();
    },
  };
}

/**
 * Resolves as `promise` does, or to undefined after so many seconds. A short tick instead of one long timer that is
 * cleared: before k6 1.3 `clearTimeout` makes another timer fire in its place (grafana/k6#5199).
 */
export function within(seconds, promise) {
  return new Promise((resolve) => {
    const deadline = now() + 1000 * seconds;
    let settled = false;
    promise.then((value) => {
      settled = true;
      resolve(value);
    });
    (function tick() {
      if (settled) return;
      if (now() > deadline) resolve(undefined);
      else setTimeout(tick, 20);
    })();
  });
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
 * `describe(index)` gives each one's `{ nodeUrl, user, inbox, protocol, onOpen }`.
 */
export function holdConnections(config, describe) {
  const held = [];
  for (let index = exec.scenario.iterationInTest; index < config.connections; index += config.receivers) {
    const { nodeUrl, user, inbox, protocol, onOpen } = describe(index);
    setTimeout(() => {
      const onData = (push) => inbox.take(push);
      const connection = openConnection(nodeUrl, user, { protocol, onData });
      if (onOpen) connection.opened.then((ready) => ready && onOpen(ready));
      held.push(connection);
    }, (1000 * index) / config.connectRate);
  }
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

/** The same from inside an event loop, where a blocking call would hold up the VU's own connection. */
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

export function isOnline(nodeUrl, user) {
  const response = http.get(`${nodeUrl}/v1/users/${user}`, { headers: authorization(), tags: { name: 'user' } });
  const answer = parse(response.body) || {};
  return answer.online;
}

/** The id of the node behind a URL, which only a connection is told. */
export async function nodeId(nodeUrl, run, index) {
  const probe = openConnection(nodeUrl, userName(run, `probe${index}`), { protocol: true, onData: () => {} });
  const ready = await within(5, probe.opened);
  probe.close();
  if (!ready) throw new Error(`no connection to ${nodeUrl}`);
  return ready.node;
}
