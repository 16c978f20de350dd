// WebSocket with `pushnode.v1`. A browser shows neither the node's pings nor the status of a
// refused handshake, so the node is asked for both as objects (`beat`, `refuse`); a node that
// does not know these parameters ignores them.

import { positions } from "./memory.js";
import { token } from "./token.js";
import { endpoint, nothing, type Transport } from "./transport.js";
import type { WebSocketLike } from "./types.js";

export const ws: Transport = (hear, end) => {
  const socket: WebSocketLike = new (options.WebSocket ?? WebSocket)(
    endpoint(
      { user: options.user, device: options.device, since: positions.at[""] },
      "ws",
      "beat=1&refuse=frame",
    ),
    ["pushnode.v1", ...(token ? ["bearer." + token] : [])],
  );
  socket.onmessage = ({ data }) => hear(JSON.parse(data));
  socket.onerror = nothing; // onclose follows
  socket.onclose = end;
  return socket;
};
