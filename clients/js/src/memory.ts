// How far the client has read: the user's inbox, each topic's log, and the event stream that
// covers both. A position is stored after the handlers ran, so that a message that was on its way
// when the connection, or the page, ended comes again.

import { memory } from "./settings.js";

/** A JSON object, so that it may outlive the page. */
interface Positions {
  /** Positions are a user's own. */
  user?: string;
  /** The id of the last event of an event stream, which covers inbox and topics. */
  id?: string;
  /** By topic; of the inbox without a name. */
  at: Record<string, string>;
}

const key = "pushnode " + url;

export let positions: Positions = { at: {} };

const store = (use: () => void) => {
  try {
    if (memory === "session") use();
  } catch {
    // It is full, or the browser lets no page store anything: what is in memory still serves.
  }
};
store(() => (positions = JSON.parse(sessionStorage.getItem(key)!) ?? positions));

export const save = () => {
  if (memory === false) positions = { user: positions.user, at: {} };
  store(() => sessionStorage.setItem(key, JSON.stringify(positions)));
};

export const forget = () => {
  positions = { at: {} };
  save();
};

export const remember = (name: string, position: string) => {
  positions.at[name] = position;
  save();
};
