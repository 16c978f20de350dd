"""One user's connection, kept up for as long as it makes sense.

What must stay true: at most one socket is open or opening at any time; positions advance only after
handlers have run; nothing that was sent without an answer is sent again unless it is idempotent.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from .backoff import Backoff
from .errors import FINAL, FINAL_STATUS, PushError, Unauthorized
from .handlers import Handlers
from .message import Message
from .requests import Request, Requests
from .topic import Topic

log = logging.getLogger("pushnode")

State = Literal["connecting", "connected", "reconnecting", "closed"]
TokenProvider = Callable[[str], "str | Awaitable[str]"]
# Longer than the node takes to end a connection that does not answer its ping.
SILENCE = 45.0


@dataclass(frozen=True)
class Closed:
    """Why a client is closed for good."""

    code: int
    reason: str


def connect(
    url: str,
    *,
    token: str | TokenProvider | None = None,
    user: str | None = None,
    device: str | None = None,
    resume: bool = True,
    ack: Literal["auto", "manual"] = "auto",
    backoff: Backoff | None = None,
    timeout: float = 10.0,
    queue: int = 100,
) -> Client:
    """Starts a client in the running event loop and returns it at once.

    ``token`` is a token, or a function (plain or ``async``) that gets the reason (``connect``,
    ``expiring``, ``expired``, ``refused``) and returns one. If it raises :class:`Unauthorized`, the
    client closes for good. ``timeout`` is in seconds, for connecting and for requests; ``queue`` is
    the number of requests that may wait while there is no connection.
    """
    return Client(url, token, user, device, resume, ack, backoff or Backoff(), timeout, queue)


class Client:
    """Made by :func:`connect`. Events for :meth:`on`: ``state(state, why)``, ``message(data,
    message)`` for pushes to the user and to everybody, ``":name"(data, message)`` for pushes with
    the event ``name``, ``gap(topic)``, ``degraded(reason)``, ``topic(name, now)``, ``error(error)``.
    """

    def __init__(
        self,
        url: str,
        token: str | TokenProvider | None,
        user: str | None,
        device: str | None,
        resume: bool,
        ack: Literal["auto", "manual"],
        backoff: Backoff,
        timeout: float,
        queue: int,
    ) -> None:
        self.state: State = "connecting"
        self.user = user
        self.connection: str | None = None
        """``<node>/<fd>``, while connected."""
        self.closed: Closed | None = None
        self._url, self._token_source, self._asked_user = url, token, user
        self._device, self._resumes, self._acks = device, resume, ack == "auto"
        self._backoff, self._timeout = backoff, timeout
        self._handlers = Handlers(self._report)
        self._requests = Requests(queue)
        self._topics: dict[str, Topic] = {}
        self._answerer: Callable[..., Any] | None = None
        self._position: str | None = None
        self._token: str | None = None
        self._reason = "connect"
        self._socket: ClientConnection | None = None
        self._outbox: asyncio.Queue[dict[str, Any]] | None = None
        self._settled = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        # The last message whose handlers still run.
        self._settling: asyncio.Task[None] | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._main = asyncio.get_running_loop().create_task(self._live())

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- what applications call ------------------------------------------------------

    def on(self, event: str, handler: Callable[..., Any]) -> Callable[[], None]:
        """Calls the handler at each event. Returns the function that takes it off."""
        return self._handlers.on(event, handler)

    def topic(
        self, name: str, *, presence: bool = False, since: str | None = None, last: int | None = None
    ) -> Topic:
        """Subscribes to a topic. ``since="0"`` asks for all that is kept, ``last=50`` for the last
        messages. A second call for the same topic returns the same object."""
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(self, name, presence, since, last)
            if self.state == "connected":
                self._subscribe(topic)
        topic._users += 1
        return topic

    async def send(
        self,
        route: str,
        data: Any,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
        accepted: bool = False,
    ) -> Any:
        """Sends to a service and returns the data of its reply; with ``accepted=True`` it returns
        as soon as the service's stream has it."""
        frame = {"type": "send", "route": route, "data": data}
        request = self._request(frame, idempotent=idempotent, answers=2)
        stored = await self._await(request, 0, timeout)
        if accepted:
            return stored.get("status")
        reply = await self._await(request, 1, timeout)
        if reply.get("status") == "failed":
            raise PushError("failed", str(reply.get("error", "")))
        return reply.get("data")

    def answer(self, handler: Callable[[Any], Any]) -> Callable[[], None]:
        """Answers calls of senders by what the handler returns; what it raises is a failure."""
        self._answerer = handler

        def off() -> None:
            if self._answerer is handler:
                self._answerer = None

        return off

    async def ready(self) -> None:
        """Returns once connected; raises :class:`PushError` if the client is closed."""
        while self.state not in ("connected", "closed"):
            await self._settled.wait()
        if self.closed is not None:
            raise PushError("closed", self.closed.reason)

    async def renew(self) -> None:
        """Asks for a new token now and presents it. One of another user opens a new connection,
        without the topics and positions of the old one."""
        token = await self._ask_token("expiring")
        if token is None or self.state != "connected":
            return
        try:
            request = self._request({"type": "auth", "token": token})
            await self._await(request, 0, None)
            self._token = token
        except PushError as error:
            if error.code != "wrong_user":
                raise
            self._token = token
            self._forget()
            await self._drop()

    async def close(self) -> None:
        """Closes for good."""
        self._finish(Closed(1000, "closed"))
        self._main.cancel()
        await asyncio.gather(self._main, return_exceptions=True)

    # ---- the connection --------------------------------------------------------------

    async def _live(self) -> None:
        while self.closed is None:
            retry_ms: float | None = None
            try:
                socket = await self._open()
                retry_ms = await self._serve(socket)
            except Unauthorized as error:
                return self._finish(Closed(4401, str(error) or "unauthorized"))
            except InvalidStatus as error:
                retry_ms = self._refused(error)
            except (OSError, TimeoutError, ConnectionClosed) as error:
                log.debug("no connection: %r", error)
            except Exception as error:  # noqa: BLE001 - a token provider may raise anything
                self._report(error)
            if self.closed is not None:
                return None
            pause = self._backoff.next(retry_ms)
            self._set_state("reconnecting", {"retry_in": pause})
            await asyncio.sleep(pause)
        return None

    async def _open(self) -> ClientConnection:
        if self._token_source is not None and self._token is None:
            self._token = await self._ask_token(self._reason)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return await open_websocket(
            self._full_url(),
            subprotocols=[Subprotocol("pushnode.v1")],
            additional_headers=headers,
            open_timeout=self._timeout,
            close_timeout=1,
            # The node limits what it sends; a kept message must not shut out those after it.
            max_size=None,
        )

    def _full_url(self) -> str:
        parts = urlsplit(self._url)
        query = parse_qsl(parts.query)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        wishes = {"user": self._asked_user, "device": self._device}
        if self._resumes:
            wishes["since"] = self._position
        query += [(name, value) for name, value in wishes.items() if value is not None]
        path = parts.path if parts.path not in ("", "/") else "/ws"
        return urlunsplit((scheme, parts.netloc, path, urlencode(query), ""))

    async def _serve(self, socket: ClientConnection) -> float | None:
        """Until the connection ends. Answers after how many milliseconds to come back."""
        self._socket, self._outbox = socket, asyncio.Queue()
        writer = asyncio.create_task(self._write(socket, self._outbox))
        start = asyncio.get_running_loop().time()
        bye: dict[str, Any] = {}
        try:
            self._enter(json.loads(await asyncio.wait_for(socket.recv(), self._timeout)))
            while True:
                frame = json.loads(await asyncio.wait_for(socket.recv(), SILENCE))
                if frame["type"] == "bye":
                    bye = frame
                else:
                    self._hear(frame)
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            reason = closed.rcvd.reason if closed.rcvd else ""
            self._ended(bye.get("code", code), bye.get("reason", reason))
        finally:
            self._backoff.lasted(asyncio.get_running_loop().time() - start)
            writer.cancel()
            # The old socket is closed before the next is opened.
            await _quietly(socket.close())
            self._lose()
        return bye.get("retry_ms")

    @staticmethod
    async def _write(socket: ClientConnection, outbox: asyncio.Queue[dict[str, Any]]) -> None:
        try:
            while True:
                await socket.send(json.dumps(await outbox.get(), separators=(",", ":")))
        except ConnectionClosed:
            return  # the reader notices it, too

    def _enter(self, ready: dict[str, Any]) -> None:
        if ready.get("type") != "ready":
            raise PushError("protocol", f"expected `ready`, got {ready.get('type')!r}")
        if self.user is not None and ready["user"] != self.user:
            self._forget()
        self.user = ready["user"]
        self.connection = f"{ready['node']}/{ready['fd']}"
        self._reason = "connect"
        gap = ready.get("recovered") is False
        self._position = ready.get("resume", self._position)
        self._set_state("connected", None)
        if gap:
            self._handlers.emit("gap", None)
        for topic in list(self._topics.values()):
            self._subscribe(topic)
        self._flush()

    def _refused(self, error: InvalidStatus) -> float | None:
        status = error.response.status_code
        if status in FINAL_STATUS:
            self._finish(Closed(FINAL_STATUS[status], _words(error)))
        elif status == 401:
            self._refuse_token("refused")
        after = error.response.headers.get("Retry-After", "")
        return float(after) * 1000 if after.isdigit() else None

    def _ended(self, code: int, reason: str) -> None:
        if code in FINAL:
            self._finish(Closed(code, reason))
        elif code in (4004, 4401):
            self._refuse_token("expired" if code == 4004 else "refused")

    def _refuse_token(self, reason: str) -> None:
        self._token, self._reason = None, reason
        if not callable(self._token_source):
            self._finish(
                Closed(4401, "the token is refused, and there is no function for a new one")
            )

    def _lose(self) -> None:
        self._socket = self._outbox = self.connection = None
        if self._renewal is not None:
            self._renewal.cancel()
        if self._settling is not None:
            # Its message counts as not read, unless it is done before the next connect.
            self._settling.cancel()
            self._settling = None
        self._requests.lost()
        for topic in self._topics.values():
            topic._lost()

    async def _drop(self) -> None:
        if self._socket is not None:
            await _quietly(self._socket.close())

    def _forget(self) -> None:
        """Nothing of one user is shown to another."""
        self._position = None
        self.user = self._asked_user = None
        for topic in list(self._topics.values()):
            del self._topics[topic.name]
            topic._end(PushError("closed", "another user has logged in"))

    # ---- what is heard ---------------------------------------------------------------

    def _hear(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        topic = self._topics.get(frame.get("topic", ""))
        if kind == "message":
            self._take(frame, topic)
        elif kind in ("reply", "error"):
            if not self._requests.answer(frame) and kind == "error":
                self._report(PushError(frame["code"], frame.get("message", "")))
            self._flush()
        elif kind == "presence" and topic is not None:
            if "status" in frame:
                topic._handlers.emit("gap")
            else:
                topic._present(frame)
        elif kind == "resync":
            if topic is not None:
                topic._handlers.emit("gap")
            self._handlers.emit("gap", frame.get("topic"))
        elif kind == "degraded":
            self._handlers.emit("degraded", frame.get("reason", ""))
        elif kind in ("subscribed", "unsubscribed"):
            if kind == "unsubscribed" and topic is not None:
                self._closed_topic(topic, PushError("unsubscribed", "by a sender or a new token"))
            self._handlers.emit("topic", frame["topic"], kind)
        elif kind == "expiring":
            self._renew_later(frame["in_ms"] / 1000)
        elif kind == "call":
            self._spawn(self._answer(frame))
        elif kind == "ping":
            self._post({"type": "pong"})

    def _take(self, frame: dict[str, Any], topic: Topic | None) -> None:
        name, message_id, position = frame.get("topic"), frame.get("id"), frame.get("resume")

        def ack() -> None:
            if message_id is not None:
                self._post({"type": "ack", "id": message_id})

        message = Message(
            frame.get("data"), frame.get("event"), name, message_id, position is not None,
            frame.get("from"), (lambda: None) if self._acks else ack,
        )  # fmt: skip
        if topic is not None:
            outcome = topic._deliver(message)
        else:
            outcome = self._handlers.emit("message", message.data, message)
        if message.event is not None:
            outcome.add(self._handlers.emit(f":{message.event}", message.data, message))

        def done(well: bool) -> None:
            if position is not None:
                if topic is not None:
                    topic._position = position
                elif name is None:
                    self._position = position
            if self._acks and well:
                ack()

        if not outcome.tasks and self._settling is None:
            done(outcome.well)
            return
        # Positions advance in order: not past a message whose handlers still run.
        before = self._settling

        async def settle() -> None:
            if before is not None:
                await before
            done(await outcome.finish())
            if self._settling is task:
                self._settling = None

        task = self._settling = self._spawn(settle())

    async def _answer(self, call: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"type": "answer", "ref": call["ref"]}
        try:
            if self._answerer is None:
                raise PushError("no_answer", "nothing answers calls here")  # noqa: TRY301
            result = self._answerer(call.get("data"))
            reply["data"] = await result if inspect.isawaitable(result) else result
        except Exception as error:  # noqa: BLE001 - the caller is told
            reply["error"] = str(error) or type(error).__name__
        self._post(reply)

    # ---- tokens ----------------------------------------------------------------------

    def _renew_later(self, seconds: float) -> None:
        if not callable(self._token_source):
            return
        if self._renewal is not None:
            self._renewal.cancel()
        # Half of what is left: with a short life, renewing at once would be a loop.
        loop = asyncio.get_running_loop()
        self._renewal = loop.call_later(seconds / 2, lambda: self._spawn(self._renew_quietly()))

    async def _renew_quietly(self) -> None:
        try:
            await self.renew()
        except Unauthorized as error:
            self._finish(Closed(4401, str(error) or "unauthorized"))
            await self._drop()
        except Exception as error:  # noqa: BLE001 - without a new token, 4004 follows
            self._report(error)

    async def _ask_token(self, reason: str) -> str | None:
        source = self._token_source
        if not callable(source):
            return source
        token = source(reason)
        return await token if inspect.isawaitable(token) else token

    # ---- requests --------------------------------------------------------------------

    def _request(
        self, frame: dict[str, Any], *, idempotent: bool = False, answers: int = 1
    ) -> Request:
        if self.closed is not None:
            raise PushError("closed", self.closed.reason)
        request = self._requests.add(frame, idempotent=idempotent, answers=answers)
        self._flush()
        return request

    async def _await(self, request: Request, which: int, timeout: float | None) -> dict[str, Any]:
        future = request.done[which]
        try:
            return await asyncio.wait_for(asyncio.shield(future), timeout or self._timeout)
        except TimeoutError:
            error = PushError("timeout", f"no answer to {request.frame['type']} in time")
            request.fail(error)
            raise error from None

    def _subscribe(self, topic: Topic) -> None:
        frame: dict[str, Any] = {"type": "subscribe", "topic": topic.name}
        if topic._position is not None and self._resumes:
            frame["since"] = topic._position
        elif topic._last is not None:
            frame["last"] = topic._last
        if topic._presence:
            frame["presence"] = True
        request = self._requests.add(frame, bounded=False)
        self._flush()
        self._spawn(self._await_subscription(topic, request))

    async def _await_subscription(self, topic: Topic, request: Request) -> None:
        try:
            reply = await request.done[0]
        except PushError as error:
            if self._topics.get(topic.name) is not topic or error.code in ("unknown", "closed"):
                return
            if error.code in ("busy", "gone", "timeout"):
                await asyncio.sleep(error.retry_in or 1.0)
                if self.state == "connected" and self._topics.get(topic.name) is topic:
                    self._subscribe(topic)
                return
            self._closed_topic(topic, error)
            return
        if reply.get("recovered") is False:
            self._handlers.emit("gap", topic.name)
        topic._subscribed(reply)

    def _leave(self, topic: Topic) -> None:
        if self._topics.get(topic.name) is topic:
            del self._topics[topic.name]
            topic._end(PushError("closed", "by this client"))
            if self.state == "connected":
                self._request({"type": "unsubscribe", "topic": topic.name})

    def _closed_topic(self, topic: Topic, error: PushError) -> None:
        self._topics.pop(topic.name, None)
        topic._end(error)

    def _flush(self) -> None:
        if self.state == "connected":
            self._requests.flush(self._post)

    def _post(self, frame: dict[str, Any]) -> None:
        if self._outbox is not None:
            self._outbox.put_nowait(frame)

    # ---- the rest --------------------------------------------------------------------

    def _set_state(self, state: State, why: Any) -> None:
        self.state = state
        if state in ("connected", "closed"):
            self._settled.set()
        else:
            self._settled.clear()
        self._handlers.emit("state", state, why)

    def _finish(self, why: Closed) -> None:
        if self.closed is not None:
            return
        self.closed = why
        if self._renewal is not None:
            self._renewal.cancel()
        error = PushError("closed", why.reason)
        self._requests.fail_all(error)
        for topic in list(self._topics.values()):
            self._closed_topic(topic, error)
        self._set_state("closed", why)

    def _report(self, error: Exception) -> None:
        if self._handlers.has("error"):
            for handler in list(self._handlers._by_event["error"]):
                try:
                    handler(error)
                except Exception:  # noqa: BLE001 - there is nobody left to tell
                    log.exception("an error handler raised")
        else:
            log.warning("%s: %s", type(error).__name__, error)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _quietly(coroutine: Awaitable[Any]) -> None:
    try:
        await coroutine
    except (OSError, ConnectionClosed):
        pass


def _words(error: InvalidStatus) -> str:
    try:
        return str(json.loads(error.response.body or b"")["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error)
