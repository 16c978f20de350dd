"""Connects by one of three WebSocket libraries, prints what comes, and comes back when it ends."""
import asyncio
import json
import sys
import time
from urllib.parse import quote

library, url, token = sys.argv[1:]

# After these close codes, connecting again does not help.
FINAL = {1002, 1007, 1008, 1009, 4001, 4005, 4006}
resume = None


def say(*words):
    print(*words, flush=True)


def hear(text):
    """Answers what the frame asks to do: nothing, "large" or "goodbye"."""
    global resume
    say("frame", text)
    frame = json.loads(text)
    resume = frame.get("resume", resume)
    return frame.get("data")


def large():
    return json.dumps({"type": "ping", "pad": "x" * 1_200_000})


async def by_websockets(target, protocols, headers):
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    # It reads messages up to 1 MiB by itself.
    options = {"subprotocols": protocols, "additional_headers": headers, "max_size": 1 << 21}
    async with connect(target, **options) as socket:
        pong = await socket.ping()
        pong.add_done_callback(lambda done: done.cancelled() or done.exception() or say("pong"))
        try:
            while True:
                asked = hear(await socket.recv())
                if asked == "large":
                    await socket.send(large())
                if asked == "goodbye":
                    await socket.close(1000)
        except ConnectionClosed:
            return socket.close_code, socket.close_reason


def by_websockets_sync(target, protocols, headers):
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    options = {"subprotocols": protocols, "additional_headers": headers, "max_size": 1 << 21}
    with connect(target, **options) as socket:
        pong = socket.ping()
        try:
            while True:
                asked = hear(socket.recv())
                if pong and pong.is_set():
                    say("pong")
                    pong = None
                if asked == "large":
                    socket.send(large())
                if asked == "goodbye":
                    socket.close(1000)
        except ConnectionClosed:
            return socket.protocol.close_code, socket.protocol.close_reason


def by_websocket_client(target, protocols, headers):
    import websocket

    end = 1006, ""

    def on_message(socket, text):
        asked = hear(text)
        if asked == "large":
            socket.send(large())
        if asked == "goodbye":
            socket.close(status=1000)

    def on_close(socket, code, reason):
        nonlocal end
        end = code or 1006, reason

    websocket.WebSocketApp(
        target,
        subprotocols=protocols,
        header=headers,
        on_open=lambda socket: socket.sock.ping(),
        on_pong=lambda socket, data: say("pong"),
        on_message=on_message,
        on_error=lambda socket, error: say("error", error),
        on_close=on_close,
    ).run_forever()
    return end


def connect(by_header):
    target = url + (f"&since={quote(resume, safe='')}" if resume else "")
    protocols, headers = ["pushnode.v1"], {}
    # By header, as programs can, and by subprotocol, as browsers must.
    if by_header:
        headers["Authorization"] = "Bearer " + token
    else:
        protocols.append("bearer." + token)
    say("by", "header" if by_header else "subprotocol")
    if library == "websockets":
        return asyncio.run(by_websockets(target, protocols, headers))
    if library == "websockets (sync)":
        return by_websockets_sync(target, protocols, headers)
    return by_websocket_client(target, protocols, headers)


by_header, code = True, None
while code not in FINAL:
    try:
        code, reason = connect(by_header)
        say("close", code, reason)
    except Exception as error:  # the node is not there yet
        say("error", type(error).__name__, error)
    by_header = not by_header
    time.sleep(0.3)
say("end")
