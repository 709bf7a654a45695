"""How far an event travels through the code: `python -m tests.hops`.

It counts the calls of one publish that two sockets receive, and of one subscribe: how many there
are, in how many files, and how often the next call is in another file.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import gqlnotify
from gqlnotify.server import WebSocketProtocol
from tests.applications import application
from tests.e2e.raw import Socket, open_socket
from tests.message_app import MESSAGE_TEXTS, MessageApp
from tests.servers import running

PACKAGE = str(Path(gqlnotify.__file__).parent)


class Journey:
    """The files of all calls within the library, in order."""

    def __init__(self) -> None:
        self.files: list[str] = []

    def __enter__(self) -> "Journey":
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.files.append(frame.f_code.co_filename)

    def __str__(self) -> str:
        pairs = zip(self.files, self.files[1:], strict=False)
        changes = sum(before != after for before, after in pairs)
        return f"{len(self.files)} calls, {len(set(self.files))} files, {changes} changes of file"


async def journey(work: Callable[[], Awaitable[object]]) -> Journey:
    """Return the calls that `work` makes, and what they leave to the event loop."""
    with Journey() as found:
        await work()
    return found


async def measure() -> None:
    """Print the figures."""
    message_app = MessageApp()
    app = application(message_app.router())
    async with (
        running(app, ws=WebSocketProtocol) as origin,
        open_socket(f"ws://{origin}") as one,
        open_socket(f"ws://{origin}") as two,
    ):
        for socket in (one, two):
            await socket.init()
            await subscribe(socket, "warm")
        await deliver(message_app, one, two)
        print("one publish to two sockets:", await journey(lambda: deliver(message_app, one, two)))
        print("one subscribe:", await journey(lambda: subscribe(one, "second")))


async def subscribe(socket: Socket, id_: str) -> None:
    """Subscribe, and return when an event would arrive."""
    query = {"query": MESSAGE_TEXTS}
    await socket.send({"id": id_, "type": "subscribe", "payload": query})
    await socket.send({"type": "ping"})
    assert await socket.receive() == {"type": "pong"}


async def deliver(message_app: MessageApp, *sockets: Socket) -> None:
    """Publish, and return when all have received it."""
    await message_app.say("hello")
    for socket in sockets:
        assert (await socket.receive())["type"] == "next"


if __name__ == "__main__":
    asyncio.run(measure())
