// The topics that the application holds. One subscription serves all handles of a topic; it is
// made again on each connection, from where its log was read. Topics are asked for in one request
// if the node knows how, otherwise one by one.

import { createEmitter, type Emitter, type Handler } from "./emitter.js";
import type { Link } from "./link.js";
import type { Memory } from "./memory.js";
import type { Requests } from "./requests.js";
import type { Frame } from "./transport.js";
import { type Members, type Message, PushError, type Topic, type TopicOptions } from "./types.js";

/** What waits for a `for await` that is slow. Beyond it the oldest is dropped, and `gap` told. */
const MOST_WAITING = 1_000;
/** Topics in one request: a node takes no more. */
const MOST_AT_ONCE = 250;

interface Subscription extends Emitter {
  name: string;
  /** How many handles there are. */
  count: number;
  ended?: PushError;
  isSubscribed?: boolean;
  wantsPresence?: boolean;
  since?: string;
  last?: number;
  members?: Members;
}

export interface Topics {
  open(name: string, options?: TopicOptions): Topic<any>;
  names(): string[];
  wantsPresence(): boolean;
  /**
   * A new connection. What an event stream's request has named is subscribed, and begins where it
   * was only if the stream itself did.
   */
  ready(isResumed: boolean): void;
  lost(): void;
  /** Gives a message to the handles of its topic. Undefined: there are none. */
  deliver(message: Message, name: string): boolean | undefined;
  presence(frame: Frame): void;
  gap(name: string): void;
  /** Ends a topic, or all. */
  end(error: PushError, name?: string): void;
}

