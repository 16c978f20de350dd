// What tests of the client share.
import { connect, type Client, type Options } from "pushnode-js";
import { afterEach } from "vitest";
import { atEnd, endAll } from "./process.js";

export * from "./process.js";
export * from "./proxy.js";

afterEach(endAll);

/** A client that is closed after the test, and what it has said. */
export function client(url: string, options: Options = {}): Client & { log: unknown[][] } {
  const push = connect(url, { user: "42", ...options });
  const log: unknown[][] = [];
  for (const event of ["state", "message", "gap", "degraded", "topic", "error"] as const) {
    push.on(event, (...words: unknown[]) => void log.push([event, ...words.slice(0, 2)]));
  }
  atEnd(() => push.close());
  return Object.assign(push, { log });
}

/** The first of this event from now on. */
export function next(push: Client, event: string): Promise<any> {
  return new Promise((resolve) => {
    const off = push.on(event as "message", (data) => {
      off();
      resolve(data);
    });
  });
}

/** What the client sends, by a WebSocket that listens. */
export function listening() {
  const sent: any[] = [];
  return {
    sent,
    WebSocket: class extends WebSocket {
      override send(text: string) {
        sent.push(JSON.parse(text));
        super.send(text);
      }
    } as any,
  };
}
