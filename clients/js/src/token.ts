// The token: asked for when there is none or it is no longer good, and by one question at a time.

import type { Core } from "./core.js";
import { PushError, type TokenReason, Unauthorized } from "./types.js";

export function addToken(core: Core, timeout: number) {
  const { token: source } = core._options;
  let reason: TokenReason = "connect";
  let asked: Promise<void> | undefined;

  const ask = async (why: TokenReason) => {
    if (typeof source !== "function") return;
    let timer: ReturnType<typeof setTimeout>;
    try {
      core._token = await Promise.race([
        source({ reason: why }),
        new Promise<never>((_, reject) => {
          timer = setTimeout(reject, timeout, new PushError("timeout"));
        }),
      ]);
      core._tokenEnd = Infinity;
      reason = "connect";
    } catch (error) {
      // There is no user.
      if (error instanceof Unauthorized) core._close({ code: 4401, reason: error.message });
      throw error;
    } finally {
      clearTimeout(timer!);
      asked = undefined;
    }
  };
  /** It is no longer good. */
  const _drop = (why: TokenReason) => {
    if (core._isFixed) return;
    core._token = undefined;
    reason = why;
  };

  core._isFixed = typeof source !== "function";
  if (core._isFixed) core._token = source as string;
  core._tokenEnd = Infinity;
  core._askToken = (why) => (asked ??= ask(why));
  return {
    _drop,
    /** Asks for one if there is none that may be good. */
    async _prepare() {
      if (Date.now() > core._tokenEnd) _drop("expired");
      if (!core._token) await core._askToken(reason);
    },
  };
}
