// The client: it joins the parts into what an application holds, and gives each frame to whom it
// concerns. The order of frames is kept: all here is synchronous.

import type { Core } from "./core.js";
import { createEmitter } from "./emitter.js";
import { addLink } from "./link.js";
import { addMemory } from "./memory.js";
import { addRequests } from "./requests.js";
import { addTopics } from "./topics.js";
import { type Frame, takes, type Transport } from "./transport.js";
import { type Answerer, type Client, type Message, type Options, PushError } from "./types.js";

export function createClient(url: string, options: Options, ladder: Transport[]): Client<any, any> {
  let answerer: Answerer | undefined;
  let calls: AbortController | undefined; // of this connection
  let renewal: ReturnType<typeof setTimeout>;
  let isFailing = false;

  const fail = (error: unknown) => {
    const log = () => console.warn("pushnode:", error);
    if (isFailing) return log(); // what a handler of errors throws
    isFailing = true;
    core._emit("error", error) ?? log();
    isFailing = false;
  };
  const core = {
    state: "connecting",
    _url: url,
    _options: options,
    _fail: fail,
    ...createEmitter(fail),
  } as Core;
  const { _emit: emit } = core;

  /** Another user: nothing of the old one is left. */
  const reset = () => {
    core._forget();
    if (!core.user) return; // of an earlier page: what this one has asked for is the new user's
    core.user = undefined;
    core._endRequests("user_changed");
    core._endTopics(new PushError("user_changed"));
  };

  const HEAR: Record<string, (frame: Frame) => void> = {
    message(frame) {
      const { data, event, topic, id, resume, _id } = frame;
      const message = frame as Frame & Message;
      const ack = () => core._say({ type: "ack", id });
      Object.assign(message, { kept: !!(resume ?? (STREAMS && _id)), position: resume, ack });
      const isBad = (core._topics.get(topic) ?? core)._emit("message", data, message);
      const isWorse = event && emit(":" + event, data, message);
      const { _positions: positions } = core;
      if (resume && (!topic || core._topics.has(topic))) positions.at[topic ?? ""] = resume;
      if (message.kept) {
        if (STREAMS && _id) positions.id = _id;
        core._save();
      }
      if (id && !isBad && !isWorse && options.ack !== "manual") ack();
    },
    async call({ ref, id, data }) {
      const { signal } = (calls ??= new AbortController());
      const answer: Record<string, unknown> = { type: "answer", ref };
      try {
        if (!answerer) throw "no handler";
        answer.data = (await answerer(data, { id, signal })) ?? null;
      } catch (error: any) {
        answer.error = error?.message ?? String(error);
      }
      // Its connection may have ended, and another one would not know the call.
      if (!signal.aborted) core._say(answer);
    },
    ping: () => core._say({ type: "pong" }),
    presence: (frame) => core._presence(frame),
    resync({ topic }) {
      if (topic) core._gap(topic);
      else emit("gap");
    },
    degraded: ({ reason }) => emit("degraded", reason),
    subscribed: ({ topic }) => emit("topic", topic, "subscribed"),
    unsubscribed({ topic }) {
      core._endTopics(new PushError("unsubscribed"), topic);
      emit("topic", topic, "unsubscribed");
    },
    expiring({ in_ms: inMs }) {
      core._tokenEnd = Date.now() + inMs;
      clearTimeout(renewal);
      // Not at once: a token that lives shorter than the notice would be renewed in a loop.
      if (!core._isFixed) renewal = setTimeout(() => core.renew().catch(fail), inMs / 2);
    },
    error: ({ code, message, retry_ms: retryMs }) => fail(new PushError(code, message, retryMs)),
  };

  core._ready = (frame) => {
    const { user, resume, _id } = frame;
    const { user: before, id, at } = core._positions;
    const isOther = before && before !== user;
    if (isOther) reset();
    core.user = core._positions.user = user;
    if (isOther && ((STREAMS && id) || at[""])) return true; // it began at a position of the other user
    if (resume) core._positions.at[""] = resume;
    if (STREAMS) core._positions.id = _id;
    core._save();
    core.connection = frame.node + "/" + frame.fd;
    if (frame.recovered === false) emit("gap");
    core._openTopics(STREAMS && !!id);
    core._pump();
  };
  core._frame = (frame) => core._answered(frame) || HEAR[frame.type]?.(frame);
  core._lost = () => {
    core.connection = undefined;
    clearTimeout(renewal);
    calls?.abort();
    calls = undefined;
    for (const topic of core._topics.values()) {
      topic.state = "subscribing";
      core._want(topic);
    }
    core._endRequests();
  };

  core.send = (route, data, options) => core._send({ type: "send", route, data }, options);
  core.answer = (handler) => {
    answerer = handler;
    return () => {
      if (answerer === handler) answerer = undefined;
    };
  };
  core.ready = (signal) =>
    new Promise((resolve, reject) => {
      const look = () => {
        if (core.state === "connected") resolve();
        else if (core._closed) reject(core._closed);
        else return;
        off();
      };
      const off = core.on("state", look);
      signal?.addEventListener("abort", () => {
        off();
        reject(signal.reason);
      });
      look();
    });
  core.renew = async () => {
    await core._askToken("expiring");
    if (!takes(core)) return core._again(); // a stream begins with its token
    try {
      await new Promise((resolve, reject) => {
        core._ask({ type: "auth", token: core._token }, resolve, reject);
      });
    } catch (error) {
      const { code } = error as PushError;
      if (code === "lost") return; // the next connection begins with it
      if (code !== "wrong_user") throw error;
      reset();
      core._again();
    }
  };
  core.close = () => core._close({ code: 1000, reason: "goodbye" });

  addMemory(core);
  addRequests(core);
  addTopics(core);
  addLink(core, ladder);
  return core;
}
