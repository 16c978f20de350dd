// `pushnode-js/react`: hooks for React 18 and 19. The client lives outside React, so a component
// that is mounted twice (Strict Mode) opens no second socket. A topic is let go one task after its
// last user, so that an unmount and a mount right after it cause no traffic. On a server, where
// there is no client (`null`), the hooks return what is there before anything has come.

import {
  createContext,
  createElement,
  type ReactNode,
  useCallback,
  useContext,
  useEffect,
  useRef,
  useSyncExternalStore,
} from "react";
import type { Client, Members, Message, State, Topic, TopicOptions } from "./index.js";

type AnyClient = Client<any, any>;

const Context = createContext<AnyClient | null | undefined>(undefined);
const NO_MEMBERS: Members = new Map();

/** Gives the client to the hooks below. `null` on a server. */
export function Push(props: { client: AnyClient | null; children?: ReactNode }) {
  return createElement(Context.Provider, { value: props.client }, props.children);
}

/** The client of the nearest `<Push>`. */
export function usePush(): AnyClient {
  const client = useContext(Context);
  if (!client) throw new Error("usePush: there is no client: wrap the component in <Push client>");
  return client;
}

/** Opens a topic, and returns the function that lets it go. */
function hold(
  client: AnyClient | null | undefined,
  name: string | null | undefined,
  options: TopicOptions,
  use: (topic: Topic<any>) => void,
) {
  if (!client || !name) return () => {};
  const topic = client.topic(name, options);
  use(topic);
  return () => {
    setTimeout(() => topic.close());
  };
}

/** Calls the handler for each message of the topic while the component is mounted. */
export function useTopic<T = any>(
  name: string | null | undefined,
  handler: (data: T, message: Message<T>) => void,
): void {
  const client = useContext(Context);
  const latest = useRef(handler);
  useEffect(() => {
    latest.current = handler;
  });
  useEffect(() => {
    let isMounted = true;
    const release = hold(client, name, {}, (topic) => {
      topic.on("message", (data, message) => isMounted && latest.current(data, message));
    });
    return () => {
      isMounted = false;
      release();
    };
  }, [client, name]);
}

/** A value that a topic changes. */
function useOf<T>(
  name: string | null | undefined,
  options: TopicOptions,
  watch: (topic: Topic<any>, set: (value: T) => void) => void,
  none: T,
): T {
  const client = useContext(Context);
  const kept = useRef<{ client?: unknown; name?: unknown; value: T }>({ value: none });
  if (kept.current.client !== client || kept.current.name !== name) {
    kept.current = { client, name, value: none };
  }
  const subscribe = useCallback(
    (changed: () => void) =>
      hold(client, name, options, (topic) => {
        const { current } = kept;
        watch(topic, (value) => {
          current.value = value;
          changed();
        });
      }),
    [client, name],
  );
  return useSyncExternalStore(subscribe, () => kept.current.value, () => none);
}

/** The data of the newest message of the topic; `undefined` before the first. */
export function useLatest<T = any>(name: string | null | undefined): T | undefined {
  return useOf<T | undefined>(name, {}, (topic, set) => void topic.on("message", set), undefined);
}

/** Who is in the topic. */
export function usePresence(name: string | null | undefined): Members {
  return useOf<Members>(
    name,
    { presence: true },
    (topic, set) => {
      if (topic.members) set(topic.members);
      topic.on("presence", ({ members }) => set(members));
    },
    NO_MEMBERS,
  );
}

/** The state of the connection; `connecting` on a server. */
export function useConnection(): State {
  const client = useContext(Context);
  const subscribe = useCallback(
    (changed: () => void) => client?.on("state", changed) ?? (() => {}),
    [client],
  );
  return useSyncExternalStore(subscribe, () => client?.state ?? "connecting", () => "connecting");
}
