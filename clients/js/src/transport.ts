// What all transports have in common: what they are asked for, and what they tell. A line is one
// connection; after `close` it tells only its end. Each transport has a file of its own.

import type { Options } from "./types.js";

/** A JSON object from the node. */
export interface Frame {
  type: string;
  [field: string]: any;
}

/** How a line ended. */
export interface End {
  code: number;
  reason?: string;
  retryMs?: number;
  /** The node said so: what stands between the client and the node is not to blame. */
  told?: boolean;
}

/** What a line is opened with. */
export interface Wish {
  url: string;
  token?: string;
  user?: string;
  device?: string;
  since?: string;
  /** Only event streams: they cannot subscribe later. */
  lastId?: string;
  topics: string;
  presence: boolean;
}

export interface Ears {
  frame(frame: Frame): void;
  /** Bytes came that are no frame. */
  heard(): void;
  end(end: End): void;
}

export interface Line {
  /** An event stream has none. */
  send?(text: string): void;
  close(): void;
}

export type Transport = (wish: Wish, ears: Ears, options: Options) => Line;

/** The URL of an endpoint. By strings: the `URL` of React Native cannot be changed. */
export function endpoint(
  url: string,
  path: "ws" | "sse",
  query: Record<string, string | false | undefined>,
): string {
  if (url[0] === "/") url = location.origin + url;
  const [head, search] = url.split("?") as [string, string?];
  const pairs = search ? [search] : [];
  for (const name in query) {
    const value = query[name];
    if (value) pairs.push(name + "=" + encodeURIComponent(value));
  }
  const scheme = path === "ws" ? path : "http";
  const base = head.replace(/^(ws|http)/, scheme).replace(/\/(ws|sse)?$/, "");
  return base + "/" + path + "?" + pairs.join("&");
}
