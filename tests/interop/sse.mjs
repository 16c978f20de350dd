// Receives an event stream by one of three libraries, and prints what comes.
import { createRequire } from "node:module";
import { join } from "node:path";

const [, , library, url] = process.argv;
// Where the packages are.
const require = createRequire(join(process.env.INTEROP_PACKAGES, "node_modules", "any.js"));

const tell = (name, data) => {
  if (!name || name === "message") console.log("data", data);
  else console.log("event", name);
};
const NAMES = ["ready", "resync", "bye"];

if (library === "eventsource") {
  const { EventSource } = require("eventsource");
  const source = new EventSource(url);
  source.onmessage = (event) => tell("", event.data);
  for (const name of NAMES) source.addEventListener(name, () => tell(name));
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) console.log("end");
  };
}
if (library === "eventsource-client") {
  const { createEventSource } = require("eventsource-client");
  createEventSource({
    url,
    onMessage: ({ event, data }) => tell(event, data),
    // It stops by itself at 204, and says so by connecting no more.
  });
}
if (library === "@microsoft/fetch-event-source") {
  // It is made for browsers.
  globalThis.window = globalThis;
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
  const { fetchEventSource } = require("@microsoft/fetch-event-source");
  await fetchEventSource(url, { onmessage: ({ event, data }) => tell(event, data) });
  console.log("end");
}
