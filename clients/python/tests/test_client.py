"""The client against real nodes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import redis as redis_library
from stage import Node, Redis, Way, eventually, token

import pushnode
from pushnode import PushError, Unauthorized
from pushnode.backoff import Backoff

QUICK = {"min": 0.02, "max": 0.2}


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 120))


def test_a_push_to_the_user_arrives_and_is_acknowledged(nodes: tuple[Node, Node]) -> None:
    async def main() -> None:
        a, b = nodes
        async with pushnode.connect(a.url, user="ann") as push:
            got: list[Any] = []
            push.on("message", lambda data, message: got.append((data, message.id)))
            await push.ready()
            answer = await asyncio.to_thread(
                b.push, {"user": "ann"}, {"n": 1}, id="m1", wait="acked"
            )
            assert answer["status"] == "acked"
            assert got == [({"n": 1}, "m1")]

    run(main())


def test_a_message_whose_handler_raises_is_not_acknowledged(nodes: tuple[Node, Node]) -> None:
    async def main() -> None:
        async with pushnode.connect(nodes[0].url, user="rae") as push:
            errors: list[Exception] = []
            seen: list[Any] = []

            async def fails(data: Any, _: Any) -> None:
                await asyncio.sleep(0)
                if data == "bad":
                    raise ValueError("no")

            push.on("message", fails)
            push.on("message", lambda data, _: seen.append(data))
            push.on("error", errors.append)
            await push.ready()
            wait = {"wait": "acked", "timeout_ms": 700}
            push_it = lambda data, id: asyncio.to_thread(  # noqa: E731
                nodes[0].push, {"user": "rae"}, data, id=id, **wait
            )
            assert (await push_it("bad", "r1"))["status"] == "written"
            assert (await push_it("good", "r2"))["status"] == "acked"
            assert seen == ["bad", "good"]
            assert [type(error) for error in errors] == [ValueError]

    run(main())


def test_topics_presence_and_iteration(nodes: tuple[Node, Node]) -> None:
    async def main() -> None:
        a, b = nodes
        async with (
            pushnode.connect(a.url, user="t1") as one,
            pushnode.connect(b.url, user="t2") as two,
        ):
            room = one.topic("room.1", presence=True)
            assert one.topic("room.1") is room
            await room.ready()
            other = two.topic("room.1")
            await other.ready()
            await eventually("t2 to be in", lambda: (room.members or set()) == {"t1", "t2"})
            lines = aiter(room)
            first = asyncio.ensure_future(anext(lines))
            await asyncio.sleep(0)
            await asyncio.to_thread(a.push, {"topic": "room.1"}, "hello")
            assert await first == "hello"
            other.close()
            await eventually("t2 to be out", lambda: (room.members or set()) == {"t1"})
            room.close()
            assert room.state == "subscribing" or room.state == "subscribed"
            room.close()
            assert room.state == "closed"

    run(main())


def test_members_publish_and_look_back(redis: Redis) -> None:
    rules = [
        {"match": "chat.*", "send": "members", "keep": {"messages": 50, "every": True}},
        {"match": "seen.*", "presence": "count"},
    ]
    node = Node(redis, "members", PUSH_TOPIC_RULES=json.dumps(rules))

    async def main() -> None:
        async with (
            pushnode.connect(node.url, user="m1") as one,
            pushnode.connect(node.url, user="m2") as two,
        ):
            got: list[Any] = []
            room = two.topic("chat.1")
            room.on("message", lambda data, message: got.append((data, message.author, message.event)))
            await room.ready()
            for n in range(3):
                await one.topic("chat.1").publish(n, event="said")
            await eventually("all", lambda: len(got) == 3)
            assert [(data, author["user"], event) for data, author, event in got] == [
                (0, "m1", "said"),
                (1, "m1", "said"),
                (2, "m1", "said"),
            ]
            messages, more = await room.history(limit=2)
            assert [message["data"] for message in messages] == [1, 2]
            assert more
            earlier, more = await room.history(before=messages[0]["entry"])
            assert ([message["data"] for message in earlier], more) == ([0], False)
            with pytest.raises(PushError) as refused:
                await one.topic("news").publish("no")
            assert refused.value.code == "forbidden"

            late: list[Any] = []
            other = pushnode.connect(node.url, user="m3")
            other.topic("chat.1", last=2).on("message", lambda data, _: late.append(data))
            seen = one.topic("seen.1", presence=True)
            other.topic("seen.1")
            await eventually("the last two", lambda: late == [1, 2])
            await eventually("two", lambda: seen.count == 2)
            assert seen.members == set()
            await other.close()
            await eventually("one", lambda: seen.count == 1)

    try:
        run(main())
    finally:
        node.kill()


def test_members_may_have_information() -> None:
    async def main() -> None:
        async with pushnode.connect("ws://127.0.0.1:1", user="x") as push:
            room = push.topic("room", presence=True)
            told: list[Any] = []
            room.on("presence", lambda members, joined, left: told.append((members, joined, left)))
            room._present({"members": [{"user": "ann", "info": {"name": "Ann"}}, "bob"]})
            room._present({"join": [{"user": "cid", "info": 1}], "leave": ["bob"]})
            assert room.info == {"ann": {"name": "Ann"}, "cid": 1}
            room._present({"leave": [{"user": "ann", "info": {"name": "Ann"}}]})
            assert (room.info, room.count) == ({"cid": 1}, 1)
            assert told == [
                ({"ann", "bob"}, ["ann", "bob"], []),
                ({"ann", "cid"}, ["cid"], ["bob"]),
                ({"cid"}, [], ["ann"]),
            ]

    run(main())


def test_a_forbidden_topic_closes_with_its_error(guarded: Node) -> None:
    async def main() -> None:
        claims = {"topics": ["news"]}
        async with pushnode.connect(guarded.url, token=token("x", 60, **claims)) as push:
            with pytest.raises(PushError) as refused:
                await push.topic("secret").ready()
            assert refused.value.code == "forbidden"
            await push.topic("news").ready()

    run(main())


def test_ninety_topics_come_back_after_a_cut(nodes: tuple[Node, Node]) -> None:
    async def main() -> None:
        way = await Way().start(nodes[0].port)
        async with pushnode.connect(
            f"http://127.0.0.1:{way.port}", user="many", backoff=Backoff(**QUICK)
        ) as push:
            topics = [push.topic(f"t.{i}") for i in range(90)]
            await asyncio.gather(*(topic.ready() for topic in topics))
            way.cut()
            await eventually("the cut", lambda: topics[0].state == "subscribing")
            await asyncio.gather(*(topic.ready() for topic in topics))
            assert way.most == 1
        await way.stop()

    run(main())


def test_kept_messages_survive_forced_cuts(nodes: tuple[Node, Node]) -> None:
    """No loss, no repeat, in order, in the inbox and in a topic, over 60 cuts."""

    async def main() -> None:
        way = await Way().start(nodes[0].port)
        inbox: list[int] = []
        log: list[int] = []
        gaps: list[Any] = []
        async with pushnode.connect(
            f"http://127.0.0.1:{way.port}", user="kim", backoff=Backoff(**QUICK)
        ) as push:
            push.on("message", lambda data, _: inbox.append(data))
            push.on("gap", gaps.append)
            topic = push.topic("kept.1")
            topic.on("message", lambda data, _: log.append(data))
            await topic.ready()
            for n in range(180):
                for to in ({"user": "kim"}, {"topic": "kept.1"}):
                    await asyncio.to_thread(nodes[1].push, to, n, keep=True)
                if n % 3 == 0:
                    await push.ready()
                    way.target = nodes[(n // 3) % 2].port
                    way.cut()
                    await eventually("the cut", lambda: push.state != "connected")
            await eventually("all of the inbox", lambda: len(inbox) >= 180)
            await eventually("all of the log", lambda: len(log) >= 180)
            assert inbox == list(range(180))
            assert log == list(range(180))
            assert gaps == []
            assert way.opened > 50
            assert way.most == 1
        await way.stop()

    run(main())


def test_a_token_is_renewed_before_it_ends(guarded: Node) -> None:
    async def main() -> None:
        reasons: list[str] = []

        async def provide(reason: str) -> str:
            reasons.append(reason)
            return token("ren", 4 if len(reasons) < 3 else 600)

        states: list[str] = []
        async with pushnode.connect(guarded.url, token=provide) as push:
            push.on("state", lambda state, _: states.append(state))
            await push.ready()
            await eventually("two renewals", lambda: len(reasons) == 3)
            assert reasons == ["connect", "expiring", "expiring"]
            assert states == ["connected"]

    run(main())


def test_an_expired_token_is_asked_for_anew(guarded: Node) -> None:
    async def main() -> None:
        reasons: list[str] = []

        def provide(reason: str) -> str:
            reasons.append(reason)
            return token("old", -10 if len(reasons) == 1 else 600)

        async with pushnode.connect(guarded.url, token=provide, backoff=Backoff(**QUICK)) as push:
            await push.ready()
            assert reasons == ["connect", "refused"]
            assert push.user == "old"

    run(main())


def test_what_is_final_is_final(guarded: Node) -> None:
    async def main() -> None:
        def never(_: str) -> str:
            raise Unauthorized("log in again")

        push = pushnode.connect(guarded.url, token=never)
        with pytest.raises(PushError):
            await push.ready()
        assert push.closed is not None
        assert push.closed.reason == "log in again"

        async with pushnode.connect(guarded.url, token=token("bad", -5)) as fixed:
            with pytest.raises(PushError):
                await fixed.ready()

        async with pushnode.connect(guarded.url, token=lambda _: token("ban", 60)) as banned:
            await banned.ready()
            await asyncio.to_thread(
                guarded.call, "/v1/users/ban/ban", {"seconds": 600, "reason": "spam"}, "PUT"
            )
            await eventually("the ban", lambda: banned.closed)
            assert banned.closed is not None
            assert banned.closed.code == 4006
        async with pushnode.connect(guarded.url, token=lambda _: token("ban", 60)) as refused:
            with pytest.raises(PushError):
                await refused.ready()
            assert refused.closed is not None
            assert refused.closed.code == 4403

    run(main())


def test_another_user_takes_nothing_over(guarded: Node) -> None:
    async def main() -> None:
        user = "first"
        async with pushnode.connect(
            guarded.url, token=lambda _: token(user, 60), backoff=Backoff(**QUICK)
        ) as push:
            topic = push.topic("private")
            await topic.ready()
            user = "second"
            await push.renew()
            await eventually("the other user", lambda: push.user == "second")
            assert topic.state == "closed"

    run(main())


def test_sends_wait_for_a_connection_and_get_their_reply(
    redis: Redis, nodes: tuple[Node, Node]
) -> None:
    async def main() -> None:
        database = redis_library.Redis(port=redis.port, decode_responses=True, protocol=2)
        stream = "pn:upstream:default"
        database.xgroup_create(stream, "workers", id="0", mkstream=True)

        def work() -> None:
            """One message, taken and answered as a worker does."""
            entry: dict[str, str] | None = None
            while entry is None:
                for _, entries in database.xreadgroup("workers", "w1", {stream: ">"}, 1):
                    entry = entries[0][1]
            assert json.loads(entry["data"]) == {"text": "hi"}
            to = {"fd": entry["from"], "user": entry["user"]}
            reply = {"to": to, "ref": json.loads(entry["ref"]), "data": "ok"}
            nodes[0].call("/v1/reply", reply)

        way = await Way().start(nodes[1].port)
        async with pushnode.connect(f"http://127.0.0.1:{way.port}", user="sue") as push:
            sent = asyncio.ensure_future(push.send("chat.say", {"text": "hi"}, timeout=60))
            await asyncio.to_thread(work)
            assert await sent == "ok"
        await way.stop()

    run(main())


def test_calls_are_answered(nodes: tuple[Node, Node]) -> None:
    async def main() -> None:
        async with pushnode.connect(nodes[0].url, user="cal") as push:

            async def double(data: Any) -> Any:
                return data * 2

            push.answer(double)
            await push.ready()
            call = {"to": {"user": "cal"}, "data": 21}
            answer = await asyncio.to_thread(nodes[1].call, "/v1/call", call)
            assert answer["data"] == 42

    run(main())


def test_back_off_is_bounded_and_spread() -> None:
    backoff = Backoff(min=0.5, max=20)
    for attempt in range(40):
        pause = backoff.next()
        assert 0.5 <= pause <= 0.5 + min(20, 0.5 * 2**attempt)
    assert 1.0 <= backoff.next(retry_ms=1000) <= 1.25
    backoff.lasted(4)
    assert backoff.attempt > 0
    backoff.lasted(5)
    assert backoff.attempt == 0
