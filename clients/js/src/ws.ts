// WebSocket with `pushnode.v1`. A browser shows neither the node's pings nor the status of a
// refused handshake, so the node is asked for both as objects (`beat`, `refuse`); a node that
// does not know these parameters ignores them.

import { endpoint, type Transport } from "./transport.js";
import type { WebSocketLike } from "./types.js";

export const ws: Transport = (core, hear, end) => {
  const protocols = ["pushnode.v1"];
  if (core._token) protocols.push("bearer." + core._token);
  const socket: WebSocketLike = new (core._options.WebSocket ?? WebSocket)(
    endpoint(core, "ws", { since: core._positions.at[""] }, "beat=1&refuse=frame"),
    protocols,
  );
  socket.onmessage = ({ data }) => hear(JSON.parse(data));
  socket.onerror = () => {}; // onclose follows
  socket.onclose = end;
  return {
    send(text) {
      if (socket.readyState === 1) socket.send(text);
    },
    close: () => socket.close(1000),
  };
};
