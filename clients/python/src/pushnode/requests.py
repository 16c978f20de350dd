"""Requests to the node, and the answers that are still to come.

What must stay true: a request is sent at most once (unless it is idempotent), in the order in which
it was made, and each gets exactly one outcome.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from .errors import PushError

# The node refuses more than 32 (`busy`); one place is left for `auth`.
UNDER_WAY = 31


class Request:
    """One object with a ``ref``, and what is answered to it."""

    def __init__(self, frame: dict[str, Any], idempotent: bool, answers: int) -> None:
        self.frame = frame
        self.idempotent = idempotent
        self.done: list[asyncio.Future[dict[str, Any]]] = [
            asyncio.get_running_loop().create_future() for _ in range(answers)
        ]
        for future in self.done:
            # Whoever does not look at a refusal is not told of it by the loop.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def fail(self, error: PushError) -> None:
        for future in self.done:
            if not future.done():
                future.set_exception(error)


class Requests:
    """Waiting ones in order, and those under way by their ``ref``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._refs = itertools.count(1)
        self._waiting: deque[Request] = deque()
        self._under_way: dict[int, Request] = {}

    def add(
        self,
        frame: dict[str, Any],
        *,
        idempotent: bool = False,
        answers: int = 1,
        bounded: bool = True,
    ) -> Request:
        """``answers``: how many objects with its ``ref`` come back. ``bounded``: refused if too
        many wait."""
        request = Request({**frame, "ref": next(self._refs)}, idempotent, answers)
        if bounded and len(self._waiting) >= self._limit:
            request.fail(PushError("queue_full", f"{self._limit} requests wait"))
        else:
            self._waiting.append(request)
        return request

    def flush(self, send: Callable[[dict[str, Any]], None]) -> None:
        """Sends what may be sent now."""
        while self._waiting and len(self._under_way) < UNDER_WAY:
            request = self._waiting.popleft()
            if all(future.done() for future in request.done):
                continue  # its time is over
            self._under_way[request.frame["ref"]] = request
            send(request.frame)

    def answer(self, frame: dict[str, Any]) -> bool:
        """Takes a ``reply`` or ``error``. Answers whether it belongs to a request."""
        ref = frame.get("ref")
        if not isinstance(ref, int) or ref not in self._under_way:
            return False
        request = self._under_way[ref]
        if frame["type"] == "error":
            retry = frame.get("retry_ms")
            error = PushError(
                frame["code"], frame.get("message", ""), None if retry is None else retry / 1000
            )
            request.fail(error)
        else:
            for future in request.done:
                if not future.done():
                    future.set_result(frame)
                    break
        if all(future.done() for future in request.done):
            del self._under_way[ref]
        return True

    def lost(self) -> None:
        """The connection has ended: what was sent may or may not have arrived."""
        again = []
        for request in self._under_way.values():
            if request.idempotent:
                again.append(request)
            else:
                request.fail(PushError("unknown", "the connection ended before the answer"))
        self._under_way.clear()
        self._waiting.extendleft(reversed(again))

    def fail_all(self, error: PushError) -> None:
        for request in [*self._under_way.values(), *self._waiting]:
            request.fail(error)
        self._under_way.clear()
        self._waiting.clear()
