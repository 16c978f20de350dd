// `pushnode-js`: WebSocket, and event streams where no WebSocket passes.

import type { Client, Options } from "./types.js";

export * from "./types.js";

/** Connects, and stays connected until `close`, or until the node says that it makes no sense. */
export declare function connect<
  Topics = Record<string, any>,
  Routes extends { [route in keyof Routes]: { send: unknown; reply: unknown } } = Record<
    string,
    { send: any; reply: any }
  >,
>(url: string, options?: Options): Client<Topics, Routes>;
