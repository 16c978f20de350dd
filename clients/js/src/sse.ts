// Server-sent events by `fetch`, for networks that let no WebSocket through. Unlike `EventSource`,
// `fetch` sends the token in a header and shows the status of a refusal. The stream is read-only:
// its topics stand in the URL, and it resumes by the id of the last event.

import { positions } from "./memory.js";
import { token } from "./token.js";
import { topics } from "./topics.js";
import { endpoint, type End, type Transport } from "./transport.js";

/** The close code that says the same as a status. Other statuses are not the node's. */
const CODES: Record<number, number | undefined> = { 204: 4001, 401: 4401, 403: 4403, 409: 4409, 503: 4503 };

export const sse: Transport = (hear, end, heard) => {
  const abort = new AbortController();
  const { id, at } = positions;
  const all = [...topics.values()];
  for (const topic of all) topic._isAsked = true;
  const query = {
    user: options.user,
    device: options.device,
    since: !id && at[""],
    topics: all.map(({ name }) => encodeURIComponent(name)).join(),
    presence: all.some(({ _presence }) => _presence) && "true",
  };
  const address = endpoint(query, "sse", "envelope=1");
  const headers: Record<string, string> = { Accept: "text/event-stream" };
  if (token) headers.Authorization = "Bearer " + token;
  if (id) headers["Last-Event-ID"] = id;

  const read = async (): Promise<End> => {
    const { signal } = abort;
    const answer = await (options.fetch ?? fetch)(address, { headers, signal, cache: "no-store" });
    const { status } = answer;
    if (status !== 200) {
      const code = CODES[status];
      const body = code && status > 204 ? await answer.json() : {};
      return {
        type: (code && "bye") as string,
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
