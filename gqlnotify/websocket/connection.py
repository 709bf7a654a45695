"""One accepted WebSocket, with its writer and tasks."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from gqlnotify.connections.peer import LettingGo, let_go, taken, unread
from gqlnotify.connections.uvicorn_frames import uvicorn_frames
from gqlnotify.deadline import time_limit
from gqlnotify.observability import metrics, trace
from gqlnotify.observability.connection_log import ConnectionLog
from gqlnotify.settings import Settings
from gqlnotify.websocket.primitives import LightEvent
from gqlnotify.websocket.writer import AsgiWriter, DirectWriter, frames_of, transport_of

CLOSE_SECONDS = 5.0
CANCEL_AGAIN_SECONDS = 0.5
_NO_STATUS = 1005

logger = logging.getLogger("gqlnotify.transports")


class Connection:
    """Sends and receives messages. Its tasks end with it."""

    __slots__ = (
        *("_encode", "_frames", "_on_end", "_on_slow", "_over", "_settings", "_taken"),
        *("_tasks", "_transport", "log", "websocket", "writer"),
    )

    def __init__(
        self,
        websocket: WebSocket,
        encode: Callable[[object], str | bytes],
        settings: Settings,
        *,
        on_slow: Callable[[], None],
    ) -> None:
        """Create the connection. It calls `on_slow` if the peer reads nothing for too long."""
        self.websocket = websocket
        self.log = ConnectionLog(websocket.client)
        self._over = LightEvent()
        self._encode = encode
        self._settings = settings
        self._on_slow = on_slow
        self._frames = frames_of(websocket)
        self._transport = transport_of(websocket, self._frames)
        self.writer = (
            AsgiWriter(
                partial(_send_through_asgi, websocket),
                self._transport,
                uvicorn_frames(websocket),
                compress_above=settings.compress_above,
            )
            if self._frames is None
            else DirectWriter(self._frames, compress_above=settings.compress_above)
        )
        self._taken = 0
        self._on_end: Callable[[], Coroutine[Any, Any, None]] | None = None
        # A list: there are few, and an empty set takes four times as much.
        self._tasks: list[asyncio.Task[None]] = []

    async def receive(self) -> str | bytes | None:
        """Return the next message, text or binary; None once the peer has gone."""
        message = await self.websocket.receive()
        if message["type"] == "websocket.disconnect":
            # Without the reason, because the peer could write any text into the log.
            self.log.closed(message.get("code") or _NO_STATUS)
            return None
        text: str | None = message.get("text")
        return text if text is not None else bytes(message.get("bytes") or b"")

    def open(self) -> None:
        """Start the writer."""
        self.log.began()
        background = self.writer.background()
        if background is not None:
            self.spawn(self._write(background))

    def detach(
        self,
        on_message: Callable[[], None],
        on_end: Callable[[], Coroutine[Any, Any, None]],
    ) -> bool:
        """Let the ASGI call return before the socket ends. Return False if that is impossible.

        Then `on_message` is called when there is a message to `receive`, and `on_end` runs at the
        end of the connection.
        """
        if self._frames is None or not self._frames.detach(self.websocket.scope, on_message):
            return False
        self._on_end = on_end
        return True

    def on_drain(self, leave: Callable[[], None]) -> None:
        """Call `leave` when the server is about to stop, if the server supports that."""
        if self._frames is not None:
            self._frames.on_drain = leave

    def on_frame(self, heard: Callable[[], None]) -> Callable[[], None] | None:
        """Call `heard` for the peer's frames, pongs included, and return what sends a ping.

        Returns None if the server shows only messages.
        """
        if self._frames is None:
            return None
        self._frames.on_frame = heard
        return self._frames.ping

    def limit_frames(self) -> bool:
        """Limit the peer's frames; return False if the server shows only whole messages."""
        if self._frames is None:
            return False
        self._frames.limit(self._settings)
        return True

    def readable(self) -> bool:
        """Return whether `receive` would return at once. Only for a detached connection."""
        return self._frames is not None and self._frames.readable

    async def _write(self, background: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await background()
        except (WebSocketDisconnect, OSError, RuntimeError):
            # RuntimeError: uvicorn has already answered the peer's own close frame.
            self.end()

    async def send(self, message: object) -> None:
        """Send `message` as a text frame; wait while the peer is slow to read.

        Raises:
            TypeError: The message can't be encoded as JSON.
            UnicodeEncodeError: It can't be encoded as UTF-8.
        """
        self.send_now(message)
        await self.drained()

    def send_now(self, message: object) -> None:
        """Send `message` as a text frame, even if the peer is slow to read.

        Raises:
            TypeError: The message can't be encoded as JSON.
            UnicodeEncodeError: It can't be encoded as UTF-8.
        """
        encoded = self._encode(message)
        # An application's encoder may return bytes, which would be sent as a binary frame.
        text = encoded.decode() if isinstance(encoded, bytes) else encoded
        if not text.isascii():
            text.encode()
        self._write_message(text)

    async def send_encoded(self, message: str | bytes) -> None:
        """Send a message as it is, text or binary; wait while the peer is slow to read."""
        self._write_message(message)
        await self.drained()

    def _write_message(self, message: str | bytes) -> None:
        if not self.writer.closed:
            self.writer.write(message)
            metrics.sent_bytes.inc(len(message))

    async def drained(self) -> None:
        """Wait while the peer is slow to read."""
        if self.writer.closed:
            # Wait until the connection's end cancels the sender. If this returned at once, an
            # endless generator would block the event loop.
            await asyncio.get_running_loop().create_future()
        while not await self._has_drained(self._settings.send_timeout):
            self._on_slow()

    async def room(self) -> None:
        """Wait while more than `outgoing_max_bytes` are held, before new work for the peer."""
        while self.writer.full and self.writer.held > self._settings.outgoing_max_bytes:
            await self.drained()

    async def _has_drained(self, patience: float) -> bool:
        """Wait for room; return False once the peer has read nothing for `patience` seconds."""
        while self.writer.full:
            before = self._progress()
            try:
                async with time_limit(patience):
                    await self.writer.drained()
            except TimeoutError:
                if self._progress() <= before:
                    return False
        return True

    def reads(self) -> bool:
        """Return whether the peer read something since the last call, and has more to read."""
        before, self._taken = self._taken, self._progress()
        return self._taken > before and self._unread() > 0

    def _progress(self) -> int:
        # What the peer's kernel has acknowledged counts, so a large frame that is still being sent
        # is progress.
        return -self.writer.held if self._transport is None else taken(self._transport)

    def _unread(self) -> int:
        return self.writer.held if self._transport is None else unread(self._transport)

    async def close(self, code: int, reason: str) -> None:
        """Close the socket. If the peer does not read, drop it after a short wait."""
        if self.writer.closed:
            return
        self.writer.closed = True
        self.log.closed(code, reason)
        try:
            if not (await self._has_drained(CLOSE_SECONDS) and await self._say(code, reason)):
                logger.info("The peer did not take the close frame (%d)", code)
                if self._transport is not None:
                    let_go(self._transport)
        finally:
            self.end()

    async def _say(self, code: int, reason: str) -> bool:
        """Send the close frame; return False if that can't be done in time."""
        try:
            async with time_limit(CLOSE_SECONDS):
                await self.writer.flushed()
                await self.websocket.close(code, reason)
        except (TimeoutError, WebSocketDisconnect, OSError, RuntimeError):
            return False
        if self._frames is None and self._transport is not None:
            # The server may wait without a limit for the peer's close frame.
            LettingGo(asyncio.get_running_loop(), self._transport, CLOSE_SECONDS)
        return True

    def end(self) -> None:
        """Note that the socket has ended."""
        self.writer.closed = True
        self._over.set()
        on_end, self._on_end = self._on_end, None
        if on_end is not None and self._frames is not None:
            self._frames.keep(self._create_task(on_end()))

    @property
    def id(self) -> str:
        """The id of the connection in log lines."""
        return self.log.id

    @property
    def subject(self) -> str | None:
        """The subject of the viewer, once it is known."""
        return self.log.subject

    def belongs_to(self, subject: str) -> None:
        """Note the subject of the viewer."""
        self.log.subject = subject
        trace.note(trace.Kind.CONNECTED, subject=subject, connection=self.id)

    @property
    def held(self) -> int:
        """How many bytes wait for the peer, as far as this process can see."""
        return self.writer.held

    @property
    def is_over(self) -> bool:
        """Whether the socket has ended."""
        return self._over.is_set()

    async def ended(self) -> None:
        """Wait until the socket has ended."""
        await self._over.wait()

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run `work` in a task that is cancelled with the connection."""
        task = self._create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)
        return task

    def _create_task(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        # A copy, so that a context variable that one task sets does not change in the others.
        return asyncio.create_task(work, context=self.log.context.copy())

    async def clean_up(self) -> None:
        """Cancel the tasks, and wait for them to end."""
        self.log.ended()
        tasks = set(self._tasks)
        # Repeated, because application code may swallow a cancellation, as `wait_for` does on
        # Python 3.11 when its result arrives in the same tick.
        while tasks:
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN_SECONDS)

    def forget_callbacks(self) -> None:
        """Drop what it calls, and what the server calls. The tasks must have ended."""
        del self._on_slow
        if self._frames is not None:
            self._frames.forget_callbacks()


async def _send_through_asgi(websocket: WebSocket, message: str | bytes) -> None:
    if isinstance(message, str):
        await websocket.send_text(message)
    else:
        await websocket.send_bytes(message)
