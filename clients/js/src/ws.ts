// WebSocket with `pushnode.v1`. A browser shows neither the node's pings nor the status of a
// refused handshake, so the node is asked for both as objects (`beat`, `refuse`); a node that
// does not know these parameters ignores them.

import { endpoint, type Transport } from "./transport.js";
import type { WebSocketLike } from "./types.js";

export const ws: Transport = ({ url, token, user, device, since }, ears, options) => {
  const query = { user, device, since, beat: "1", refuse: "frame" };
  const protocols = ["pushnode.v1"];
  if (token) protocols.push("bearer." + token);
  const socket: WebSocketLike = new (options.WebSocket ?? WebSocket)(
    endpoint(url, "ws", query),
    protocols,
  );
  socket.onmessage = (event) => ears.frame(JSON.parse(event.data));
  socket.onerror = () => {}; // onclose follows
  socket.onclose = (event) => ears.end(event);
  return {
    send(text) {
      if (socket.readyState === 1) socket.send(text);
    },
    close: () => socket.close(1000),
  };
};
