// Pauses and limits.

import { PushError } from "./types.js";

/** At most so long, then it fails with `timeout`. */
export function within<T>(ms: number, promise: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout>;
  const late = new Promise<T>((_, reject) => {
    timer = setTimeout(() => reject(new PushError("timeout")), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/**
 * The pause before a try. What the node asked for is spread by a quarter; otherwise full jitter
 * over a range that doubles, so that clients that were cut off together come back apart.
 */
export function pauseBefore(
  tries: number,
  retryMs: number | undefined,
  { min = 500, max = 20_000 }: { min?: number; max?: number } = {},
): number {
  return retryMs === undefined
    ? min + Math.random() * Math.min(max, min * 2 ** tries)
    : retryMs + (Math.random() * retryMs) / 4;
}
