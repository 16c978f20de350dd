// What all transports have in common: what they are given, and what they tell. A line is one
// connection; after `close` it tells only its end. Each transport has a file of its own.

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
  close(code: number): void;
}

export const nothing = () => {};

export type Transport = (
  hear: (frame: Frame) => void,
  end: (end: End) => void,
  /** Bytes came that are no frame. */
  heard: () => void,
) => Line;

/** The URL of an endpoint. By strings: the `URL` of React Native cannot be changed. */
export const endpoint = (
  query: Record<string, string | false | undefined>,
  path: "ws" | "sse",
  rest: string,
): string => {
  const [head, search] = (url[0] === "/" ? location.origin + url : url).split("?");
  const isStream = STREAMS && path === "sse";
  let address = head!
    .replace(isStream ? /^ws/ : /^http/, isStream ? "http" : "ws")
    .replace(/(\/|\/ws|\/sse)?$/, "/" + path + "?");
  if (search) address += search + "&";
  for (const name in query) {
    if (query[name]) address += name + "=" + encodeURIComponent(query[name]) + "&";
  }
  return address + rest;
};
