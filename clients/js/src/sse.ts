// Server-sent events by `fetch`, for networks that let no WebSocket through. Unlike `EventSource`,
// `fetch` sends the token in a header and shows the status of a refusal. The stream is read-only:
// its topics stand in the URL, and it resumes by the id of the last event.

import { endpoint, type End, type Transport } from "./transport.js";

/** The close code that says the same as a status. Other statuses are not the node's. */
const CODES: Record<number, number | undefined> = { 204: 4001, 401: 4401, 403: 4403, 409: 4409, 503: 4503 };

export const sse: Transport = (core, hear, end, heard) => {
  const abort = new AbortController();
  const { id, at } = core._positions;
  const topics = [...core._topics.values()];
  const query = {
    since: !id && at[""],
    topics: topics.map(({ name }) => encodeURIComponent(name)).join(),
    presence: topics.some(({ _presence }) => _presence) && "true",
  };
  const address = endpoint(core, "sse", query, "envelope=1");
  const headers: Record<string, string> = { Accept: "text/event-stream" };
  if (core._token) headers.Authorization = "Bearer " + core._token;
  if (id) headers["Last-Event-ID"] = id;

  const read = async (): Promise<End> => {
    const { signal } = abort;
    const answer = await (core._options.fetch ?? fetch)(address, { headers, signal, cache: "no-store" });
    const { status } = answer;
    if (status !== 200) {
      const code = CODES[status];
      const body = code && status > 204 ? await answer.json() : {};
      return {
        type: code ? "bye" : undefined,
        code: code ?? 1006,
        reason: body.error?.code ?? "status " + status,
        retry_ms: +answer.headers.get("Retry-After")! * 1000,
      };
    }
    const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) return { code: 1006 };
      heard();
      const events = (rest + value).split("\n\n");
      rest = events.pop()!;
      for (const event of events) {
        const field = (name: string) => new RegExp(`^${name}: ?(.+)`, "m").exec(event)?.[1];
        const data = field("data");
        if (data) hear({ ...JSON.parse(data), _id: field("id") });
      }
    }
  };
  read().then(end, () => end({ code: 1006 }));
  return { close: () => abort.abort() };
};
