// `pushnode-js`: WebSocket, and event streams where no WebSocket passes.

import { createClient } from "./client.js";
import { sse } from "./sse.js";
import type { Client, Options } from "./types.js";
import { ws } from "./ws.js";

export * from "./types.js";

/** Connects, and stays connected until `close`, or until the node says that it makes no sense. */
export function connect<
  Topics = Record<string, any>,
  Routes extends { [route in keyof Routes]: { send: unknown; reply: unknown } } = Record<
    string,
    { send: any; reply: any }
  >,
>(url: string, options: Options = {}): Client<Topics, Routes> {
  const ladder = (options.transports ?? ["ws", "sse"]).map((name) => (name === "ws" ? ws : sse));
  return createClient(url, options, ladder);
}
