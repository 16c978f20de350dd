"""One Redis and two nodes for all tests; nodes with tokens of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stage import SECRET, Node, Redis


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    redis = Redis()
    yield redis
    redis.stop()


@pytest.fixture(scope="session")
def nodes(redis: Redis) -> Iterator[tuple[Node, Node]]:
    pair = (Node(redis, "a"), Node(redis, "b", PUSH_UPSTREAM_ROUTES="*=default"))
    yield pair
    for node in pair:
        node.kill()


@pytest.fixture(scope="session")
def guarded(redis: Redis) -> Iterator[Node]:
    node = Node(
        redis, "guarded", PUSH_AUTH="jwt", PUSH_JWT_SECRETS=SECRET, PUSH_JWT_LEEWAY_SECONDS="0",
        PUSH_TOPICS="*", PUSH_API_KEYS="",
    )  # fmt: skip
    yield node
    node.kill()
