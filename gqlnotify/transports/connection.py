"""One accepted WebSocket: what is sent, what is timed, and the tasks that end with it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from gqlnotify.protocol.frames import Head, Tail
from gqlnotify.transports.wire import wire_of

CLOSE_SECONDS = 5.0
CANCEL_AGAIN_SECONDS = 0.5

logger = logging.getLogger("gqlnotify.transports")


class Connection:
    """Sends until it is over, and leaves no task and no timer behind."""

    def __init__(
        self,
        websocket: WebSocket,
        encode: Callable[[object], str | bytes],
        *,
        compress_above: int,
    ) -> None:
        self.websocket = websocket
        self.over = asyncio.Event()
        self._encode = encode
        self._wire = wire_of(websocket, compress_above=compress_above)
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []

    async def receive(self) -> str | bytes | None:
        """Return the next message, text or binary; None once the peer has gone."""
        message = await self.websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        return text if text is not None else b""

    async def write(self) -> None:
        """Do the writing that is done in the background, if there is any."""
        try:
            await self._wire.run()
        except (WebSocketDisconnect, OSError, RuntimeError):
            # RuntimeError: uvicorn has already answered the peer's own close frame.
            self.over.set()

    async def send(self, message: object) -> None:
        """Send `message` as a text frame; wait while the peer is slow to read.

        Raises:
            TypeError: the message can't be spelled in JSON.
            UnicodeEncodeError: it can't be spelled in UTF-8.
        """
        encoded = self._encode(message)
        # An application's encoder may give bytes; as such they would leave in a binary frame.
        text = encoded.decode() if isinstance(encoded, bytes) else encoded
        if not text.isascii():
            text.encode()
        if not self._is_closed():
            self._wire.write(text)
        await self.drained()

    def push(self, head: Head, tails: Sequence[Tail]) -> bool:
        """Send what is shared with others; or nothing, and return False while the peer is slow."""
        if self._is_closed():
            return True
        if self._wire.full:
            return False
        self._wire.write_shared(head, tails)
        return True

    async def drained(self) -> None:
        """Wait while the peer is slow to read."""
        if self._is_closed():
            # Nobody reads this any more. Whoever sends is cancelled with the connection; were it to
            # go on at once, an endless generator would hold up the whole event loop.
            await asyncio.get_running_loop().create_future()
        if self._wire.full:
            await self._wire.drained()

    async def close(self, code: int, reason: str) -> None:
        """Close the socket, without waiting for long on a peer that does not read."""
        if self._is_closed():
            return
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._wire.flushed()
                await self.websocket.close(code, reason)
        except (TimeoutError, WebSocketDisconnect, OSError, RuntimeError):
            logger.info("The peer did not take the close frame (%d)", code)
        finally:
            self.over.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run `work` in a task that is cancelled with the connection."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def after(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` in `seconds`, unless the connection is over by then."""
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(max(seconds, 0), lambda: self.spawn(work())))

    async def clean_up(self) -> None:
        """Cancel what still runs and wait for it to end."""
        for timer in self._timers:
            timer.cancel()
        tasks = set(self._tasks)
        # More than once: what an application waits for may swallow a cancel, as `wait_for` does on
        # Python 3.11 when its result comes in the same turn.
        while tasks:
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN_SECONDS)

    def _is_closed(self) -> bool:
        connected = WebSocketState.CONNECTED
        return (
            self._closing or self.over.is_set() or self.websocket.application_state is not connected
        )
