// The token: asked for when there is none or it is no longer good, by one question at a time, and
// presented again before it ends.

import { fail, reset } from "./client.js";
import { again, close, line } from "./link.js";
import { ask } from "./requests.js";
import { source, timeout } from "./settings.js";
import type { Frame } from "./transport.js";
import { type Options, PushError, type TokenReason, Unauthorized } from "./types.js";

type Provider = Exclude<Options["token"], string | undefined>;

/** No function gives it: what was refused cannot be replaced. */
export const isFixed = typeof source !== "function";
/** The token to connect with. */
export let token = isFixed && (source as string | undefined);

let tokenEnd = Infinity;
let reason: TokenReason = "connect";
let asked: Promise<void> | undefined;
/** The timer after a notice, which ends with the connection. */
export let renewal: ReturnType<typeof setTimeout>;

const askToken = (why: TokenReason) =>
  (asked ??= (async () => {
  if (isFixed) return;
  let timer: ReturnType<typeof setTimeout>;
  try {
    token = await Promise.race([
      (source as Provider)({ reason: why }),
      new Promise<never>((_, reject) => {
        timer = setTimeout(reject, timeout, new PushError("timeout"));
      }),
    ]);
    tokenEnd = Infinity;
    reason = "connect";
  } catch (error) {
    // There is no user.
    if (error instanceof Unauthorized) close({ code: 4401, reason: error.message });
    throw error;
  } finally {
    clearTimeout(timer!);
    asked = undefined;
  }
})());

/** It is no longer good. */
export const dropToken = (why: TokenReason) => {
  if (isFixed) return;
  token = "";
  reason = why;
};

/** Asks for one if there is none that may be good. */
export const prepareToken = () => {
  if (Date.now() > tokenEnd) dropToken("expired");
  return token || askToken(reason);
};

export const renew = async () => {
  await askToken("expiring");
  if (!line) return again(); // a stream begins with its token
  try {
    await new Promise<unknown>((resolve, reject) => {
      ask({ type: "auth", token }, resolve, reject);
    });
  } catch (error) {
    const { code } = error as PushError;
    if (code === "wrong_user") {
      reset();
      again();
    } else if (code !== "lost") throw error; // the next connection begins with it
  }
};

export const hearExpiring = ({ in_ms: inMs }: Frame) => {
  tokenEnd = Date.now() + inMs;
  clearTimeout(renewal);
  // Not at once: a token that lives shorter than the notice would be renewed in a loop.
  if (!isFixed) renewal = setTimeout(() => renew().catch(fail), inMs / 2);
};
