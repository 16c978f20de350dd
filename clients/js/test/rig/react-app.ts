// The application of test/react.test.ts, which bundles it with React 18 and with React 19.
import { createElement as h, StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { renderToString } from "react-dom/server";
import type { Client } from "pushnode-js";
import { Push, useConnection, useLatest, usePresence, usePush, useTopic } from "pushnode-js/react";

function Room({ name }: { name: string }) {
  const [lines, setLines] = useState<string[]>([]);
  const client = usePush();
  useTopic<string>(name, (line) => setLines((before) => [...before, line]));
  const latest = useLatest<string>(name);
  const members = usePresence(name);
  const text = [client.user, lines.join(), latest, [...members.keys()].join()].join("|");
  return h("p", { id: name }, text);
}

function State() {
  return h("b", null, useConnection());
}

function Latest() {
  return h("i", null, useLatest("room") ?? "nothing yet", usePresence("room").size);
}

export function start(client: Client, element: Element) {
  const root = createRoot(element);
  const render = (...rooms: string[]) => {
    const children = rooms.map((name) => h(Room, { key: name, name }));
    root.render(h(StrictMode, null, h(Push, { client }, h(State), children)));
  };
  return { render, end: () => root.unmount() };
}

export const onServer = () => renderToString(h(Push, { client: null }, h(State), h(Latest)));
