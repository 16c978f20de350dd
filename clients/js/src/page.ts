// The page around the client: hidden, frozen, offline, left and come back to. Timers do not run
// or run late there, so what counts are events. Without a page (Node.js, workers) nothing happens.

export interface Page {
  /** No try now: the page has been left, or the browser says that there is no network. */
  isAway(): boolean;
  stop(): void;
}

const EVENTS = ["visibilitychange", "online", "pageshow", "resume", "pagehide"];

export function watchPage(
  target: EventTarget | null | undefined,
  wake: () => void,
  leave: () => void,
): Page {
  const page = (target === undefined ? globalThis.window : target) as Window | null | undefined;
  let isLeft = false;
  const hear = ({ type }: Event) => {
    if (type[0] === "v" && page!.document?.hidden) return; // hidden just now
    isLeft = type === "pagehide";
    if (isLeft) leave();
    else wake();
  };
  // While the event goes down: some are the document's and do not come up to the window.
  const each = (act: "addEventListener" | "removeEventListener") => {
    for (const name of EVENTS) page?.[act]?.(name, hear, true);
  };
  each("addEventListener");
  return {
    isAway: () => isLeft || page?.navigator?.onLine === false,
    stop: () => each("removeEventListener"),
  };
}
