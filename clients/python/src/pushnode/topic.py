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

    def __init__(
        self, client: Client, name: str, presence: bool, since: str | None, last: int | None
    ) -> None:
        self.name = name
        self.state: State = "subscribing"
        self.members: set[str] | None = None
        """The users in the topic, with ``presence=True``, once they are known."""
        self.info: dict[str, Any] = {}
        """What the node tells of them beside their names."""
        self.count: int | None = None
        """How many they are, also where the topic's rule tells no names."""
        self._client = client
        self._presence = presence
        self._position = since
        self._last = last
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

    async def publish(self, data: Any, *, event: str | None = None, echo: bool = False) -> None:
        """Gives it to the members, where the topic's rule lets members publish; with ``echo=True``
        to this client as well. Waits until subscribed. What is sent without an answer is not sent
        again (``unknown``)."""
        frame = {"type": "publish", "topic": self.name, "data": data}
        if event is not None:
            frame["event"] = event
        if echo:
            frame["echo"] = True
        await self._ask(frame, idempotent=False)

    async def history(
        self, *, before: str | None = None, limit: int = 50
    ) -> tuple[list[dict[str, Any]], bool]:
        """What was kept before an ``entry``, or the newest; the oldest first. And whether there is
        more before it."""
        frame = {"type": "history", "topic": self.name, "limit": limit}
        if before is not None:
            frame["before"] = before
        reply = await self._ask(frame, idempotent=True)
        return reply["messages"], reply["more"]

    async def _ask(self, frame: dict[str, Any], idempotent: bool) -> dict[str, Any]:
        try:
            await asyncio.wait_for(self.ready(), self._client._timeout)
        except TimeoutError:
            raise PushError("timeout", f"not subscribed to {self.name} in time") from None
        request = self._client._request(frame, idempotent=idempotent)
        return await self._client._await(request, 0, None)

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
        # A member is a name, or an object with what the node tells of it.
        said = {list_: [_named(one) for one in frame.get(list_, [])] for list_ in _LISTS}
        if not any(list_ in frame for list_ in (*_LISTS, "count")):
            return  # `status`: who is in it is not known for a while
        before = set(self.members or ())
        if "members" in frame:
            self.members, self.info = set(), {}
        elif self.members is None:
            self.members = set()
        for name, info in [*said["members"], *said["join"]]:
            self.members.add(name)
            if info is not None:
                self.info[name] = info
        for name, _ in said["leave"]:
            self.members.discard(name)
            self.info.pop(name, None)
        self.count = frame.get("count", len(self.members))
        joined, left = sorted(self.members - before), sorted(before - self.members)
        self._handlers.emit("presence", set(self.members), joined, left)


_LISTS = ("members", "join", "leave")


def _named(member: str | dict[str, Any]) -> tuple[str, Any]:
    if isinstance(member, str):
        return member, None
    return member["user"], member.get("info")


_END = object()
