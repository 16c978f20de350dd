// Server-sent events by `fetch`, for networks that let no WebSocket through. Unlike `EventSource`,
// `fetch` sends the token in a header and shows the status of a refusal. The stream is read-only:
// its topics stand in the URL, and it resumes by the id of the last event.

import { endpoint, type End, type Frame, type Transport } from "./transport.js";

/** The close code that says the same as a status. Other statuses are not the node's. */
const CODES: Record<number, number> = { 204: 4001, 401: 4401, 403: 4403, 409: 4409, 503: 4503 };

export const sse: Transport = (wish, ears, options) => {
  const abort = new AbortController();
  const { user, device, since, token, lastId, topics, presence } = wish;
  const query = { user, device, since: !lastId && since, topics, envelope: "1" };
  const address = endpoint(wish.url, "sse", { ...query, presence: presence && "true" });
  const headers: Record<string, string> = { Accept: "text/event-stream" };
  if (token) headers.Authorization = "Bearer " + token;
  if (lastId) headers["Last-Event-ID"] = lastId;

  const read = async (): Promise<End> => {
    const { signal } = abort;
    const answer = await (options.fetch ?? fetch)(address, { headers, signal, cache: "no-store" });
    const { status } = answer;
    if (status !== 200) {
      const body = status in CODES && status > 204 ? await answer.json() : {};
      const reason = body.error?.code ?? "status " + status;
      const retryMs = +answer.headers.get("Retry-After")! * 1000 || undefined;
      return { code: CODES[status] ?? 1006, reason, retryMs, told: status in CODES };
    }
    const reader = answer.body!.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    let event: Record<string, string> = {};
    let isWhole = false; // a message comes as an object, not only its data
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return { code: 1006 };
      ears.heard();
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        const [, name, text] = /^(\w+): ?(.*)$/.exec(line) ?? [];
        if (name) event[name] = text!;
        if (line) continue;
        if (event.data) {
          const object = JSON.parse(event.data);
          const isBare = !isWhole && (event.event ?? "message") === "message";
          const frame: Frame = isBare ? { type: "message", data: object } : object;
          if (frame.type === "ready") isWhole = frame.beat_ms > 0;
          if (event.id) frame.lastId = event.id;
          ears.frame(frame);
        }
        event = {};
      }
    }
  };
  read().then(ears.end, () => ears.end({ code: 1006 }));
  return { close: () => abort.abort() };
};
