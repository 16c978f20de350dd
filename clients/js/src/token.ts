// The token: asked for when there is none or it is no longer good, and by one question at a time.

import type { Options, TokenReason } from "./types.js";
import { within } from "./time.js";

export interface Tokens {
  readonly value: string | undefined;
  /** No function: what was refused cannot be replaced. */
  readonly isFixed: boolean;
  /** Asks for one if there is none that may be good. */
  prepare(): Promise<void>;
  ask(reason: TokenReason): Promise<void>;
  /** It ends in so many milliseconds; `Infinity`: it was renewed. */
  ends(inMs: number): void;
  /** It is no longer good. */
  drop(reason: TokenReason): void;
}

export function createTokens(source: Options["token"], timeout: number): Tokens {
  const isFixed = typeof source !== "function";
  let value = isFixed ? source : undefined;
  let reason: TokenReason = "connect";
  let end = Infinity;
  let asked: Promise<void> | undefined;

  const ask = (why: TokenReason) =>
    (asked ??= (async () => {
      try {
        if (isFixed) return;
        value = await within(timeout, Promise.resolve(source({ reason: why })));
        end = Infinity;
        reason = "connect";
      } finally {
        asked = undefined;
      }
    })());
  return {
    get value() {
      return value;
    },
    isFixed,
    prepare: async () => {
      if (!isFixed && value && Date.now() > end) reason = "expired";
      else if (isFixed || value) return;
      await ask(reason);
    },
    ask,
    ends: (inMs) => {
      end = Date.now() + inMs;
    },
    drop: (why) => {
      if (isFixed) return;
      value = undefined;
      reason = why;
    },
  };
}
