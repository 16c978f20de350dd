"""Pushes to the users of pushnode by Redis alone. One file: copy it. It needs redis-py.

    publisher = Publisher(redis.Redis.from_url("redis://127.0.0.1:6379"))
    publisher.push("42", {"text": "hello"})                    # {"status": "routed", ...}
    publisher.push({"topic": "news"}, "hello", wait="written")
    publisher.keep("42", {"text": "you have mail"})            # also for users who are away
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from typing import Any
from urllib.parse import quote

PAUSE = 0.05
"""Between two looks at a row whose node did not take the push."""


class Publisher:
    """May be shared by threads: pushes that wait for receipts take turns."""

    def __init__(
        self, redis: Any, prefix: str = "pn:", database: int = 0, name: str = "publisher"
    ) -> None:
        """`prefix` is `PUSH_PREFIX`, `database` the number in the nodes' `PUSH_REDIS_URL`.

        A Redis Cluster is refused by the first push (`ValueError`): push by HTTP there.
        """
        self.redis = redis
        self.prefix = prefix
        self.channels = prefix + (f"{database}:" if database else "")
        self.me = f"{name}.{secrets.token_hex(8)}"
        self._is_checked = False
        self._inbox: Any = None
        self._turn = threading.Lock()

    def push(
        self,
        to: str | dict[str, Any],
        data: Any,
        *,
        id: str | None = None,
        wait: str = "routed",
        timeout: float = 3.0,
        **fields: Any,
    ) -> dict[str, Any]:
        """Pushes to a user's id, or to `{"topic": ...}`, `{"fd": ...}` or `{"all": True}`.

        `wait` is `routed`, `written` or `acked`. Further fields are those of an envelope: `event`,
        `policy`, `except` (as `**{"except": ...}`). The answer has `status`, `id`, `nodes` (how
        many took it) and `connections` (how many are proven). The status is one of `routed`,
        `written`, `acked`, `duplicate`, `offline` and `unrouted`: a node that holds the user could
        not be reached. Repeat an `unrouted` one with the same `id`.
        """
        self._check()
        target = {"user": to} if isinstance(to, str) else to
        envelope = {"to": target, "data": data, "id": id or secrets.token_hex(12), **fields}
        if wait == "routed":
            return self._push(envelope, wait, time.monotonic() + timeout)
        with self._turn:
            reply = {"node": self.me, "ref": secrets.token_hex(8), "wait": wait}
            envelope["reply"] = {**reply, "timeout_ms": max(1, int(timeout * 1000))}
            self._listen()
            return self._push(envelope, wait, time.monotonic() + timeout)

    def keep(
        self,
        to: str | dict[str, Any],
        data: Any,
        *,
        id: str | None = None,
        event: str | None = None,
        messages: int = 1000,
        seconds: int = 86400,
    ) -> dict[str, Any]:
        """Keeps a message in a user's inbox, or in a topic's log, and tells the nodes.

        `messages` and `seconds` are the nodes' `PUSH_KEEP_MESSAGES` and `PUSH_KEEP_SECONDS`.
        """
        self._check()
        target = {"user": to} if isinstance(to, str) else to
        if "topic" in target:
            tag = "{%s}" % target["topic"]
            log, position = f"{self.prefix}log:{tag}", f"{self.prefix}logpos:{tag}"
        else:
            tag = "{%s}" % quote(target["user"], safe=":@")
            log, position = f"{self.prefix}inbox:{tag}", f"{self.prefix}pos:{tag}"
        entry = {"id": id or secrets.token_hex(12), "data": _json(data)}
        if event is not None:
            entry["event"] = event
        # Number and entry in one MULTI; the first number is one that no earlier log had.
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.set(position, (1 + secrets.randbelow(2**26 - 1)) << 36, nx=True)
            pipe.incr(position)
            pipe.xadd(log, entry, maxlen=messages, approximate=True)
            pipe.expire(log, seconds)
            pipe.expire(position, 2 * seconds)
            pipe.execute()
        self.redis.publish(self.channels + "g", _json({"to": target, "keep": True}))
        return {"status": "stored", "id": entry["id"]}

    def _check(self) -> None:
        """In a Redis Cluster channels are sharded, and 0 receivers prove nothing."""
        if self._is_checked:
            return
        try:
            self.redis.execute_command("CLUSTER KEYSLOT", self.prefix)
        except Exception as error:
            # Switched off, or not allowed to us; a connection that fails is another matter.
            if "cluster" not in str(error):
                raise
            self._is_checked = True
        else:
            raise ValueError("this is a Redis Cluster: push by HTTP there (POST /v1/push)")

    def _push(self, envelope: dict[str, Any], wait: str, deadline: float) -> dict[str, Any]:
        line, to = _json(envelope), envelope["to"]
        took: set[str] = set()
        receipts: dict[str, dict[str, Any]] = {}
        if "all" in to:
            expected = self.redis.publish(self.channels + "g", line)
            unreached = False
        else:
            unreached = self._offer(to, line, took, deadline)
            expected = len(took)
        has_looked_again = False
        # A node answers by the deadline at the latest; its answer takes a moment.
        while wait != "routed" and len(receipts) < expected and time.monotonic() < deadline + 0.5:
            for receipt in self._receipts(envelope["reply"]["ref"]):
                receipts[receipt["node"]] = receipt
                if receipt["status"] == "stale" and "all" not in to and not has_looked_again:
                    has_looked_again = True  # the user has moved
                    unreached |= self._offer(to, line, took, deadline)
                    expected = len(took)
        stale = sum(receipt["status"] == "stale" for receipt in receipts.values())
        said = {receipt["status"] for receipt in receipts.values()}
        if not expected - stale:
            status = "unrouted" if unreached else "offline"
        elif len(receipts) < expected and not said & {"written", "acked"}:
            status = "routed"
        else:
            order = ("acked", "written", "routed", "duplicate")
            status = next((one for one in order if one in said), "routed")
        connections = sum(receipt["connections"] for receipt in receipts.values())
        return {
            "status": status,
            "id": envelope["id"],
            "nodes": expected - stale,
            "connections": connections,
        }

    def _offer(self, to: dict[str, Any], line: str, took: set[str], deadline: float) -> bool:
        """Publishes to each node that has not taken it. Whether one could not be reached."""
        missing: dict[str, int] = {}
        while True:
            is_open = False
            for node in self._nodes(to) - took:
                # 0 proves that no node has it. In a Redis Cluster it proves nothing.
                if self.redis.publish(f"{self.channels}n:{{{node}}}", line):
                    took.add(node)
                elif not self._is_gone(node, missing):
                    is_open = True
            if not is_open or time.monotonic() > deadline:
                return is_open
            time.sleep(PAUSE)

    def _nodes(self, to: dict[str, Any]) -> set[str]:
        if "fd" in to:
            return {to["fd"].rpartition("/")[0]}
        if "topic" in to:
            return set(map(_text, self.redis.hkeys(f"{self.prefix}topic:{{{to['topic']}}}")))
        fields = self.redis.hkeys(f"{self.prefix}user:{{{quote(to['user'], safe=':@')}}}")
        return {_text(field).rpartition("/")[0] for field in fields}

    def _is_gone(self, node: str, missing: dict[str, int]) -> bool:
        """Its name has started again, or it has had no lease at two looks."""
        name, _, boot = node.rpartition(".")
        lease = self.redis.get(f"{self.prefix}node:{name}")
        if lease:
            return bool(json.loads(lease)["boot"] != boot)
        missing[node] = missing.get(node, 0) + 1
        return missing[node] > 1

    def _listen(self) -> None:
        if self._inbox is None:
            inbox = self.redis.pubsub(ignore_subscribe_messages=True)
            inbox.subscribe(f"{self.channels}n:{{{self.me}}}")
            inbox.get_message(timeout=3.0)  # subscribed
            self._inbox = inbox

    def _receipts(self, ref: str) -> list[dict[str, Any]]:
        message = self._inbox.get_message(timeout=PAUSE)
        # A payload has several lines; a node's first one is its header.
        lines = _text(message["data"]).splitlines() if message else []
        objects = map(json.loads, lines)
        return [one for one in objects if one.get("cmd") == "receipt" and one["ref"] == ref]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
