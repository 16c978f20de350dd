// Connects by one of three WebSocket libraries, prints what comes, and comes back when it ends.
import { createRequire } from "node:module";
import { join } from "node:path";

const [, , library, url, token] = process.argv;
// Where the packages are.
const require = createRequire(join(process.env.INTEROP_PACKAGES, "node_modules", "any.js"));

// After these close codes, connecting again does not help.
const FINAL = [1002, 1007, 1008, 1009, 4001, 4005, 4006];
let attempt = 0;
let resume;

function hear(text, socket) {
  console.log("frame", text);
  const frame = JSON.parse(text);
  if (frame.resume) resume = frame.resume;
  if (frame.data === "large") {
    socket.send(JSON.stringify({ type: "ping", pad: "x".repeat(1_200_000) }));
  }
  if (frame.data === "goodbye") socket.close(1000);
}

function lost(code, reason) {
  console.log("close", code, String(reason));
  if (FINAL.includes(code)) console.log("end");
  else setTimeout(connect, 300);
}

function connect() {
  attempt += 1;
  const target = url + (resume ? `&since=${encodeURIComponent(resume)}` : "");
  // By header, as programs can, and by subprotocol, as browsers must.
  const byHeader = attempt % 2 === 1 && library !== "global";
  const protocols = byHeader ? ["pushnode.v1"] : ["pushnode.v1", "bearer." + token];
  const headers = byHeader ? { authorization: "Bearer " + token } : {};
  console.log("by", byHeader ? "header" : "subprotocol");

  if (library === "ws") {
    const socket = new (require("ws"))(target, protocols, { headers });
    socket.on("open", () => socket.ping());
    socket.on("pong", () => console.log("pong"));
    socket.on("message", (data) => hear(data.toString(), socket));
    socket.on("error", (error) => console.log("error", error.message)); // close follows
    socket.on("close", lost);
    return;
  }
  let socket;
  if (library === "undici") {
    socket = new (require("undici").WebSocket)(target, { protocols, headers });
  } else {
    socket = new WebSocket(target, protocols);
  }
  socket.onmessage = ({ data }) => hear(data, socket);
  socket.onclose = ({ code, reason }) => lost(code, reason);
  socket.onerror = () => {
    console.log("error");
    // The others say `close` too. That of Node.js 20 does not after a connect that failed.
    if (library !== "global") return;
    socket.onclose = undefined;
    lost(1006, "");
  };
}

connect();