export function createTopics(
  link: () => Link,
  requests: Requests,
  memory: Memory,
  gap: (name: string) => void,
  fail: (error: unknown) => void,
): Topics {
  const all = new Map<string, Subscription>();
  const wanted = new Set<Subscription>();

  const end = (error: PushError, name?: string) => {
    for (const topic of name ? [all.get(name)] : [...all.values()]) {
      if (!topic) continue;
      all.delete(topic.name);
      // The client's own end leaves where a reloaded page begins.
      if (name) forget(name);
      topic.ended = error;
      topic.emit("closed", error);
    }
  };

  const forget = (name: string) => {
    delete memory.positions.topics[name];
    memory.save();
  };

  const lose = (name: string) => {
    gap(name);
    all.get(name)?.emit("gap");
  };

  const subscribed = (topic: Subscription, { resume, recovered }: Partial<Frame> = {}) => {
    const isFirst = !topic.isSubscribed;
    topic.isSubscribed = true;
    if (isFirst && resume) {
      memory.positions.topics[topic.name] = resume;
      memory.save();
    }
    if (recovered === false) lose(topic.name);
    if (isFirst) topic.emit("subscribed");
  };

  const settle = (topic: Subscription, answer: Frame) => {
    if (all.get(topic.name) !== topic) return; // let go meanwhile
    const { code, message } = answer.error ?? answer;
    if (code) end(new PushError(code, message), topic.name);
    else subscribed(topic, answer);
  };

  const ask = (topics: Subscription[]) => {
    const wishes = topics.map(({ name, isSubscribed, wantsPresence, since, last }) => {
      const { [name]: position = since } = memory.positions.topics;
      // Not again on the same connection: what is on its way would come twice.
      const start = isSubscribed ? {} : { since: position, last };
      return { topic: name, ...start, presence: wantsPresence };
    });
    const isBatch = wishes.length > 1;
    const what = isBatch ? { topics: wishes } : wishes[0];
    requests.ask(
      { type: "subscribe", ...what },
      (answer) => topics.forEach((topic, at) => settle(topic, isBatch ? answer.topics[at] : answer)),
      (error: PushError) => {
        if (error.code === "lost") return; // asked again on the next connection
        if (isBatch) for (const topic of topics) ask([topic]);
        else settle(topics[0]!, error as unknown as Frame);
      },
    );
  };

  const flush = () => {
    const topics = [...wanted].filter((topic) => all.get(topic.name) === topic);
    wanted.clear();
    const { line } = link();
    if (!line) return;
    if (!line.send) return link().again(); // another stream, with these topics
    const most = link().isModern ? MOST_AT_ONCE : 1;
    for (let at = 0; at < topics.length; at += most) ask(topics.slice(at, at + most));
  };
  /** Asks for it with all that the application wants at the same time. */
  const want = (topic: Subscription) => {
    if (!wanted.size) queueMicrotask(flush);
    wanted.add(topic);
  };

  const letGo = ({ name }: Subscription) => {
    all.delete(name);
    forget(name);
    const { line } = link();
    if (line?.send) requests.ask({ type: "unsubscribe", topic: name });
    else if (line) link().again();
  };

  const open = (name: string, { presence, since, last }: TopicOptions = {}): Topic<any> => {
    let found = all.get(name);
    if (!found) {
      found = { name, count: 0, since, last, ...createEmitter(fail) };
      if (link().closed) found.ended = new PushError("closed");
      else {
        all.set(name, found);
        want(found);
      }
    }
    const topic = found;
    topic.count++;
    if (presence && !topic.wantsPresence) {
      topic.wantsPresence = true;
      want(topic);
    }
    const offs = new Set<() => void>();
    let closed: PushError | undefined; // this handle alone
    const ended = () => closed ?? topic.ended;
    const on = (event: string, handler: Handler) => {
      const off = topic.on(event, handler);
      offs.add(off);
      return () => {
        offs.delete(off);
        off();
      };
    };
    return {
      name,
      get state() {
        return ended() ? "closed" : topic.isSubscribed ? "subscribed" : "subscribing";
      },
      get members() {
        return topic.members;
      },
      on: (event: string, handler: Handler) => on(event, handler),
      ready: () =>
        new Promise((resolve, reject) => {
          if (ended()) reject(ended());
          if (topic.isSubscribed) resolve();
          topic.on("subscribed", resolve);
          topic.on("closed", reject);
        }),
      history: (options) =>
        new Promise((resolve, reject) => {
          if (!link().line?.send) reject(new PushError("read_only"));
          requests.ask({ ...options, type: "history", topic: name }, resolve as () => void, reject);
        }),
      close() {
        if (ended()) return;
        closed = new PushError("closed");
        for (const off of offs) off();
        if (!--topic.count) letGo(topic);
      },
      [Symbol.asyncIterator]() {
        const messages: unknown[] = [];
        let turn: () => void = () => {};
        const off = on("message", (data) => {
          if (messages.push(data) > MOST_WAITING) {
            messages.shift();
            topic.emit("gap");
          }
          turn();
        });
        on("closed", () => turn());
        offs.add(() => turn());
        return (async function* () {
          try {
            for (;;) {
              while (messages.length) yield messages.shift();
              const error = ended();
              if (error?.code === "closed") return;
              if (error) throw error;
              await new Promise<void>((resolve) => (turn = resolve));
            }
          } finally {
            off();
          }
        })();
      },
    };
  };

  return {
    open,
    names: () => [...all.keys()],
    wantsPresence: () => [...all.values()].some((topic) => topic.wantsPresence),
    ready(isResumed) {
      for (const topic of all.values()) wanted.add(topic);
      if (link().line!.send) flush();
      else {
        wanted.clear();
        for (const topic of all.values()) {
          subscribed(topic);
          if (!isResumed && memory.positions.topics[topic.name]) lose(topic.name);
        }
      }
    },
    lost() {
      for (const topic of all.values()) topic.isSubscribed = false;
    },
    deliver(message, name) {
      const topic = all.get(name);
      return topic?.emit("message", message.data, message);
    },
    presence({ topic: name, members: list, join = [], leave = [], status }) {
      const topic = all.get(name);
      if (!topic) return;
      if (status === "lost") {
        lose(name);
        return want(topic);
      }
      const before = topic.members ?? new Map<string, unknown>();
      const members = new Map(list ? [] : before);
      for (const member of [...(list ?? []), ...join]) {
        if (member.user) members.set(member.user, member.info);
        else members.set(member, undefined);
      }
      for (const member of leave) members.delete(member.user ?? member);
      const only = (one: Members, other: Members) => [...one.keys()].filter((key) => !other.has(key));
      topic.members = members;
      const joined = only(members, before);
      topic.emit("presence", { members, joined, left: only(before, members) });
    },
    gap: lose,
    end,
  };
}
