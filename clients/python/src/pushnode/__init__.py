"""Client for pushnode.

::

    import asyncio, pushnode

    async def main():
        async with pushnode.connect("ws://127.0.0.1:8080", user="42") as push:
            room = push.topic("chat.17", presence=True)
            async for line in room:
                print(line)

    asyncio.run(main())

The names and rules are those of the JavaScript client.
"""

from .client import Client, connect
from .errors import PushError, Unauthorized
from .message import Message
from .topic import Topic

__all__ = ["Client", "Message", "PushError", "Topic", "Unauthorized", "connect"]
__version__ = "0.2.0"
