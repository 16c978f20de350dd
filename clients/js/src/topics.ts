// The topics that the application holds. One subscription serves all handles of a topic; it is
// made again on each connection, from where its log was read. Topics are asked for in one request
// , and one by one where the node refuses that.

import { client, emit } from "./client.js";
import { become, createEmitter, type Emitter, whenReady } from "./emitter.js";
import { again, line, stream } from "./link.js";
import { positions, remember, save } from "./memory.js";
import { ask, errorOf, send } from "./requests.js";
import { type Frame, nothing } from "./transport.js";
import { type Client, type Members, PushError, type Topic } from "./types.js";

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
  /** An event stream's request has named it, as it is wanted. */
  _isAsked?: boolean;
  _since?: string;
  _last?: number;
}

type Handle = Subscription & Topic<any> & Emitter;

export const topics = new Map<string, Subscription>();
const wanted = new Set<Subscription>();

/** Something may be missing in it; without a name in the inbox. */
export const lose = (name?: string) => {
  emit("gap", name);
  topics.get(name!)?._emit("gap");
};

/** Ends a topic, or all. */
export const endTopics = (error: PushError, name?: string) => {
  for (const topic of [...topics.values()]) {
    if (name && topic.name !== name) continue;
    topics.delete(topic.name);
    wanted.delete(topic);
    // The client's own end leaves where a reloaded page begins.
    if (name) {
      delete positions.at[name];
      save();
    }
    topic._ended = error;
    become(topic, "closed", error);
  }
};

const settle = (topic: Subscription, answer: Partial<Frame>) => {
  const { name, state, _ended } = topic;
  if (_ended) return; // let go meanwhile
  const { resume, recovered, error = answer } = answer;
  if (error.code) return endTopics(errorOf(error as Frame), name);
  const isFirst = state !== "subscribed";
  if (isFirst && resume) remember(name, resume);
  if (recovered === false) lose(name);
  if (isFirst) become(topic, "subscribed");
};

const subscribe = (some: Subscription[]) => {
  const wishes = some.map(({ name: topic, state, _presence: presence, _since, _last: last }) => ({
    topic,
    presence,
    // Not again on the same connection: what is on its way would come twice.
    ...(state !== "subscribed" && { since: positions.at[topic] ?? _since, last }),
  }));
  ask(
    { type: "subscribe", ...(some[1] ? { topics: wishes } : wishes[0]) },
    (answer) => some.forEach((topic, at) => settle(topic, answer.topics?.[at] ?? answer)),
    (error: any) => {
      if (error.code === "lost") return; // asked again on the next connection
      // Not all are to blame.
      for (const topic of some) some[1] ? subscribe([topic]) : settle(topic, error);
    },
  );
};
const flush = () => {
  if (!line && !(STREAMS && stream)) return;
  const some = [...wanted];
  wanted.clear();
  if (STREAMS && stream) return some[0] && again(); // another stream, with these
  while (some[0]) subscribe(some.splice(0, MOST_AT_ONCE));
};
/** Asks for it with all that the application wants at the same time. */
export const want = (topic: Subscription) => {
  queueMicrotask(flush);
  wanted.add(topic);
};

export const openTopic: Client["topic"] = (name, { presence, since, last } = {}) => {
  let topic = topics.get(name)!;
  if (!topic) {
    const _handles = new Set<Emitter>();
    topic = {
      name,
      state: "subscribing",
      _since: since,
      _last: last,
      _handles,
      // Not `some`, which would end at the first.
      _emit: (...args) => [..._handles].filter((handle) => handle._emit(...args))[0] && true,
      history: (options) =>
        send({ ...options, type: "history", topic: name }, { idempotent: true }, topic),
      publish: (data, options) => send({ ...options, type: "publish", topic: name, data }, {}, topic),
    } as Subscription;
    topics.set(name, topic);
    want(topic);
    if (client._ended) endTopics(client._ended);
  }
  if (presence && !topic._presence) {
    topic._presence = true;
    if (STREAMS) topic._isAsked = false;
    want(topic);
  }
  const handle: Handle = {
    // What it does not have itself is the subscription's.
    __proto__: topic,
    ...createEmitter(),
    ready: () => whenReady(handle),
    close() {
      if (handle._ended) return;
      handle._ended = new PushError("closed");
      handle.state = "closed";
      handle._emit("state");
      topic._handles.delete(handle);
      if (topic._handles.size) return;
      endTopics(handle._ended, name);
      if (line) ask({ type: "unsubscribe", topic: name });
      else if (STREAMS) again();
    },
    async *[Symbol.asyncIterator]() {
      const messages: unknown[] = [];
      let turn = nothing;
      const off = handle.on("message", (data) => {
        if (messages.push(data) > MOST_WAITING) {
          messages.shift();
          topic._emit("gap");
        }
        turn();
      });
      handle.on("state", () => turn());
      try {
        while (messages.length || !handle._ended) {
          if (messages.length) yield messages.shift();
          else await new Promise<void>((resolve) => (turn = resolve));
        }
        if (handle._ended!.code !== "closed") throw handle._ended;
      } finally {
        off();
      }
    },
  } as any;
  topic._handles.add(handle);
  return handle;
};

/**
 * A new connection. What an event stream's request has named is subscribed, and begins where it
 * was only if the stream itself did.
 */
export const resumeTopics = (isResumed: boolean) => {
  if (!STREAMS || line) return flush();
  for (const topic of topics.values()) {
    if (!topic._isAsked) continue; // since then: another stream follows
    wanted.delete(topic);
    settle(topic, {});
    if (!isResumed && positions.at[topic.name]) lose(topic.name);
  }
  queueMicrotask(flush);
};
export const hearPresence = (frame: Frame) => {
  const { topic: name, members: list, join = [], leave = [], count, status } = frame;
  const topic = topics.get(name);
  if (!topic) return;
  if (status === "lost") {
    lose(name);
    return want(topic);
  }
  const { members: before = new Map<string, unknown>() } = topic;
  const members = (topic.members = new Map(list ? [] : before));
  // A member is a name, or an object with what the node tells of it.
  for (const one of list ?? join) members.set(one.user ?? one, one.info);
  for (const one of leave) members.delete(one.user ?? one);
  const only = (some: Members, other: Members) => [...some.keys()].filter((key) => !other.has(key));
  topic._emit("presence", {
    members,
    count: (topic.count = count ?? members.size),
    joined: only(members, before),
    left: only(before, members),
  });
};
