// The token: asked for when there is none or it is no longer good, and by one question at a time.

import { within } from "./time.js";
import { type Closed, type Options, type TokenReason, Unauthorized } from "./types.js";

export interface Tokens {
  value: string | undefined;
  /** No function: what was refused cannot be replaced. */
  readonly isFixed: boolean;
  /** Asks for one if there is none that may be good. */
  prepare(): Promise<void>;
  ask(reason: TokenReason): Promise<void>;
  /** It ends in so many milliseconds. */
  ends(inMs: number): unknown;
  /** It is no longer good. */
  drop(reason: TokenReason): void;
}

/** `close` is for a provider that says that there is no user. */
export function createTokens(
  source: Options["token"],
  timeout: number,
  close: (why: Closed) => void,
): Tokens {
  const isFixed = typeof source !== "function";
  let reason: TokenReason = "connect";
  let end = Infinity;
  let asked: Promise<void> | undefined;

  const ask = async (why: TokenReason) => {
    if (isFixed) return;
    try {
      tokens.value = await within(timeout, Promise.resolve(source({ reason: why })));
      end = Infinity;
      reason = "connect";
    } catch (error) {
      if (error instanceof Unauthorized) close({ code: 4401, reason: error.message });
      throw error;
    }
  };
  const tokens: Tokens = {
    value: isFixed ? source : undefined,
    isFixed,
    ask: (why) => (asked ??= ask(why).finally(() => (asked = undefined))),
    async prepare() {
      if (Date.now() > end) tokens.drop("expired");
      if (!tokens.value) await tokens.ask(reason);
    },
    ends: (inMs) => (end = Date.now() + inMs),
    drop(why) {
      if (isFixed) return;
      tokens.value = undefined;
      reason = why;
    },
  };
  return tokens;
}
