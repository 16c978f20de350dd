// The client: what an application holds, and what gives each frame to whom it concerns. The order
// of frames is kept: all here is synchronous.

import { createEmitter, type Emitter, whenReady } from "./emitter.js";
import { close, say } from "./link.js";
import { forget, positions, remember, save } from "./memory.js";
import { endRequests, errorOf, pump, send } from "./requests.js";
import { hearExpiring, renew, renewal } from "./token.js";
import { endTopics, hearPresence, lose, openTopic, resumeTopics, topics, want } from "./topics.js";
import type { Frame } from "./transport.js";
import { type Answerer, type Client, type Message, PushError } from "./types.js";

type Mutable<T> = { -readonly [name in keyof T]: T[name] };

let answerer: Answerer | undefined;
let calls = new AbortController(); // of this connection
let isFailing = false;

const emitter = createEmitter();
export const emit = emitter._emit;

/** What no promise carries. */
export const fail = (error: unknown) => {
  let isHeard;
  // Not what a handler of errors throws.
  if (!isFailing) {
    isFailing = true;
    isHeard = emit("error", error);
    isFailing = false;
  }
  isHeard ?? console.warn("pushnode:", error);
};

/** Another user: nothing of the old one is left. */
export const reset = () => {
  forget();
  if (!client.user) return; // of an earlier page: what this one has asked for is the new user's
  client.user = undefined;
  endRequests("user_changed");
  endTopics(new PushError("user_changed"));
};

export const HEAR: Record<string, (frame: any) => void> = {
  message(message: Frame & Message) {
    const { data, event, topic = "", id, resume, _id } = message;
    Object.assign(message, {
      kept: !!(resume ?? (STREAMS && _id)),
      position: resume,
      ack: () => say({ type: "ack", id }),
    });
    const holder = topic ? topics.get(topic) : client;
    const isBad = (holder ?? client)._emit("message", data, message);
    const isWorse = event && emit(":" + event, data, message);
    if (STREAMS && _id) positions.id = _id;
    if (resume && holder) remember(topic, resume);
    else if (STREAMS && _id) save();
    if (id && !isBad && !isWorse && options.ack !== "manual") message.ack();
  },
  async call({ ref, id, data }) {
    const { signal } = calls;
    const answer: Record<string, unknown> = { type: "answer", ref };
    try {
      if (!answerer) throw "no handler";
      answer.data = (await answerer(data, { id, signal })) ?? null;
    } catch (error: any) {
      answer.error = error?.message ?? String(error);
    }
    // Its connection may have ended, and another one would not know the call.
    if (!signal.aborted) say(answer);
  },
  ping: () => say({ type: "pong" }),
  presence: hearPresence,
  resync: ({ topic }) => lose(topic),
  degraded: ({ reason }) => emit("degraded", reason),
  subscribed: ({ topic }) => emit("topic", topic, "subscribed"),
  unsubscribed({ topic }) {
    endTopics(new PushError("unsubscribed"), topic);
    emit("topic", topic, "unsubscribed");
  },
  expiring: hearExpiring,
  error: (frame) => fail(errorOf(frame)),
};

/** The first frame of a line. True: this line must not be used; connect again. */
export const hearReady = (frame: Frame) => {
  const { user, resume, _id } = frame;
  const { user: before, id, at } = positions;
  const isOther = before && before !== user;
  if (isOther) reset();
  client.user = positions.user = user;
  // It began at a position of the other user.
  if (isOther && ((STREAMS && id) || at[""])) return true;
  if (resume) positions.at[""] = resume;
  if (STREAMS) positions.id = _id;
  save();
  client.connection = frame.node + "/" + frame.fd;
  if (frame.recovered === false) lose();
  resumeTopics(STREAMS && !!id);
  pump();
};
/** The line that was `ready` has ended. */
export const lost = () => {
  client.connection = undefined;
  clearTimeout(renewal);
  calls.abort();
  calls = new AbortController();
  topics.forEach((topic) => {
    topic.state = "subscribing";
    want(topic);
  });
  endRequests();
};

export const client = {
  state: "connecting",
  ...emitter,
  topic: openTopic,
  send: (route, data, options) => send({ type: "send", route, data }, options),
  answer(handler) {
    answerer = handler;
    return () => {
      if (answerer === handler) answerer = undefined;
    };
  },
  ready: (signal) => whenReady(client as any, signal),
  renew,
  close: () => close({ code: 1000, reason: "goodbye" }),
} as Mutable<Client<any, any>> &
  Emitter & {
    /** Set once the client is closed for good: what everything fails with from then on. */
    _ended?: PushError;
  };
