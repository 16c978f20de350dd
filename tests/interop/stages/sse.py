"""Server-sent events: live events come at once; a killed node is come back from, with what was
kept; a goodbye for good ends for good."""
import json
import tempfile
import time

from .servers import AT_ONCE, COME_BACK, QUIET, Client, Door, Servers

# What is pushed; the last is over the 64 KiB that some libraries read by default.
LIVE = [0, 1, "x" * 100_000]
MISSED = [3, 4]


class Listener(Client):
    def __init__(self, package, command, target, number):
        self.user, self.door = f"user-{number}", Door(target)
        url = f"http://127.0.0.1:{self.door.port}/sse?user={self.user}"
        super().__init__(package, command, url)

    def data(self):
        return [line for line in self.printed if line.startswith("data ")]


def listen(servers, clients):
    for client in clients:
        client.expect("no `ready`", lambda: "event ready" in client.printed, 60)
    said = []
    for data in LIVE:
        said.append(f"data {json.dumps(data)}")
        for client in clients:
            servers.push("b", client.user, data)
        for client in clients:
            client.expect("no event at once", lambda: client.data() == said, AT_ONCE)

    servers.nodes["a"].kill()
    for client in clients:
        client.door.target = servers.ports["b"]
    for data in MISSED:
        said.append(f"data {json.dumps(data)}")
        for client in clients:
            servers.push("b", client.user, data)
    for client in clients:
        client.expect("no return from a killed node", lambda: client.data() == said, COME_BACK)

    before = [client.door.accepted for client in clients]
    for client in clients:
        servers.kick("b", client.user)
    for client in clients:
        client.expect("no goodbye", lambda: client.printed.count("event bye") == 1, 60)
    for client, count in zip(clients, before):
        is_quiet = lambda: time.monotonic() - client.door.last > QUIET
        client.expect("it does not stop", is_quiet, 5 * QUIET)
        # A browser's EventSource comes once more, and is told to stop.
        client.expect("it came back", lambda: client.door.accepted <= count + 1, 0)
        client.expect("an event twice", lambda: client.data() == said, 0)


def run(binary, rows):
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(binary, folder, {"PUSH_SSE_BEAT_SECONDS": "300"})
        clients = []
        try:
            url = f"redis://127.0.0.1:{servers.start_redis()}"
            for name in "ab":
                servers.start_node(name, url)
            for number, (library, command) in enumerate(rows):
                clients.append(Listener(library, command, servers.ports["a"], number))
            listen(servers, clients)
        finally:
            for client in clients:
                client.stop()
            servers.stop()
        return [(client.package, client.fault) for client in clients]
