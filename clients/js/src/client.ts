// The client: it joins the link, the requests and the topics into what an application holds, and
// gives each frame to whom it concerns. The order of frames is kept: all here is synchronous.

import { createEmitter, type Handler } from "./emitter.js";
import { createLink, type Link } from "./link.js";
import { createMemory } from "./memory.js";
import { createRequests } from "./requests.js";
import { createTopics } from "./topics.js";
import type { Frame, Transport } from "./transport.js";
import {
  type Answerer,
  type Client,
  type Message,
  type Options,
  PushError,
} from "./types.js";

export function createClient(url: string, options: Options, ladder: Transport[]): Client {
  const memory = createMemory(url, options.resume);
  const emitter = createEmitter((error) => fail(error));
  const { emit } = emitter;
  const requests = createRequests(() => link, options.timeout ?? 10_000, options.queue ?? 100);
  const topics = createTopics(
    () => link,
    requests,
    memory,
    (name) => emit("gap", name),
    (error) => fail(error),
  );
  let user: string | undefined;
  let connection: string | undefined;
  let answerer: Answerer | undefined;
  let calls: AbortController | undefined; // of this connection
  let renewal: ReturnType<typeof setTimeout>;
  let asked: string | undefined; // the position that this connection began with
  let isFailing = false;

  /** What no promise carries. */
  const fail = (error: unknown) => {
    if (isFailing || !emitter.hears("error")) return console.warn("pushnode:", error);
    isFailing = true; // what a handler of errors throws is logged
    emit("error", error);
    isFailing = false;
  };

  /** Another user: nothing of the old one is left. */
  const reset = () => {
    user = undefined;
    memory.forget();
    requests.end("user_changed");
    topics.end(new PushError("user_changed"));
  };

  const hearMessage = (frame: Frame) => {
    const { data, event, topic, id, resume, lastId } = frame;
    const ack = () => link.say({ type: "ack", id });
    const kept = !!(resume || lastId);
    const message: Message = { data, event, topic, id, kept, ack, position: resume };
    let isFine = (topic && topics.deliver(message, topic)) ?? emit("message", data, message);
    if (event) isFine = emit(":" + event, data, message) && isFine;
    const { positions } = memory;
    if (resume && !topic) positions.inbox = resume;
    if (resume && topics.names().includes(topic)) positions.topics[topic] = resume;
    if (kept) {
      if (lastId) positions.lastId = lastId;
      memory.save();
    }
    if (isFine && id && options.ack !== "manual") ack();
  };

  const hearCall = async ({ ref, id, data }: Frame) => {
    const { signal } = (calls ??= new AbortController());
    const answer: Record<string, unknown> = { type: "answer", ref };
    try {
      if (!answerer) throw new Error("no handler");
      answer.data = (await answerer(data, { id, signal })) ?? null;
    } catch (error) {
      answer.error = error instanceof Error ? error.message : String(error);
    }
    // Its connection may have ended, and another one would not know the call.
    if (!signal.aborted) link.say(answer);
  };

  const renew = async () => {
    await link.tokens.ask("expiring");
    if (!link.line?.send) return link.again(); // a stream begins with its token
    try {
      await new Promise((resolve, reject) => {
        requests.ask({ type: "auth", token: link.tokens.value }, resolve, reject);
      });
    } catch (error) {
      const { code } = error as PushError;
      if (code === "lost") return; // the next connection begins with it
      if (code !== "wrong_user") throw error;
      reset();
      link.again();
    }
  };

  const HEAR: Record<string, (frame: Frame) => void> = {
    message: hearMessage,
    call: hearCall,
    presence: topics.presence,
    resync({ topic }) {
      if (topic) topics.gap(topic);
      else emit("gap");
    },
    degraded: ({ reason }) => emit("degraded", reason),
    subscribed: ({ topic }) => emit("topic", topic, "subscribed"),
    unsubscribed({ topic }) {
      topics.end(new PushError("unsubscribed"), topic);
      emit("topic", topic, "unsubscribed");
    },
    expiring({ in_ms: inMs }) {
      link.tokens.ends(inMs);
      clearTimeout(renewal);
      // Not at once: a token that lives shorter than the notice would be renewed in a loop.
      if (!link.tokens.isFixed) renewal = setTimeout(() => renew().catch(fail), inMs / 2);
    },
    error: ({ code, message, retry_ms: retryMs }) => fail(new PushError(code, message, retryMs)),
  };

  const link: Link = createLink(url, options, ladder, {
    wish() {
      const { inbox, lastId } = memory.positions;
      asked = lastId ?? inbox;
      const { user, device } = options;
      const names = topics.names().map(encodeURIComponent).join();
      return { user, device, since: inbox, lastId, topics: names, presence: topics.wantsPresence() };
    },
    ready(frame) {
      const { user: now, resume, lastId } = frame;
      const isOther = (user ?? memory.positions.user ?? now) !== now;
      if (isOther && user) reset();
      if (isOther) memory.forget();
      user = now;
      if (isOther && asked) return false; // by a position of the other user
      const { positions } = memory;
      positions.user = user;
      if (resume) positions.inbox = resume;
      const isResumed = !!positions.lastId;
      positions.lastId = lastId;
      memory.save();
      connection = frame.node + "/" + frame.fd;
      if (frame.recovered === false) emit("gap");
      topics.ready(isResumed);
      requests.pump();
      return true;
    },
    frame(frame) {
      if (frame.ref !== undefined && frame.type !== "call" && requests.hear(frame)) return;
      HEAR[frame.type]?.(frame);
    },
    lost() {
      connection = undefined;
      clearTimeout(renewal);
      calls?.abort();
      calls = undefined;
      topics.lost();
      requests.end();
    },
    state(state, why) {
      if (state === "closed") {
        requests.end("closed");
        topics.end(new PushError("closed", link.closed!.reason));
      }
      emit("state", state, why);
    },
    error: fail,
  });

  return {
    get state() {
      return link.state;
    },
    get user() {
      return user;
    },
    get connection() {
      return connection;
    },
    on: (event: string, handler: Handler) => emitter.on(event, handler),
    topic: topics.open,
    send: requests.send,
    answer(handler) {
      answerer = handler;
      return () => {
        if (answerer === handler) answerer = undefined;
      };
    },
    ready: (signal) =>
      new Promise((resolve, reject) => {
        const look = () => {
          if (link.state === "connected") resolve();
          else if (link.closed) reject(new PushError("closed", link.closed.reason));
          else return;
          off();
        };
        const off = emitter.on("state", look);
        signal?.addEventListener("abort", () => {
          off();
          reject(signal.reason);
        });
        look();
      }),
    renew,
    close: () => link.close({ code: 1000, reason: "goodbye" }),
  };
}
