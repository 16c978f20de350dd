"""How long to wait before connecting again."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass
class Backoff:
    """Exponential back-off with full jitter; all times in seconds."""

    min: float = 0.5
    max: float = 20.0
    stable: float = 5.0
    """After a connection has lasted this long, counting starts again."""
    attempt: int = 0

    def next(self, retry_ms: float | None = None) -> float:
        """The pause before the next try. ``retry_ms`` is what the node asked for."""
        if retry_ms is not None:
            return retry_ms / 1000 * random.uniform(1.0, 1.25)
        spread = min(self.max, self.min * 2**self.attempt)
        # Beyond that, 2**attempt would only grow.
        self.attempt = min(self.attempt + 1, 32)
        return self.min + random.uniform(0, spread)

    def lasted(self, seconds: float) -> None:
        if seconds >= self.stable:
            self.attempt = 0
