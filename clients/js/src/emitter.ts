// Handlers by event, and the state of what has them. A handler that throws stops neither the
// others nor the client.

import { fail } from "./client.js";
import type { PushError } from "./types.js";

export type Handler = (...args: any[]) => void;

export interface Emitter {
  on(event: string, handler: Handler): () => void;
  /** True if a handler threw; undefined if there is none. */
  _emit(event: string, ...args: unknown[]): boolean | undefined;
}

/** The client, a topic, or a handle of one. */
interface Stateful extends Emitter {
  state: string;
  /** Set once it is closed: what everything fails with from then on. */
  _ended?: PushError;
}

export const createEmitter = (): Emitter => {
  // In boxes, so that a handler that was added twice is taken off once.
  const boxes = new Set<[string, Handler]>();
  return {
    on(...box) {
      boxes.add(box);
      return () => boxes.delete(box);
    },
    _emit(event, ...args) {
      let isBad: boolean | undefined;
      for (const [name, handler] of [...boxes]) {
        if (name !== event) continue;
        isBad ??= false;
        try {
          handler(...args);
        } catch (error) {
          isBad = true;
          fail(error);
        }
      }
      return isBad;
    },
  };
};

export const become = (one: Pick<Stateful, "state" | "_emit">, state: string, why?: unknown) => {
  one.state = state;
  one._emit(state, why);
  one._emit("state", state, why);
};

export const whenReady = (one: Stateful, signal?: AbortSignal) =>
  new Promise<void>((resolve, reject) => {
    const look = () => {
      if (/ing$/.test(one.state)) return;
      one._ended ? reject(one._ended) : resolve();
      off();
    };
    const off = one.on("state", look);
    signal?.addEventListener("abort", () => {
      off();
      reject(signal.reason);
    });
    look();
  });
