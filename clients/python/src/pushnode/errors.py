"""What goes wrong, and which of it ends a client for good."""

from __future__ import annotations

# After these close codes connecting again does not help.
FINAL = frozenset({1002, 1007, 1008, 1009, 4001, 4005, 4006, 4403, 4409})
# HTTP statuses of a refused handshake that are final, and the close codes that mean the same.
FINAL_STATUS = {400: 1002, 403: 4403, 404: 1002, 409: 4409}


class PushError(Exception):
    """A request that was refused or got no answer.

    ``code`` is the node's error code (``forbidden``, ``busy``, ...), or one of this library:
    ``timeout``, ``unknown`` (sent, but the connection ended before the answer), ``queue_full``,
    ``closed``. ``retry_in`` is in seconds, where trying again makes sense.
    """

    def __init__(self, code: str, message: str = "", retry_in: float | None = None) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.retry_in = retry_in


class Unauthorized(Exception):
    """Raised by a ``token`` provider: the user may not connect any more. Closes for good."""
