// The public types: what an application sees. docs/javascript-reference.md is made of them, and
// test/types.ts holds them to what the compiler infers.

export type State = "connecting" | "connected" | "reconnecting" | "closed";

/** Why the client is closed for good: a close code of PROTOCOL.md, or one of 4401, 4403, 4409. */
export interface Closed {
  code: number;
  reason: string;
}

/** Why a token is asked for. */
export type TokenReason = "connect" | "expiring" | "expired" | "refused";

export interface Options {
  /** The token, or a function that gets one from your backend. It may throw {@link Unauthorized}. */
  token?: string | ((why: { reason: TokenReason }) => string | Promise<string>);
  /** With `PUSH_AUTH=none`; otherwise checked against the token. */
  user?: string;
  /** Shown to senders who ask where the user is. */
  device?: string;
  /**
   * Tried in turn until one was `ready`.
   * @default ["ws", "sse"]
   */
  transports?: ("ws" | "sse")[];
  /**
   * Where the client remembers how far it has read. `session` survives a reload of the page;
   * `false` begins at now.
   * @default "memory"
   */
  resume?: "memory" | "session" | false;
  /**
   * `auto` acknowledges a message after all its handlers returned without throwing.
   * @default "auto"
   */
  ack?: "auto" | "manual";
  /**
   * Milliseconds of the pauses between tries. After `stable` connected they are short again.
   * @default { min: 500, max: 20_000, stable: 5_000 }
   */
  backoff?: { min?: number; max?: number; stable?: number };
  /**
   * Milliseconds for connecting, for a token, for a request.
   * @default 10_000
   */
  timeout?: number;
  /**
   * How many sends may wait while there is no connection. 0: none.
   * @default 100
   */
  queue?: number;
  /**
   * For Node.js below 22 and for tests.
   * @default the global one
   */
  WebSocket?: new (url: string, protocols?: string[]) => WebSocketLike;
  /**
   * For tests.
   * @default the global one
   */
  fetch?: typeof fetch;
  /**
   * Where page events come from. `null`: nowhere.
   * @default window
   */
  events?: EventTarget | null;
}

/** What the client uses of a WebSocket. */
export interface WebSocketLike {
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number): void;
}

export interface Message<T = unknown> {
  readonly data: T;
  /** The name that the sender gave the push. */
  readonly event?: string;
  readonly topic?: string;
  readonly id?: string;
  /** If a member of the topic published it. */
  readonly from?: Author;
  /** It is kept on the nodes, and comes again if you disconnect before it was handled. */
  readonly kept: boolean;
  /** Where it is kept, for `before` of `history`; not over server-sent events. */
  readonly position?: string;
  /** Acknowledges it, with `ack: "manual"`. */
  ack(): void;
}

export interface Events {
  /** With `reconnecting` how many milliseconds until the next try; with `closed` why. */
  state: (state: State, why?: Closed | { retryIn: number }) => void;
  /** Pushes to the user and to everybody, and of topics that a sender has subscribed. */
  message: (data: any, message: Message<any>) => void;
  /** Something may be missing in the inbox, or in the topic: fetch it from your backend. */
  gap: (topic?: string) => void;
  /** The node is cut off from the others. */
  degraded: (reason: string) => void;
  /** A sender, or a new token, has changed the subscriptions. */
  topic: (name: string, now: "subscribed" | "unsubscribed") => void;
  /** What no promise carries. Without a handler it is logged by `console.warn`. */
  error: (error: Error) => void;
}

/** Who is in a topic. The values are what the node tells of a member, if anything. */
export type Members = ReadonlyMap<string, unknown>;

export interface Presence {
  /** Empty where the topic's rule tells no names. */
  members: Members;
  /** How many users there are. */
  count: number;
  /** Since the last event. */
  joined: string[];
  /** Since the last event. */
  left: string[];
}

export interface TopicEvents<T> {
  /** A push to the topic. */
  message: (data: T, message: Message<T>) => void;
  /** With `presence: true`, on each change. */
  presence: (now: Presence) => void;
  /** Something may be missing. */
  gap: () => void;
  /** Also after a reconnect. */
  subscribed: () => void;
  /** Refused, or ended by a sender or a new token. */
  closed: (error: PushError) => void;
}

/** A handle of a topic. `for await (const data of topic)` reads its messages. */
export interface Topic<T = unknown> extends AsyncIterable<T> {
  readonly name: string;
  readonly state: "subscribing" | "subscribed" | "closed";
  /** With `presence: true`, once the node has told. */
  readonly members?: Members;
  /** How many users there are, also where the topic's rule tells no names. */
  readonly count?: number;
  /** Returns the function that takes the handler off. */
  on<E extends keyof TopicEvents<T>>(event: E, handler: TopicEvents<T>[E]): () => void;
  /**
   * Resolves once it is subscribed.
   * @throws forbidden - the topic, or its presence, is not allowed
   * @throws too_many_topics - the connection has `PUSH_MAX_TOPICS`
   * @throws unsubscribed - a sender, or a new token, has ended the subscription
   * @throws user_changed - the token is another user's
   * @throws closed - the handle or the client is closed
   */
  ready(): Promise<void>;
  /**
   * What was kept before a message, or the newest; the oldest first.
   * @throws forbidden - clients may not read what is kept of the topic
   * @throws bad_message - `before` or `limit` is wrong
   * @throws timeout - no answer in time
   * @throws queue_full - there is no connection, and as many wait as may
   * @throws read_only - the connection is an event stream
   * @throws user_changed - the token is another user's
   * @throws closed - the client is closed
   */
  history(options?: HistoryOptions): Promise<{ messages: PastMessage<T>[]; more: boolean }>;
  /**
   * To the members of the topic, where its rule lets members publish. Waits until the topic is
   * subscribed.
   * @throws forbidden - you are no member, or the topic's rule lets none publish
   * @throws too_large - the data is over `max_bytes` of the rule
   * @throws unavailable - no way to the members; has `retryIn`
   * @throws unknown - the connection broke before the answer
   * @throws timeout - no answer in time; what still waited is not sent
   * @throws queue_full - there is no connection, and as many wait as may
   * @throws read_only - the connection is an event stream
   * @throws user_changed - the token is another user's
   * @throws closed - the client is closed
   */
  publish(data: T, options?: PublishOptions): Promise<void>;
  /** Unsubscribes with the last handle of this topic. */
  close(): void;
}

