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

interface Handle extends Emitter {
  end(error: PushError): void;
}

interface Subscription {
  name: string;
  handles: Set<Handle>;
  isSubscribed: boolean;
  wantsPresence?: boolean;
  since?: string;
  members?: Members;
}

export interface Topics {
  open(name: string, options?: TopicOptions): Topic<any>;
  names(): string[];
  wantsPresence(): boolean;
  /** A new connection: what the event stream's request has named is subscribed. */
  ready(): void;
  lost(): void;
  /** Gives a message to the handles of its topic. Undefined: there are none. */
  deliver(message: Message, name: string): boolean | undefined;
  presence(frame: Frame): void;
  gap(name?: string): void;
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

  const emit = (topic: Subscription | undefined, event: string, ...args: unknown[]) => {
    let isFine = true;
    for (const handle of [...(topic?.handles ?? [])]) {
      isFine = handle.emit(event, ...args) && isFine;
    }
    return isFine;
  };

  const end = (error: PushError, name?: string) => {
    for (const topic of name === undefined ? [...all.values()] : [all.get(name)]) {
      if (!topic) continue;
      all.delete(topic.name);
      // The client's own end leaves where a reloaded page begins.
      if (name) delete memory.positions.topics[name];
      for (const handle of [...topic.handles]) handle.end(error);
    }
    memory.save();
  };

  const lose = (name: string) => {
    gap(name);
    emit(all.get(name), "gap");
  };

  const subscribed = (topic: Subscription, answer?: Frame) => {
    const isFirst = !topic.isSubscribed;
    topic.isSubscribed = true;
    const { resume, recovered } = answer ?? ({} as Frame);
    if (isFirst && resume) {
      memory.positions.topics[topic.name] = resume;
      memory.save();
    }
    if (recovered === false) lose(topic.name);
    if (isFirst) emit(topic, "subscribed");
  };

  const settle = (topic: Subscription, answer: Frame) => {
    if (all.get(topic.name) !== topic) return; // let go meanwhile
    const { code, message, error } = answer;
    if (error || code) end(new PushError(error?.code ?? code, error?.message ?? message), topic.name);
    else subscribed(topic, answer);
  };

  const ask = (topics: Subscription[]) => {
    const wishes = topics.map(({ name, isSubscribed, wantsPresence, since }) => {
      const { [name]: position = since } = memory.positions.topics;
      // Not again on the same connection: what is on its way would come twice.
      return { topic: name, since: isSubscribed ? undefined : position, presence: wantsPresence };
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
    if (!link().isUp) return;
    if (!link().canSend) return link().again(); // another stream, with these topics
    const most = link().isModern ? MOST_AT_ONCE : 1;
    for (let at = 0; at < topics.length; at += most) ask(topics.slice(at, at + most));
  };
  /** Asks for it with all that the application wants at the same time. */
  const want = (topic: Subscription) => {
    if (!wanted.size) queueMicrotask(flush);
    wanted.add(topic);
  };

  const letGo = (topic: Subscription) => {
    all.delete(topic.name);
    delete memory.positions.topics[topic.name];
    memory.save();
    if (link().canSend) {
      requests.ask({ type: "unsubscribe", topic: topic.name });
    } else if (link().isUp) link().again();
  };

  const open = (name: string, { presence, since }: TopicOptions = {}): Topic<any> => {
    let found = all.get(name);
    if (!found) {
      found = { name, handles: new Set(), isSubscribed: false, since };
      all.set(name, found);
      want(found);
    }
    const topic = found;
    if (presence && !topic.wantsPresence) {
      topic.wantsPresence = true;
      want(topic);
    }
    let ended: PushError | undefined;
    const emitter = createEmitter(fail);
    const handle: Handle = {
      ...emitter,
      end(error) {
        if (ended) return;
        ended = error;
        topic.handles.delete(handle);
        emitter.emit("closed", error);
      },
    };
    topic.handles.add(handle);
    if (link().closed) handle.end(new PushError("closed"));

    return {
      name,
      get state() {
        return ended ? "closed" : topic.isSubscribed ? "subscribed" : "subscribing";
      },
      get members() {
        return topic.members;
      },
      on: (event, handler) => emitter.on(event, handler as Handler),
      ready: () =>
        new Promise((resolve, reject) => {
          if (ended) reject(ended);
          else if (topic.isSubscribed) resolve();
          emitter.on("subscribed", resolve);
          emitter.on("closed", reject);
        }),
      close() {
        if (ended) return;
        // Asked for by the application: its own handlers need not be told.
        ended = new PushError("closed");
        topic.handles.delete(handle);
        emitter.emit("end");
        if (!topic.handles.size && all.get(name) === topic) letGo(topic);
      },
      [Symbol.asyncIterator]: () => iterate(emitter, () => ended),
    };
  };

  return {
    open,
    names: () => [...all.keys()],
    wantsPresence: () => [...all.values()].some((topic) => topic.wantsPresence),
    ready() {
      for (const topic of all.values()) wanted.add(topic);
      if (link().canSend) flush();
      else {
        wanted.clear();
        for (const topic of all.values()) subscribed(topic);
      }
    },
    lost() {
      for (const topic of all.values()) topic.isSubscribed = false;
    },
    deliver(message, name) {
      const topic = all.get(name);
      return topic && emit(topic, "message", message.data, message);
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
      emit(topic, "presence", { members, joined, left: only(before, members) });
    },
    gap(name) {
      if (name) lose(name);
    },
    end,
  };
}

/** The messages of a handle from now on, until it ends. */
function iterate(emitter: Emitter, ended: () => PushError | undefined): AsyncIterator<any> {
  const messages: unknown[] = [];
  let turn: () => void = () => {};
  const off = [
    emitter.on("message", (data) => {
      if (messages.push(data) > MOST_WAITING) {
        messages.shift();
        emitter.emit("gap");
      }
      turn();
    }),
    emitter.on("closed", () => turn()),
    emitter.on("end", () => turn()),
  ];
  let isDone = false;
  const stop = () => {
    isDone = true;
    for (const one of off) one();
    return { done: true as const, value: undefined };
  };
  return {
    async next() {
      while (!isDone && !messages.length && !ended()) {
        await new Promise<void>((resolve) => (turn = resolve));
      }
      if (!isDone && messages.length) return { done: false, value: messages.shift() };
      const error = isDone ? undefined : ended();
      stop();
      if (error && error.code !== "closed") throw error;
      return { done: true, value: undefined };
    },
    async return() {
      const end = stop();
      turn();
      return end;
    },
  };
}
