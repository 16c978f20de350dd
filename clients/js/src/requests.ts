// What the client asks the node, and the answers: in order, at most 32 under way, and so paced
// that the node's limit of frames is never reached. Sends wait here while there is no connection.

import type { Core } from "./core.js";
import type { Subscription } from "./topics.js";
import { type Frame, takes } from "./transport.js";
import { PushError } from "./types.js";

/** The node answers more with `busy`. */
const MOST_UNDER_WAY = 32;
/** In a second, and so at most twice as many in any second: below `PUSH_CLIENT_RATE` (100). */
const RATE = 45;

const nothing = () => {};

interface Request {
  /** Its place in the order: what is about the connection comes before all sends. */
  _n: number;
  _frame: object;
  /** Of a send: the node has it, and a reply of the service may follow. */
  _accept?: () => void;
  _resolve(answer: Frame): void;
  _reject(error: PushError): void;
  _isIdempotent?: boolean;
  /** 1 while it counts as under way: sent and without any answer yet. Undefined while it waits. */
  _isOpen?: number;
  _topic?: Subscription;
}

export function addRequests(core: Core) {
  const { timeout = 10_000, queue: room = 100 } = core._options;
  // Services may recognize a repeat by user and ref, so a ref is not used again after a reload.
  const prefix = Math.random().toString(36).slice(2);
  const sent = new Map<string, Request>();
  let queue: Request[] = [];
  let last = 0;
  let open = 0;
  let budget = RATE;
  let held = 0; // refusals whose time has not passed: no sends until then

  const put = (request: Request) => {
    request._isOpen = undefined;
    queue.push(request);
    queue.sort((a, b) => a._n - b._n);
  };
  const pump = (core._pump = () => {
    while (takes(core) && open < MOST_UNDER_WAY && budget) {
      const [request] = queue;
      if (!request || (request._accept && held)) return;
      if (request._topic?.state === "subscribing") return;
      if (budget-- === RATE) {
        setTimeout(() => {
          budget = RATE;
          pump();
        }, 1_000);
      }
      queue.shift();
      open += request._isOpen = 1;
      const ref = prefix + request._n;
      sent.set(ref, request);
      core._say({ ...request._frame, ref });
    }
  });
  const answered = (request: Request) => {
    if (request._isOpen) open--;
    request._isOpen = 0;
  };

  core._ask = (_frame, _resolve = nothing, _reject = nothing) => {
    put({ _n: ++last - 1e9, _frame, _resolve, _reject });
    pump();
  };
  core._send = (_frame, options = {}, _topic) => {
    const _n = ++last;
    const { _line: line } = core;
    const request = { _n, _frame, _topic, _isIdempotent: options.idempotent } as Request;
    const reply = new Promise<any>((resolve, reject) => {
      request._reject = reject;
      request._resolve = ({ status, data, error, messages, more }) => {
        if (status === "failed") reject(new PushError(status, error));
        else resolve(messages ? { messages, more } : data);
      };
    });
    const accepted = Promise.race([
      new Promise<void>((resolve) => (request._accept = resolve)),
      reply.then(nothing),
    ]);
    const timer = setTimeout(() => {
      queue = queue.filter((one) => one !== request);
      if (sent.delete(prefix + _n)) answered(request);
      request._reject(new PushError("timeout"));
      pump();
    }, options.timeout ?? timeout);
    reply.finally(() => clearTimeout(timer)).catch(nothing);
    // An application that looks at the reply only is not warned.
    accepted.catch(nothing);
    if (core._closed) request._reject(core._closed);
    else if (STREAMS && line && !line.send) request._reject(new PushError("read_only"));
    else if (!line && queue.length >= room) request._reject(new PushError("queue_full"));
    else put(request);
    pump();
    return Object.assign(reply, { accepted });
  };
  core._answered = (frame) => {
    const { ref, type, status, code, message, retry_ms: retryMs } = frame;
    const request = sent.get(ref);
    if (!request) return;
    answered(request);
    if (status === "accepted") request._accept!();
    else {
      sent.delete(ref);
      if (type !== "error") request._resolve(frame);
      else if (code === "rate_limited" && request._accept) {
        held++;
        put(request);
        setTimeout(() => {
          held--;
          pump();
        }, retryMs);
      } else request._reject(new PushError(code, message, retryMs));
    }
    pump();
    return true;
  };
  core._endRequests = (code) => {
    const all = [...sent.values(), ...queue];
    sent.clear();
    queue = [];
    for (const request of all) {
      const isSafe = request._isIdempotent || request._isOpen === undefined;
      answered(request);
      if (!code && request._accept && isSafe) put(request);
      else request._reject(new PushError(code ?? (request._accept ? "unknown" : "lost")));
    }
  };
}
