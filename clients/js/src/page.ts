// The page around the client: hidden, frozen, offline, left and come back to. Timers do not run
// or run late there, so what counts are events. Without a page (Node.js, workers) nothing happens.

import { again, wake } from "./link.js";
import { page } from "./settings.js";

/** Aborted when the client is closed. */
export const life = new AbortController();

let isLeft = false;

for (const name of "visibilitychange online pageshow resume pagehide".split(" ")) {
  page?.addEventListener?.(
    name,
    () => {
      if (name[0] === "v" && page.document?.hidden) return; // hidden just now
      isLeft = name === "pagehide";
      if (isLeft) again();
      else wake();
    },
    // While the event goes down: some are the document's and do not come up to the window.
    { capture: true, signal: life.signal },
  );
}

/** No try makes sense now: the page has been left, or there is no network. */
export const isAway = () => isLeft || page?.navigator?.onLine === false;
