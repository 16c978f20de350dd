// `pushnode-js/ws`: WebSocket only. An own entry, because no bundler can see from the text in
// `transports` that the other transport is not needed.

import type { Client, Options } from "./types.js";

export * from "./types.js";

/** As `connect` of `pushnode-js` with `transports: ["ws"]`. */
export declare function connect<
  Topics = Record<string, any>,
  Routes extends { [route in keyof Routes]: { send: unknown; reply: unknown } } = Record<
    string,
    { send: any; reply: any }
  >,
>(url: string, options?: Omit<Options, "transports" | "fetch">): Client<Topics, Routes>;
