// The topics that the application holds. One subscription serves all handles of a topic; it is
// made again on each connection, from where its log was read. Topics are asked for in one request
// , and one by one where the node refuses that.

import type { Core } from "./core.js";
import { createEmitter, type Emitter } from "./emitter.js";
import { type Frame, takes } from "./transport.js";
import { type Members, PushError, type Topic } from "./types.js";

/** What waits for a `for await` that is slow. Beyond it the oldest is dropped, and `gap` told. */
const MOST_WAITING = 1_000;
/** Topics in one request: a node takes no more. */
const MOST_AT_ONCE = 250;

/** What a topic's handles share: each has it as its prototype. */
export interface Subscription {
  name: string;
  state: Topic["state"];
  members?: Members;
  count?: number;
  history: Topic["history"];
  publish: Topic["publish"];
  _handles: Set<Emitter>;
  _emit: Emitter["_emit"];
  _ended?: PushError;
  _presence?: boolean;
  _since?: string;
  _last?: number;
}

type Handle = Subscription & Topic<any> & Emitter;

export function addTopics(core: Core) {
  const all = (core._topics = new Map<string, Subscription>());
  const wanted = new Set<Subscription>();

  const forget = (name: string) => {
    delete core._positions.at[name];
    core._save();
  };
  const lose = (core._gap = (name) => {
    core._emit("gap", name);
    all.get(name)?._emit("gap");
  });
  const end = (core._endTopics = (error, name) => {
    for (const topic of [...all.values()]) {
      if (name && topic.name !== name) continue;
      all.delete(topic.name);
      // The client's own end leaves where a reloaded page begins.
      if (name) forget(name);
      topic._ended = error;
      topic.state = "closed";
      topic._emit("closed", error);
      topic._emit("");
    }
  });

  const subscribed = (topic: Subscription, { resume, recovered }: Partial<Frame> = {}) => {
    const isFirst = topic.state !== "subscribed";
    topic.state = "subscribed";
    if (isFirst && resume) {
      core._positions.at[topic.name] = resume;
      core._save();
    }
    if (recovered === false) lose(topic.name);
    if (isFirst) topic._emit("subscribed");
  };
  const settle = (topic: Subscription, answer: Frame) => {
    if (topic.state === "closed") return; // let go meanwhile
    const { code, message } = answer.error ?? answer;
    if (code) end(new PushError(code, message), topic.name);
    else subscribed(topic, answer);
  };

  const ask = (topics: Subscription[]) => {
    const wishes = topics.map(({ name: topic, state, _presence: presence, _since, _last: last }) => ({
      topic,
      presence,
      // Not again on the same connection: what is on its way would come twice.
      ...(state !== "subscribed" && { since: core._positions.at[topic] ?? _since, last }),
    }));
    core._ask(
      { type: "subscribe", ...(topics[1] ? { topics: wishes } : wishes[0]) },
      (answer) => topics.forEach((topic, at) => settle(topic, answer.topics?.[at] ?? answer)),
      (error: any) => {
        if (error.code === "lost") return; // asked again on the next connection
        // Not all are to blame.
        for (const topic of topics) topics[1] ? ask([topic]) : settle(topic, error);
      },
    );
  };
  const flush = () => {
    const { _line: line } = core;
    if (!line) return;
    const topics = [...wanted].filter(({ state }) => state !== "closed");
    wanted.clear();
    if (STREAMS && !line.send) return topics[0] && core._again(); // another stream, with these
    while (topics[0]) ask(topics.splice(0, MOST_AT_ONCE));
  };
  const want = (core._want = (topic) => {
    queueMicrotask(flush);
    wanted.add(topic);
  });

  const letGo = (topic: Subscription) => {
    const { name } = topic;
    all.delete(name);
    forget(name);
    topic.state = "closed";
    if (takes(core)) core._ask({ type: "unsubscribe", topic: name });
    else if (STREAMS) core._again();
  };

  core.topic = (name, { presence, since, last } = {}) => {
    let found = all.get(name);
    if (!found) {
      const _handles = new Set<Emitter>();
      found = {
        name,
        state: "subscribing",
        _since: since,
        _last: last,
        _handles,
        _emit: (...args) => [..._handles].map((handle) => handle._emit(...args)).some(Boolean),
        history: (options) =>
          core._send({ ...options, type: "history", topic: name }, { idempotent: true }, found),
        publish: (data, options) =>
          core._send({ ...options, type: "publish", topic: name, data }, {}, found),
      } as Subscription;
      all.set(name, found);
      want(found);
      if (core._closed) core._endTopics(core._closed);
    }
    const topic = found;
    if (presence && !topic._presence) {
      topic._presence = true;
      want(topic);
    }
    const handle: Handle = {
      // What it does not have itself is the subscription's.
      __proto__: topic,
      ...createEmitter(core._fail),
      ready: () =>
        new Promise<void>((resolve, reject) => {
          if (handle._ended) reject(handle._ended);
          if (handle.state === "subscribed") resolve();
          handle.on("subscribed", resolve);
          handle.on("closed", reject);
        }),
      close() {
        if (handle._ended) return;
        handle._ended = new PushError("closed");
        handle.state = "closed";
        handle._emit("");
        topic._handles.delete(handle);
        if (!topic._handles.size) letGo(topic);
      },
      async *[Symbol.asyncIterator]() {
        const messages: unknown[] = [];
        let turn = () => {};
        const off = handle.on("message", (data) => {
          if (messages.push(data) > MOST_WAITING) {
            messages.shift();
            topic._emit("gap");
          }
          turn();
        });
        handle.on("", () => turn());
        try {
          for (;;) {
            while (messages.length) yield messages.shift();
            const { _ended: error } = handle;
            if (error?.code === "closed") return;
            if (error) throw error;
            await new Promise<void>((resolve) => (turn = resolve));
          }
        } finally {
          off();
        }
      },
    } as any;
    topic._handles.add(handle);
    return handle;
  };

  core._openTopics = (isResumed) => {
    if (!STREAMS || core._line!.send) return flush();
    wanted.clear();
    for (const topic of all.values()) {
      subscribed(topic);
      if (!isResumed && core._positions.at[topic.name]) lose(topic.name);
    }
  };
  core._presence = ({ topic: name, members: list, join = [], leave = [], count, status }) => {
    const topic = all.get(name);
    if (!topic) return;
    if (status === "lost") {
      lose(name);
      return want(topic);
    }
    const before = topic.members ?? new Map<string, unknown>();
    const members = new Map(list ? [] : before);
    // A member is a name, or an object with what the node tells of it.
    for (const one of list ?? join) members.set(one.user ?? one, one.info);
    for (const one of leave) members.delete(one.user ?? one);
    const only = (some: Members, other: Members) => [...some.keys()].filter((key) => !other.has(key));
    topic.members = members;
    topic.count = count ?? members.size;
    const joined = only(members, before);
    topic._emit("presence", { members, count: topic.count, joined, left: only(before, members) });
  };
}
