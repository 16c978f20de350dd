// What the client asks the node, and the answers: in order, at most 32 under way, and so paced
// that the node's limit of frames is never reached. Sends wait here while there is no connection.

import type { Link } from "./link.js";
import type { Frame } from "./transport.js";
import { PushError, type SendOptions, type Sent } from "./types.js";

/** The node answers more with `busy`. */
const MOST_UNDER_WAY = 32;
/** In a second, and so at most twice as many in any second: below `PUSH_CLIENT_RATE` (100). */
const RATE = 45;

const ignore = () => {};

interface Request {
  frame: object;
  /** Its place in the order. */
  n: number;
  /** Of a `send`: it is in the service's stream, the reply may follow. */
  accept?: () => void;
  resolve(answer: Frame): void;
  reject(error: PushError): void;
  isIdempotent?: boolean;
  /** It counts as under way: sent and without any answer yet. */
  isOpen?: boolean;
}

export interface Requests {
  /**
   * About this connection only: it fails with `lost` when the connection does. By callbacks, as
   * frames that come right after the answer must find it done: promises are later than that.
   */
  ask(frame: object, resolve?: (answer: Frame) => void, reject?: (error: PushError) => void): void;
  send(route: string, data: unknown, options?: SendOptions): Sent<any>;
  /** An answer, if it is to something that was asked here. */
  hear(frame: Frame): boolean;
  /** There may be something to do. */
  pump(): void;
  /** The connection is lost. With a code: what waits for another one is not sent, either. */
  end(code?: string): void;
}

export function createRequests(link: () => Link, timeout: number, room: number): Requests {
  // Services may recognize a repeat by user and ref, so a ref is not used again after a reload.
  const prefix = Math.random().toString(36).slice(2) + "-";
  /** About the connection: before all sends. */
  const asks = new Set<Request>();
  let sends: Request[] = [];
  const sent = new Map<string, Request>();
  let last = 0;
  let open = 0;
  let budget = RATE;
  let held = 0; // refusals whose time has not passed: no sends until then

  const pump = () => {
    for (const request of [...asks, ...sends]) {
      if (!link().line?.send || open >= MOST_UNDER_WAY || !budget) return;
      if (request.accept && held) return;
      if (budget-- === RATE) {
        setTimeout(() => {
          budget = RATE;
          pump();
        }, 1_000);
      }
      asks.delete(request) || sends.splice(sends.indexOf(request), 1);
      const ref = prefix + request.n;
      sent.set(ref, request);
      request.isOpen = true;
      open++;
      link().say({ ...request.frame, ref });
    }
  };
  const answered = (request: Request) => {
    if (request.isOpen) open--;
    request.isOpen = false;
  };
  /** To be sent again, where it stood. */
  const putBack = (request: Request) => {
    sends.push(request);
    sends.sort((a, b) => a.n - b.n);
  };

  const send = (route: string, data: unknown, options: SendOptions = {}): Sent<any> => {
    const n = ++last;
    let accept!: () => void;
    let fail!: (error: PushError) => void;
    const accepted = new Promise<void>((yes, no) => {
      accept = yes;
      fail = no;
    });
    const reply = new Promise<unknown>((yes, no) => {
      const { line, closed } = link();
      const end = (error: PushError) => {
        clearTimeout(timer);
        fail(error);
        no(error);
      };
      const request: Request = {
        n,
        frame: { type: "send", route, data },
        accept,
        reject: end,
        isIdempotent: options.idempotent,
        resolve({ status, data, error }) {
          accept();
          if (status === "failed") return end(new PushError(status, error));
          clearTimeout(timer);
          yes(data);
        },
      };
      const timer = setTimeout(() => {
        sends = sends.filter((one) => one !== request);
        if (sent.delete(prefix + n)) answered(request);
        end(new PushError("timeout"));
        pump();
      }, options.timeout ?? timeout);
      if (closed) return end(new PushError("closed"));
      if (line && !line.send) return end(new PushError("read_only"));
      if (!line && sends.length >= room) return end(new PushError("queue_full"));
      sends.push(request);
      pump();
    });
    // An application that looks at one of the two only is not warned of the other.
    for (const promise of [accepted, reply]) promise.catch(() => {});
    return Object.assign(reply, { accepted });
  };

  return {
    pump,
    send,
    ask(frame, resolve = ignore, reject = ignore) {
      asks.add({ n: ++last, frame, resolve, reject });
      pump();
    },
    hear(frame) {
      const { ref, type, code, retry_ms: retryMs } = frame;
      const request = sent.get(ref);
      if (!request) return false;
      answered(request);
      if (frame.status === "accepted") {
        request.accept!();
      } else {
        sent.delete(ref);
        if (type !== "error") {
          request.resolve(frame);
        } else if (code === "rate_limited" && request.accept) {
          held++;
          putBack(request);
          setTimeout(() => {
            held--;
            pump();
          }, retryMs);
        } else {
          request.reject(new PushError(code, frame.message, retryMs));
        }
      }
      pump();
      return true;
    },
    end(code) {
      const all = [...asks, ...sent.values(), ...(code ? sends : [])];
      asks.clear();
      sent.clear();
      if (code) sends = [];
      for (const request of all) {
        answered(request);
        if (request.isIdempotent && !code) putBack(request);
        else request.reject(new PushError(code ?? (request.accept ? "unknown" : "lost")));
      }
    },
  };
}