export interface TopicOptions {
  /**
   * To be told who is in the topic.
   * @default false
   */
  presence?: boolean;
  /**
   * Where to begin in the topic's log: a position, or `"0"` for all that is kept.
   * @default from now on
   */
  since?: string;
  /** To begin with so many of the last kept messages, 1 to 100. */
  last?: number;
}

/** Who published to a topic; set by the node. */
export interface Author {
  user: string;
  connection: string;
}

/** A message that was kept. */
export interface PastMessage<T = unknown> {
  readonly data: T;
  readonly event?: string;
  readonly id?: string;
  /** If a member of the topic published it. */
  readonly from?: Author;
  /** Its name, for `before` of `history`. Its first part is the time in milliseconds. */
  readonly entry: string;
}

export interface HistoryOptions {
  /**
   * The `position` of a message, or the `entry` of a past one.
   * @default the newest
   */
  before?: string;
  /**
   * At most so many messages, 1 to 100.
   * @default 50
   */
  limit?: number;
}

export interface PublishOptions {
  /** Its name. */
  event?: string;
  /**
   * Give it to this client, too.
   * @default false
   */
  echo?: boolean;
}

export interface SendOptions {
  /**
   * Milliseconds until the reply.
   * @default the client's `timeout`
   */
  timeout?: number;
  /**
   * Repeat it with the same `ref` after a reconnect, instead of failing with `unknown`.
   * @default false
   */
  idempotent?: boolean;
}

/** The service's reply, and before it, that the service's stream has what was sent. */
export interface Sent<R> extends Promise<R> {
  /** Resolves when the service's stream has it. */
  accepted: Promise<void>;
}

export type Answerer = (data: any, call: { id?: string; signal: AbortSignal }) => unknown;

type AnyRoutes<R> = { [route in keyof R]: { send: unknown; reply: unknown } };

export interface Client<
  Topics = Record<string, any>,
  Routes extends AnyRoutes<Routes> = Record<string, { send: any; reply: any }>,
> {
  readonly state: State;
  /** Once the node has told it. */
  readonly user?: string;
  /** `<node>/<fd>`, while connected. */
  readonly connection?: string;
  /** Returns the function that takes the handler off. */
  on<E extends keyof Events>(event: E, handler: Events[E]): () => void;
  /** Pushes with this `event`: `on(":order.paid", ...)`. */
  on(event: `:${string}`, handler: (data: any, message: Message<any>) => void): () => void;
  /** Subscribes. Several handles of one topic are one subscription. */
  topic<K extends keyof Topics & string>(name: K, options?: TopicOptions): Topic<Topics[K]>;
  /**
   * Sends to a service. Without a connection sends wait in order.
   * @throws failed - the service says so; `message` is its text
   * @throws no_route - no service takes this route
   * @throws no_upstream - nothing can be sent at this node
   * @throws busy - the service cannot keep up; has `retryIn`
   * @throws unknown - the connection broke before the answer, and it is not `idempotent`
   * @throws timeout - no reply in time; what still waited is not sent
   * @throws queue_full - there is no connection, and as many wait as may
   * @throws read_only - the connection is an event stream
   * @throws user_changed - the token is another user's
   * @throws closed - the client is closed
   */
  send<R extends keyof Routes & string>(
    route: R,
    data: Routes[R]["send"],
    options?: SendOptions,
  ): Sent<Routes[R]["reply"]>;
  /** Answers calls of senders. What the handler throws is the answer `error`. */
  answer(handler: Answerer): () => void;
  /**
   * Resolves once connected. The signal ends the waiting, with its own reason.
   * @throws closed - the client is closed
   */
  ready(signal?: AbortSignal): Promise<void>;
  /**
   * Gets a token now and presents it. One of another user: a new connection without topics.
   * @throws timeout - `token` gave none in time
   * @throws token_invalid - the node refuses it
   * @throws token_expired - it has ended
   */
  renew(): Promise<void>;
  /** For good: `connect` again makes a new client. */
  close(): void;
}

/** `code` is one of PROTOCOL.md, or of the client's own in docs/javascript.md. */
export class PushError extends Error {
  readonly code: string;
  /** Milliseconds after which trying again makes sense. */
  readonly retryIn?: number;

  constructor(code: string, message = code, retryIn?: number) {
    super(message);
    this.code = code;
    this.retryIn = retryIn;
  }
}

/** Throw it in `token`: there is no user. The client is then closed for good. */
export class Unauthorized extends Error {}
