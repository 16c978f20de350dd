// The client as its parts see it: the object that the application holds, and what the parts give
// each other. Each part adds its own to it. Names that begin with `_` are shortened by the build,
// and no application may use them.

import type { Emitter } from "./emitter.js";
import type { Frame, Line } from "./transport.js";
import type { Client, Closed, Options, PushError, SendOptions, Sent, State, TokenReason } from "./types.js";
import type { Subscription } from "./topics.js";

/**
 * False where the build makes the client without event streams: what serves them alone is then
 * left out (build.mjs).
 */
declare global {
  const STREAMS: boolean;
}

/** How far the client has read. A JSON object, so that it may outlive the page. */
export interface Positions {
  /** Positions are a user's own. */
  user?: string;
  /** The id of the last event of an event stream, which covers inbox and topics. */
  id?: string;
  /** By topic; of the inbox without a name. */
  at: Record<string, string>;
}

type Mutable<T> = { -readonly [name in keyof T]: T[name] };

export interface Core extends Mutable<Client<any, any>>, Emitter {
  on: any;
  state: State;
  _url: string;
  _options: Options;
  /** What no promise carries. */
  _fail(error: unknown): void;

  // memory.ts
  _positions: Positions;
  _save(): void;
  _forget(): void;

  // link.ts
  /** The line, once it is `ready`. */
  _line?: Line;
  /** Set once the client is closed for good: what everything fails with from then on. */
  _closed?: PushError;
  /** The token to connect with. */
  _token?: string;
  /** No function gives it: what was refused cannot be replaced. */
  _isFixed: boolean;
  /** When it ends. */
  _tokenEnd: number;
  _askToken(reason: TokenReason): Promise<void>;
  _say(object: object): void;
  /** Opens another line in place of this one. */
  _again(): void;
  _close(why: Closed): void;

  // client.ts
  /** The first frame of a line. True: this line must not be used; connect again. */
  _ready(frame: Frame): unknown;
  _frame(frame: Frame): unknown;
  /** The line that was `ready` has ended. */
  _lost(): void;

  // requests.ts
  /**
   * About this connection only: it fails with `lost` when the connection does. By callbacks, as
   * frames that come right after the answer must find it done: promises are later than that.
   */
  _ask(frame: object, resolve?: (answer: Frame) => void, reject?: (error: PushError) => void): void;
  /** Waits for a connection if there is none, and while `topic` is not subscribed yet. */
  _send(
    frame: object,
    options?: SendOptions,
    topic?: Subscription,
  ): Sent<any>;
  /** An answer, if it is to something that was asked here. */
  _answered(frame: Frame): true | undefined;
  /** There may be something to do. */
  _pump(): void;
  /** The connection is lost. With a code: what waits for another one is not sent, either. */
  _endRequests(code?: string): void;

  // topics.ts
  _topics: Map<string, Subscription>;
  /**
   * A new connection. What an event stream's request has named is subscribed, and begins where it
   * was only if the stream itself did.
   */
  _openTopics(isResumed: boolean): void;
  /** Asks for it with all that the application wants at the same time. */
  _want(topic: Subscription): void;
  _presence(frame: Frame): void;
  /** Something may be missing in it. */
  _gap(name: string): void;
  /** Ends a topic, or all. */
  _endTopics(error: PushError, name?: string): void;
}
