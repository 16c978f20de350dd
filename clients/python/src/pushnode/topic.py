"""A topic that the client is subscribed to, whatever becomes of its connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Literal

from .errors import PushError
from .handlers import Handlers, Outcome
from .message import Message

if TYPE_CHECKING:
    from .client import Client

State = Literal["subscribing", "subscribed", "closed"]


class Topic:
    """Made by :meth:`Client.topic`, which counts its users: each one calls :meth:`close`.

    ``async for data in topic`` yields the data of each message from then on. Events for
    :meth:`on`: ``message(data, message)``, ``presence(members, joined, left)``, ``gap()``,
    ``subscribed()``, ``closed(error)``.
    """

    def __init__(self, client: Client, name: str, presence: bool, since: str | None) -> None:
        self.name = name
        self.state: State = "subscribing"
        self.members: set[str] | None = None
        """The users in the topic, with ``presence=True``, once they are known."""
        self._client = client
        self._presence = presence
        self._position = since
        self._users = 0
        self._handlers = Handlers(client._report)
        self._readers: set[asyncio.Queue[Any]] = set()
        self._settled = asyncio.Event()
        self._error: PushError | None = None

    def on(self, event: str, handler: Callable[..., Any]) -> Callable[[], None]:
        """Calls the handler at each event. Returns the function that takes it off."""
        return self._handlers.on(event, handler)

    async def ready(self) -> None:
        """Returns once subscribed; raises :class:`PushError` if the topic is closed."""
        while self.state == "subscribing":
            await self._settled.wait()
        if self.state == "closed":
            raise self._error or PushError("closed", self.name)

    def close(self) -> None:
        """Lets go of it. Unsubscribes when its last user does."""
        self._users -= 1
        if self._users <= 0 and self.state != "closed":
            self._client._leave(self)

    async def __aiter__(self) -> AsyncIterator[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._readers.add(queue)
        try:
            while True:
                if self.state == "closed" and queue.empty():
                    return
                data = await queue.get()
                if data is _END:
                    return
                yield data
        finally:
            self._readers.discard(queue)

    # Called by the client.

    def _deliver(self, message: Message) -> Outcome:
        for queue in self._readers:
            queue.put_nowait(message.data)
        return self._handlers.emit("message", message.data, message)

    def _subscribed(self, reply: dict[str, Any]) -> None:
        if reply.get("recovered") is False:
            self._handlers.emit("gap")
        if "resume" in reply:
            self._position = reply["resume"]
        self.state = "subscribed"
        self._settled.set()
        self._handlers.emit("subscribed")

    def _lost(self) -> None:
        """The connection has ended; the topic will be subscribed again."""
        if self.state == "subscribed":
            self.state = "subscribing"
            self._settled.clear()

    def _end(self, error: PushError) -> None:
        self.state = "closed"
        self._error = error
        self._settled.set()
        for queue in self._readers:
            queue.put_nowait(_END)
        self._handlers.emit("closed", error)

    def _present(self, frame: dict[str, Any]) -> None:
        joined, left = list(frame.get("join", [])), list(frame.get("leave", []))
        if "members" in frame:
            before = self.members or set()
            self.members = set(frame["members"])
            joined, left = sorted(self.members - before), sorted(before - self.members)
        elif self.members is not None:
            self.members |= set(joined)
            self.members -= set(left)
        else:
            # `status`: who is in it is not known for a while.
            return
        self._handlers.emit("presence", set(self.members), joined, left)


_END = object()
