// How far the client has read: the user's inbox, each topic's log, and the event stream that
// covers both. A position is stored after the handlers ran, so that a message that was on its way
// when the connection, or the page, ended comes again.

import type { Core, Positions } from "./core.js";

export function addMemory(core: Core) {
  const key = "pushnode " + core._url;
  const { resume } = core._options;
  const isStored = resume === "session";
  const blank = (user?: string): Positions => ({ user, at: {} });

  core._save = () => {
    if (resume === false) core._positions = blank(core._positions.user);
    try {
      if (isStored) sessionStorage.setItem(key, JSON.stringify(core._positions));
    } catch {
      // It is full, or the browser lets no page store anything: what is in memory still serves.
    }
  };
  core._forget = () => {
    core._positions = blank();
    core._save();
  };
  core._positions = blank();
  try {
    if (isStored) core._positions = JSON.parse(sessionStorage.getItem(key)!) ?? blank();
  } catch {
    // No page may store anything.
  }
}
