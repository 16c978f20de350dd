"""A push as the application gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Message:
    """A push to the user, to everybody or to a topic."""

    data: Any
    event: str | None = None
    topic: str | None = None
    id: str | None = None
    kept: bool = False
    """Whether it is in the inbox or log, so that a client that comes back gets it."""
    author: dict[str, str] | None = None
    """``user`` and ``connection`` of the member who published it, set by the node."""
    _ack: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def ack(self) -> None:
        """Tells the sender that it has arrived. Only with ``ack="manual"``; otherwise it is done
        after all handlers have returned."""
        self._ack()
