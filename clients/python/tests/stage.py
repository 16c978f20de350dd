"""Real nodes on a real Redis, on free ports; and a way between that can be cut."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
NODE = os.environ.get("PUSHNODE_BIN", str(ROOT / "target/debug/pushnode"))
SECRET = "a-secret-of-thirty-two-bytes-or-more"
PATIENCE = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Redis:
    def __init__(self) -> None:
        self.port = free_port()
        self.folder = tempfile.mkdtemp()
        command = ["redis-server", "--port", str(self.port), "--save", "", "--bind", "127.0.0.1"]
        self.process = subprocess.Popen([*command, "--dir", self.folder], stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Node:
    """A pushnode process that is ready."""

    def __init__(self, redis: Redis, name: str, port: int | None = None, **settings: str) -> None:
        self.port = port or free_port()
        operations = free_port()
        environment = {
            "PUSH_ADMIN_LISTEN": f"127.0.0.1:{operations}",
            "PUSH_LISTEN": f"127.0.0.1:{self.port}",
            "PUSH_NODE_NAME": name,
            "PUSH_REDIS_URL": f"redis://127.0.0.1:{redis.port}",
            "PUSH_DRAIN_SECONDS": "1",
            "PUSH_LOG": "warn",
            **settings,
        }
        self.process = subprocess.Popen(
            [NODE], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self.operations = f"http://127.0.0.1:{operations}"
        start = time.monotonic()
        while not self._is_ready():
            assert self.process.poll() is None, "the node did not start"
            assert time.monotonic() - start < PATIENCE, "the node is not ready"
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.operations + "/readyz", timeout=PATIENCE) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def call(self, path: str, body: Any, method: str = "POST") -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json"},
            method=method,
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or b"null")

    def push(self, to: dict[str, Any], data: Any, **more: Any) -> Any:
        return self.call("/v1/push", {"to": to, "data": data, **more})

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Way:
    """A TCP proxy: it can cut its connections, or swallow what passes."""

    def __init__(self) -> None:
        self.target = 0
        self.port = 0
        self.opened = self.open = self.most = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, target: int) -> Way:
        self.target = target
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def stop(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            self.open -= 1
            writer.close()
            return
        self._writers |= {writer, far_writer}
        try:
            there = asyncio.create_task(self._pump(reader, far_writer))
            back = asyncio.create_task(self._pump(far_reader, writer))
            await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            there.cancel()
            back.cancel()
        finally:
            self.open -= 1
            self._writers -= {writer, far_writer}
            writer.close()
            far_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            return


def token(user: str, seconds: float, **claims: Any) -> str:
    def text(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    body = {"sub": user, "exp": time.time() + seconds, **claims}
    signed = text(b'{"alg":"HS256"}') + "." + text(json.dumps(body).encode())
    return signed + "." + text(hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest())


async def eventually(what: str, check: Any) -> Any:
    """Polls until the check answers something."""
    start = time.monotonic()
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() - start < PATIENCE, f"waited in vain for {what}"
        await asyncio.sleep(0.02)
