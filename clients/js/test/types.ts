// What the compiler must accept, and what it must refuse: `npm run types` checks this file.
import { connect, PushError, Unauthorized, type Message, type State } from "pushnode-js";
import { connect as connectByWebSocket } from "pushnode-js/ws";
import { useLatest, usePresence, useTopic } from "pushnode-js/react";

interface News {
  title: string;
}
interface Routes {
  "chat.say": { send: { text: string }; reply: { id: number } };
}
type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const isTrue = <T extends true>(_: T) => {};

export async function typed() {
  const push = connect<{ news: News; count: number }, Routes>("wss://push.example.com", {
    token: async ({ reason }) => {
      if (reason === "refused") throw new Unauthorized();
      return "token";
    },
  });
  push.topic("news").on("message", (news, message) => {
    isTrue<Equal<typeof news, News>>(true);
    isTrue<Equal<typeof message, Message<News>>>(true);
  });
  for await (const n of push.topic("count")) isTrue<Equal<typeof n, number>>(true);
  const sent = push.send("chat.say", { text: "hello" }, { idempotent: true });
  await sent.accepted;
  const reply = await sent;
  isTrue<Equal<typeof reply, { id: number }>>(true);
  push.on("state", (state, why) => {
    isTrue<Equal<typeof state, State>>(true);
    if (why && "retryIn" in why) isTrue<Equal<typeof why.retryIn, number>>(true);
  });
  push.on(":order.paid", (_data, { event }) => isTrue<Equal<typeof event, string | undefined>>(true));
  const off: () => void = push.answer(async (_ask, { signal }) => signal.aborted);
  off();
  // @ts-expect-error no such topic
  push.topic("weather");
  // @ts-expect-error no such route
  push.send("chat.shout", { text: "hello" });
  // @ts-expect-error the route takes another thing
  push.send("chat.say", { words: "hello" });
  // @ts-expect-error no such event
  push.on("massage", () => {});
  // @ts-expect-error no such transport
  connect("wss://push.example.com", { transports: ["tcp"] });
  // @ts-expect-error this entry has one transport
  connectByWebSocket("wss://push.example.com", { transports: ["ws"] });
}

export function untyped() {
  const push = connect("wss://push.example.com");
  push.topic("anything").on("closed", (error) => isTrue<Equal<typeof error, PushError>>(true));
  push.send("any.route", 1).catch((error: PushError) => error.retryIn);
}

export function Component() {
  useTopic<News>("news", (news, { id }) => [news.title, id]);
  const latest = useLatest<News>("news");
  isTrue<Equal<typeof latest, News | undefined>>(true);
  return [...usePresence("room").keys()];
}

export async function members() {
  const push = connect<{ chat: { text: string } }>("wss://push.example.com");
  const room = push.topic("chat", { presence: true });
  await room.publish({ text: "hello" }, { event: "said", echo: true });
  // @ts-expect-error the topic carries another thing
  await room.publish("hello");
  // @ts-expect-error no such option
  await room.publish({ text: "hello" }, { keep: true });
  room.on("presence", ({ count }) => isTrue<Equal<typeof count, number>>(true));
  room.on("message", (_data, { from }) => from?.connection);
}
