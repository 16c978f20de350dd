"""Redis, nodes, and what stands between a node and the programs."""
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

# An event is there within milliseconds. A reader that waits for more of the stream holds it back
# for good: nothing else comes, as the beats are far apart.
AT_ONCE = 20
# A node is gone, and a library takes its time before it comes back.
COME_BACK = 120
# Longer than the pause before any further attempt.
QUIET = 12


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ask(method, port, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    request.add_header("content-type", "application/json")
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data, timeout=10) as answer:
        return json.load(answer)


def until(check, seconds):
    """Waits until `check` is true; answers whether it came to be."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Servers:
    """Servers of Redis and nodes, which end with it."""

    def __init__(self, binary, folder, settings=()):
        self.binary, self.folder, self.settings = binary, folder, dict(settings)
        self.children, self.ports, self.admin, self.nodes = [], {}, {}, {}

    def start(self, name, command, **options):
        log = open(Path(self.folder) / f"{name}.log", "w")
        child = subprocess.Popen(command, stdout=log, stderr=log, **options)
        self.children.append(child)
        return child

    def start_redis(self, *options):
        """Answers its port, once it can be spoken to."""
        port = free_port()
        self.start(f"redis-{port}", ["redis-server", "--port", str(port), "--save", "", "--bind",
                                     "127.0.0.1", "--dir", self.folder, *options])
        if not until(lambda: self.redis_cli(port, "PING") == "PONG", 60):
            sys.exit(f"interop: a Redis does not start:\n{self.log(f'redis-{port}')}")
        return port

    @staticmethod
    def redis_cli(port, *command):
        done = subprocess.run(["redis-cli", "-p", str(port), *map(str, command)],
                              capture_output=True, text=True)
        return done.stdout.strip()

    def start_node(self, name, url):
        self.ports[name], self.admin[name] = free_port(), free_port()
        settings = {
            "PUSH_LISTEN": f"127.0.0.1:{self.ports[name]}",
            "PUSH_ADMIN_LISTEN": f"127.0.0.1:{self.admin[name]}",
            "PUSH_REDIS_URL": url,
            "PUSH_NODE_NAME": name,
            **self.settings,
        }
        own = {k: v for k, v in os.environ.items() if not k.startswith(("PUSH_", "REDIS_"))}
        self.nodes[name] = self.start(name, [self.binary], env={**own, **settings})
        if not until(lambda: self.is_listed(name), 60):
            sys.exit(f"interop: node {name} does not start:\n{self.log(name)}")

    def is_listed(self, name):
        try:
            nodes = ask("GET", self.ports[name], "/v1/nodes")["nodes"]
            return any(node["name"] == name for node in nodes)
        except OSError:
            return False

    def log(self, name):
        return (Path(self.folder) / f"{name}.log").read_text()[-4000:]

    def push(self, name, user, data):
        body = {"to": {"user": user}, "keep": True, "data": data}
        return ask("POST", self.ports[name], "/v1/push", body)

    def kick(self, name, user):
        ask("DELETE", self.ports[name], f"/v1/users/{urllib.parse.quote(user, safe='')}")

    def drain(self, name):
        ask("POST", self.ports[name], f"/v1/nodes/{name}/drain")

    def metric(self, name, line):
        """The value of the one line of `/metrics` that begins so; 0 if there is none."""
        address = f"http://127.0.0.1:{self.admin[name]}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            for found in answer.read().decode().splitlines():
                if found.startswith(line + " "):
                    return float(found.split()[-1])
        return 0

    def stop(self):
        for child in self.children:
            child.kill()
            child.wait()


class Door:
    """What a client connects to: passes bytes on to a node, as a balancer of TCP does."""

    def __init__(self, target):
        self.target, self.accepted, self.last = target, 0, time.monotonic()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            client, _ = self.listener.accept()
            self.accepted, self.last = self.accepted + 1, time.monotonic()
            try:
                # With no target it is shut, as a balancer that finds no node.
                node = socket.create_connection(("127.0.0.1", self.target or 1))
            except OSError:
                client.close()
                continue
            for one, other in ((client, node), (node, client)):
                threading.Thread(target=self.pump, args=(one, other), daemon=True).start()

    @staticmethod
    def pump(one, other):
        try:
            while chunk := one.recv(65536):
                other.sendall(chunk)
        except OSError:
            pass
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Client:
    """A program that uses a library, and prints what it gets."""

    def __init__(self, package, command, *arguments):
        self.package = package
        self.process = subprocess.Popen([*map(str, command), package, *arguments], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.printed, self.fault = [], None
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.printed.append(line.rstrip("\n"))

    def expect(self, what, is_right, seconds):
        """Notes a fault unless this comes to be."""
        if self.fault is None and not until(is_right, seconds):
            self.fault = f"{what}; it printed {[line[:80] for line in self.printed]}"

    def stop(self):
        self.process.kill()
        self.process.wait()
