// How far the client has read: the user's inbox, each topic's log, and the event stream that
// covers both. A position is stored after the handlers ran, so that a message that was on its way
// when the connection, or the page, ended comes again.

import type { Options } from "./types.js";

export interface Positions {
  user?: string;
  inbox?: string;
  /** The id of the last event of an event stream. */
  lastId?: string;
  topics: Record<string, string>;
}

export interface Memory {
  positions: Positions;
  save(): void;
  /** Positions are a user's own. */
  forget(user?: string): void;
}

export function createMemory(url: string, resume: Options["resume"]): Memory {
  const key = "pushnode " + url;
  const store = resume === "session" ? globalThis.sessionStorage : undefined;
  let stored: Positions | undefined;
  try {
    stored = JSON.parse(store!.getItem(key)!);
  } catch {
    // None there, or the browser lets no page store anything.
  }
  const memory: Memory = {
    positions: stored ?? { topics: {} },
    save() {
      if (resume === false) memory.positions = { user: memory.positions.user, topics: {} };
      try {
        store?.setItem(key, JSON.stringify(memory.positions));
      } catch {
        // It is full: what is in memory still serves.
      }
    },
    forget(user) {
      memory.positions = { user, topics: {} };
      memory.save();
    },
  };
  return memory;
}
