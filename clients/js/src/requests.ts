// What the client asks the node, and the answers: in order, at most 32 under way, and so paced
// that the node's limit of frames is never reached. Sends wait here while there is no connection.

import { client, HEAR } from "./client.js";
import { line, say, stream } from "./link.js";
import { room, timeout } from "./settings.js";
import type { Subscription } from "./topics.js";
import { type Frame, nothing } from "./transport.js";
import { PushError, type SendOptions, type Sent } from "./types.js";

/** The node answers more with `busy`. */
const MOST_UNDER_WAY = 32;
/** In any second; twice as many where the network holds them up: below `PUSH_CLIENT_RATE` (100). */
const RATE = 45;

interface Request {
  _frame: object;
  /** Of a send: the node has it, and a reply of the service may follow. */
  _accept?: (answer?: unknown) => void;
  _resolve(answer: Frame): void;
  _reject(error: PushError): void;
  _isIdempotent?: boolean;
  /** While it waits none, or 0; then 1, as it is under way; 2 from its first answer on. */
  _stage?: 0 | 1 | 2;
  _topic?: Subscription;
}

// Services may recognize a repeat by user and ref, so a ref is not used again after a reload.
const prefix = Math.random().toString(36).slice(2);
/** By ref, in the order in which they came. */
const requests = new Map<string, Request>();
let last = 0;
let budget = RATE;
let held = 0; // refusals whose time has not passed: no sends until then

const put = (request: Request) => {
  const ref = prefix + ++last;
  requests.set(ref, request);
  return ref;
};
const waiting = (isSend: boolean) =>
  [...requests].filter(([, { _stage, _accept }]) => !_stage && !_accept !== isSend);

/** Of a frame of type `error`, or of a reply that failed. */
export const errorOf = ({
  status,
  code = status,
  error,
  message = error,
  retry_ms: retryMs,
}: Frame) => new PushError(code, message, retryMs);

const drop = (ref: string, error: PushError) => {
  const request = requests.get(ref);
  requests.delete(ref);
  request?._reject(error);
};

/** There may be something to do. */
export const pump = () => {
  // What is about the connection comes before all sends.
  for (const [ref, request] of [...waiting(false), ...waiting(true)]) {
    if (
      !line ||
      !budget ||
      [...requests].filter(([, { _stage }]) => _stage === 1).length >= MOST_UNDER_WAY ||
      (request._accept && held) ||
      request._topic?.state === "subscribing"
    ) {
      return;
    }
    budget--;
    setTimeout(() => {
      budget++;
      pump();
    }, 1_000);
    request._stage = 1;
    say({ ...request._frame, ref });
  }
};

/**
 * About this connection only: it fails with `lost` when the connection does. By callbacks, as
 * frames that come right after the answer must find it done: promises are later than that.
 */
export const ask = (
  _frame: object,
  _resolve: (answer: Frame) => void = nothing,
  _reject: (error: PushError) => void = nothing,
) => {
  put({ _frame, _resolve, _reject });
  pump();
};

/** Waits for a connection if there is none, and while `topic` is not subscribed yet. */
export const send = (
  _frame: object,
  { idempotent: _isIdempotent, timeout: ms = timeout }: SendOptions = {},
  _topic?: Subscription,
): Sent<any> => {
  const request = { _frame, _topic, _isIdempotent } as Request;
  const reply = new Promise<any>((resolve, reject) => {
    request._reject = reject;
    request._resolve = ({ data, messages, more }) => resolve(messages ? { messages, more } : data);
  });
  const accepted = new Promise<any>((resolve, reject) => {
    request._accept = resolve;
    reply.finally(() => clearTimeout(timer)).then(resolve, reject);
  });
  // An application that looks at the reply only is not warned.
  accepted.catch(nothing);
  const ref = put(request);
  const timer = setTimeout(() => {
    drop(ref, new PushError("timeout"));
    pump();
  }, ms);
  if (client._ended) drop(ref, client._ended);
  else if (STREAMS && stream) drop(ref, new PushError("read_only"));
  else if (!line && waiting(true).length > room) drop(ref, new PushError("queue_full"));
  pump();
  return Object.assign(reply, { accepted });
};

/** A frame that may be an answer to what was asked or sent; any other is heard. */
export const answered = (frame: Frame) => {
  const { ref, type, status, code, retry_ms: retryMs } = frame;
  const request = requests.get(ref);
  if (!request) return HEAR[type]?.(frame);
  request._stage = 2;
  if (status === "accepted") request._accept!();
  else if (code === "rate_limited" && request._accept) {
    request._stage = 0;
    held++;
    setTimeout(() => {
      held--;
      pump();
    }, retryMs);
  } else {
    if (type === "error" || status === "failed") request._reject(errorOf(frame));
    else request._resolve(frame);
    requests.delete(ref);
  }
  pump();
};

/** The connection is lost. With a code: what waits for another one is not sent, either. */
export const endRequests = (code?: string) => {
  const all = [...requests];
  requests.clear();
  for (const [ref, request] of all) {
    const { _accept, _reject, _isIdempotent, _stage } = request;
    request._stage = 0;
    if (!code && _accept && (_isIdempotent || !_stage)) requests.set(ref, request);
    else _reject(new PushError(code ?? (_accept ? "unknown" : "lost")));
  }
};
