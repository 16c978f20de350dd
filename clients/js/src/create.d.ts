// One client is one run of `client.ts` and of all that it imports: the build makes their text the
// body of `connect` (build.mjs). So a variable of a module is the client's own, its parts share
// what they export, and what follows is there in each of them without an import.

import type { Options } from "./types.js";

declare global {
  /** What `connect` was given; settings.ts has the defaults. */
  const url: string;
  const options: Options;
  /**
   * False where the build makes the client without event streams: what serves them alone is then
   * left out.
   */
  const STREAMS: boolean;
}
