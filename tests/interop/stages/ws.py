"""WebSocket: it enters by header and by subprotocol; pushes come at once, one of 1 MB too; pings
are answered both ways; a drain is told (1012), a killed node is come back from, both with what was
kept; a goodbye of the client is answered (1000), one of the node ends for good (4001)."""
import base64
import hashlib
import hmac
import json
import tempfile
import time

from .servers import AT_ONCE, COME_BACK, QUIET, Client, Door, Servers

SECRET = "interop-" + "0" * 32
# Long, as a program may have to wait for a processor.
PING, PONG = 1, 15
# What is pushed; the last is as large as a sender's request may be.
LIVE = [0, 1, "x" * 1_000_000]
# Libraries that cannot send a ping.
MUTE = ("undici", "global")
# Those that ping by themselves, and end the connection if nothing follows.
SELF = ("OkHttp",)
# Those that can send no header.
BROWSERS = ("global",)
SETTINGS = {
    "PUSH_AUTH": "jwt",
    "PUSH_JWT_SECRETS": SECRET,
    "PUSH_PING_SECONDS": str(PING),
    "PUSH_PONG_SECONDS": str(PONG),
    "PUSH_KEEP_BYTES": str(1 << 23),
    "PUSH_MAX_MESSAGE_BYTES": str(1 << 21),
}


def token(user):
    def text(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    header, claims = {"alg": "HS256"}, {"sub": user, "exp": time.time() + 3600}
    signed = text(json.dumps(header).encode()) + "." + text(json.dumps(claims).encode())
    return signed + "." + text(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))


class Connector(Client):
    def __init__(self, package, command, target, number):
        self.user, self.door = f"user-{number}", Door(target)
        self.said = []
        url = f"ws://127.0.0.1:{self.door.port}/ws?user={self.user}"
        super().__init__(package, command, url, token(self.user))

    def frames(self, kind):
        lines = [line for line in self.printed if line.startswith(f'frame {{"type":"{kind}"')]
        return [json.loads(line[len("frame "):]) for line in lines]

    def expect_ready(self, count, recovered):
        self.expect(f"no `ready` {count}", lambda: len(self.frames("ready")) >= count, COME_BACK)
        is_so = lambda: self.frames("ready")[-1].get("recovered") == recovered
        self.expect(f"`ready` {count} is not as it should be", is_so, 0)

    def expect_said(self, what, seconds):
        is_so = lambda: [frame["data"] for frame in self.frames("message")] == self.said
        self.expect(what, is_so, seconds)


def push(servers, name, clients, data):
    for client in clients:
        client.said.append(data)
        servers.push(name, client.user, data)


def live(servers, clients):
    for client in clients:
        client.expect_ready(1, None)
        first = "by subprotocol" if client.package in BROWSERS else "by header"
        client.expect("another way in", lambda: first in client.printed, 0)
    ready = time.monotonic()
    for data in LIVE:
        push(servers, "b", clients, data)
        for client in clients:
            client.expect_said("no push at once", AT_ONCE)
    # Each sends as much: a library may part it into frames.
    push(servers, "b", clients, "large")
    for client in clients:
        client.expect("no answer to 1.2 MB", lambda: client.frames("pong"), AT_ONCE)
        if client.package not in MUTE + SELF:
            client.expect("no answer to its ping", lambda: "pong" in client.printed, AT_ONCE)
    # The node pings each second, and closes (4003) what does not answer.
    for client in clients:
        is_old = lambda: time.monotonic() - ready > PING + PONG + 3
        client.expect("", is_old, 60)
        client.expect("no answer to pings", lambda: client.door.accepted == 1, 0)


def come_back(servers, clients):
    for client in clients:
        client.door.target = None
    servers.drain("a")
    for client in clients:
        client.expect("no 1012", lambda: "close 1012 drain" in client.printed, 60)
    push(servers, "b", clients, "after the drain")
    for client in clients:
        client.door.target = servers.ports["b"]
    for client in clients:
        client.expect_ready(2, True)
        client.expect_said("what was kept after a drain", AT_ONCE)
        client.expect("not by subprotocol", lambda: "by subprotocol" in client.printed, 0)
        client.door.target = None
    servers.nodes["b"].kill()
    push(servers, "c", clients, "after the kill")
    for client in clients:
        client.door.target = servers.ports["c"]
    for client in clients:
        client.expect_ready(3, True)
        client.expect_said("what was kept after a kill", AT_ONCE)


def leave(servers, clients):
    push(servers, "c", clients, "goodbye")
    is_closed = lambda: any(line.startswith("close 1000") for line in client.printed)
    for client in clients:
        client.expect("no answer to its goodbye", is_closed, 60)
    for client in clients:
        client.expect_ready(4, True)
    # Those whose connection the node saw closed by a close frame.
    metric = 'pushnode_closes_total{reason="by_client"}'
    well = sum(client.fault is None for client in clients)
    is_counted = lambda: servers.metric("c", metric) >= well
    for client in clients:
        client.expect("not all goodbyes were understood", is_counted, AT_ONCE)
    for client in clients:
        servers.kick("c", client.user)
    for client in clients:
        client.expect("no 4001", lambda: "close 4001 kicked" in client.printed, 60)
        client.expect("it does not end", lambda: client.printed[-1] == "end", 60)
    counts = [client.door.accepted for client in clients]
    for client, count in zip(clients, counts):
        is_quiet = lambda: time.monotonic() - client.door.last > QUIET
        client.expect("it does not stop", is_quiet, 5 * QUIET)
        client.expect("it came back", lambda: client.door.accepted == count, 0)
        client.expect_said("a push twice", 0)


def run(binary, rows):
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(binary, folder, SETTINGS)
        clients = []
        try:
            url = f"redis://127.0.0.1:{servers.start_redis()}"
            for name in "abc":
                servers.start_node(name, url)
            for number, (library, command) in enumerate(rows):
                clients.append(Connector(library, command, servers.ports["a"], number))
            live(servers, clients)
            come_back(servers, clients)
            leave(servers, clients)
        finally:
            for client in clients:
                client.stop()
            servers.stop()
        return [(client.package, client.fault) for client in clients]
