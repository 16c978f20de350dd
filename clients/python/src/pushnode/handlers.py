"""Handlers of events: one that raises hurts no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """What has become of the handlers of one event."""

    well: bool = True
    """Whether all that have returned did so without raising."""
    tasks: list[asyncio.Task[bool]] = field(default_factory=list)
    """Coroutines that still run; each answers whether it ended well."""

    def add(self, other: Outcome) -> None:
        self.well &= other.well
        self.tasks += other.tasks

    async def finish(self) -> bool:
        return all([await task for task in self.tasks]) and self.well


class Handlers:
    """Calls functions, or starts coroutine functions, by the name of an event."""

    def __init__(self, report: Callable[[Exception], None]) -> None:
        self._report = report
        self._by_event: dict[str, list[Callable[..., Any]]] = {}
        # The loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[Any]] = set()

    def on(self, event: str, handler: Callable[..., Any]) -> Callable[[], None]:
        self._by_event.setdefault(event, []).append(handler)

        def off() -> None:
            handlers = self._by_event.get(event, [])
            if handler in handlers:
                handlers.remove(handler)

        return off

    def has(self, event: str) -> bool:
        return bool(self._by_event.get(event))

    def emit(self, event: str, *arguments: Any) -> Outcome:
        """Calls all of them, whatever one of them raises."""
        outcome = Outcome()
        for handler in list(self._by_event.get(event, [])):
            try:
                result = handler(*arguments)
            except Exception as error:  # noqa: BLE001 - whatever a handler raises
                outcome.well = False
                self._report(error)
                continue
            if asyncio.iscoroutine(result):
                task = asyncio.ensure_future(self._guard(result))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                outcome.tasks.append(task)
        return outcome

    async def _guard(self, coroutine: Coroutine[Any, Any, Any]) -> bool:
        try:
            await coroutine
        except Exception as error:  # noqa: BLE001
            self._report(error)
            return False
        return True
