// The page around the client: hidden, frozen, offline, left and come back to. Timers do not run
// or run late there, so what counts are events. Without a page (Node.js, workers) nothing happens.

const EVENTS = "visibilitychange online pageshow resume pagehide";

/** Returns whether no try makes sense now: the page has been left, or there is no network. */
export function watchPage(
  target: EventTarget | null | undefined,
  signal: AbortSignal,
  wake: () => void,
  leave: () => void,
): () => boolean {
  const page = target as Partial<Window> | null | undefined;
  let isLeft = false;
  for (const name of EVENTS.split(" ")) {
    page?.addEventListener?.(
      name,
      () => {
        if (name[0] === "v" && page.document?.hidden) return; // hidden just now
        isLeft = name === "pagehide";
        if (isLeft) leave();
        else wake();
      },
      // While the event goes down: some are the document's and do not come up to the window.
      { capture: true, signal },
    );
  }
  return () => isLeft || page?.navigator?.onLine === false;
}
