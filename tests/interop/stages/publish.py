"""Redis: what a program publishes with nothing but a client of Redis comes to a user, and the
receipt to the program. With a Redis alone, with a Sentinel, and with a Redis Cluster."""
import http.client
import tempfile
import threading
import urllib.parse

from .servers import AT_ONCE, Client, Servers, free_port, until

# In a key it has to be quoted.
USER = "auth0|a+b é!/"
SAID = ["to the node", "to all nodes", "kept"]


class Reader:
    """Receives as the user, over server-sent events."""

    def __init__(self, port, user):
        self.printed = []
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self.connection.request("GET", "/sse?user=" + urllib.parse.quote(user, safe=""))
        self.answer = self.connection.getresponse()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for line in self.answer:
                self.printed.append(line.decode().rstrip("\n"))
        except (OSError, http.client.HTTPException, ValueError):
            pass

    def said(self):
        return [line for line in self.printed if line.startswith('data: "')]


class Redises(Servers):
    """A Redis in one of its forms. What programs connect to, and what nodes do."""

    def standalone(self):
        address = f"127.0.0.1:{self.start_redis()}"
        return address, f"redis://{address}"

    def sentinel(self):
        main, port = self.start_redis(), free_port()
        lines = [f"port {port}", "bind 127.0.0.1", f"sentinel monitor mymaster 127.0.0.1 {main} 1"]
        file = f"{self.folder}/sentinel.conf"
        with open(file, "w") as settings:
            settings.write("\n".join(lines) + "\n")
        self.start("sentinel", ["redis-server", file, "--sentinel"])
        answer = lambda: self.redis_cli(port, "SENTINEL", "get-master-addr-by-name", "mymaster")
        until(lambda: answer().endswith(str(main)), 60)
        return f"127.0.0.1:{port}", f"redis-sentinel://127.0.0.1:{port}/0?master=mymaster"

    def cluster(self):
        ports = [self.start_redis("--cluster-enabled", "yes", "--cluster-config-file",
                                  f"nodes-{number}.conf", "--cluster-port", str(free_port()))
                 for number in range(3)]
        hosts = [f"127.0.0.1:{port}" for port in ports]
        self.redis_cli(ports[0], "--cluster", "create", *hosts, "--cluster-yes")
        is_whole = lambda port: "cluster_state:ok" in self.redis_cli(port, "CLUSTER", "INFO")
        until(lambda: all(map(is_whole, ports)), 60)
        return hosts[0], "redis-cluster://" + ",".join(hosts)


def publish(binary, folder, mode, rows):
    servers = Redises(binary, folder, {"PUSH_SSE_BEAT_SECONDS": "300"})
    clients = []
    try:
        address, url = getattr(servers, mode)()
        for name in "ab":
            servers.start_node(name, url)
        for library, command in rows:
            user = f"{USER}-{library}"
            reader = Reader(servers.ports["a"], user)
            until(lambda: "event: ready" in reader.printed, 60)
            clients.append((reader, Client(library, command, mode, address, user)))
        for reader, client in clients:
            client.expect("it does not end", lambda: "done" in client.printed, 60)
            is_written = lambda: "receipt written 1" in client.printed
            client.expect("not the receipt", is_written, 0)
            said = [f'data: "{data}"' for data in SAID]
            client.expect("not what it published", lambda: reader.said() == said, AT_ONCE)
            if client.fault:
                client.fault += f"; {mode}; the user heard {reader.said()}"
    finally:
        for _, client in clients:
            client.stop()
        servers.stop()
    return {client.package: client.fault for _, client in clients}


def run(binary, rows):
    faults = {}
    for mode in ("standalone", "sentinel", "cluster"):
        with tempfile.TemporaryDirectory() as folder:
            for library, fault in publish(binary, folder, mode, rows).items():
                faults[library] = faults.get(library) or fault
    return list(faults.items())
