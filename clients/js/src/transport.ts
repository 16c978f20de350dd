// What all transports have in common: what they are given, and what they tell. A line is one
// connection; after `close` it tells only its end. Each transport has a file of its own.

import type { Core } from "./core.js";

/** A JSON object from the node. */
export interface Frame {
  type: string;
  [field: string]: any;
}

/** How a line ended. */
export interface End {
  /** `bye`: the node said so, and nothing between the client and the node is to blame. */
  type?: string;
  code: number;
  reason?: string;
  /** Of a refusal, and better than `reason`. */
  error?: string;
  retry_ms?: number;
}

export interface Line {
  /** An event stream has none. */
  send?(text: string): void;
  close(): void;
}

export type Transport = (
  core: Core,
  hear: (frame: Frame) => void,
  end: (end: End) => void,
  /** Bytes came that are no frame. */
  heard: () => void,
) => Line;

/** The URL of an endpoint. By strings: the `URL` of React Native cannot be changed. */
export function endpoint(
  { _url: url, _options: { user, device } }: Core,
  path: "ws" | "sse",
  query: Record<string, string | false | undefined>,
  rest: string,
): string {
  if (url[0] === "/") url = location.origin + url;
  const [head, search] = url.split("?") as [string, string?];
  let address = head
    .replace(/^(ws|http)/, STREAMS && path === "sse" ? "http" : "ws")
    .replace(/\/(ws|sse)?$/, "");
  address += "/" + path + "?" + (search ? search + "&" : "");
  query = { user, device, ...query };
  for (const name in query) {
    if (query[name]) address += name + "=" + encodeURIComponent(query[name]) + "&";
  }
  return address + rest;
}

/** Whether the line takes frames: an event stream does not. */
export const takes = ({ _line: line }: Core) => (STREAMS ? line?.send : line);
