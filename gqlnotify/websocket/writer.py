"""Sends messages through ASGI, or as finished frames if the server accepts them.

Both ways send the same bytes. Writing never waits: callers check whether the writer is `full`, and
wait until it has `drained`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any, Protocol

from starlette.websockets import WebSocket
from typing_extensions import override

from gqlnotify.connections.asgi_adapter import socket_transport
from gqlnotify.connections.peer import Transport, transport_under
from gqlnotify.connections.uvicorn_frames import UvicornFrames
from gqlnotify.protocol.frames import Batch, Prefix, message_frame
from gqlnotify.settings import Settings
from gqlnotify.websocket.primitives import LightEvent

EXTENSION = "gqlnotify.frames"
# How many bytes this process holds for a slow peer before callers have to wait.
FULL_BYTES = 64 * 1024
_LOOK_SECONDS = 0.01


class Frames(Protocol):
    """What a server offers in the ASGI scope under `EXTENSION`."""

    @property
    def deflates(self) -> bool:
        """Whether the peer accepts compressed frames, with a deflate window as large as ours."""

    full: bool
    """Whether too many bytes are held for the peer."""

    transport: Any
    """The transport under the connection."""

    @property
    def held(self) -> int:
        """How many bytes wait for the peer, including the transport's buffer."""

    def limit(self, settings: Settings) -> None:
        """Limit what the peer may send, and what is read from it while it does not read."""

    def write(self, frame: bytes) -> None:
        """Send a finished frame, at once or in one write with others of this tick."""

    async def drained(self) -> None:
        """Wait until the connection is no longer full, or is lost."""

    def flush(self) -> None:
        """Write the frames that wait for the end of this tick."""

    @property
    def readable(self) -> bool:
        """Whether there is a message to receive."""

    def detach(self, scope: MutableMapping[str, Any], on_message: Callable[[], None]) -> bool:
        """Keep the connection open when the ASGI call returns. Call `on_message` for each message.

        Return False if a middleware or a dependency waits for the end of the call.
        """

    on_drain: Callable[[], None] | None
    """Called when the server is about to stop, if set."""

    on_frame: Callable[[], None] | None
    """Called when the peer has sent frames, pongs included, if set."""

    def ping(self) -> None:
        """Send a ping, which the peer's WebSocket library answers with a pong."""

    def forget_callbacks(self) -> None:
        """Stop calling the application."""

    def keep(self, task: "asyncio.Task[None]") -> None:
        """Make the server wait for `task` before it shuts down."""


class Writer(Protocol):
    """Sends messages to one peer."""

    __slots__ = ()

    closed: bool
    """Whether nothing more may be sent: a close frame is on its way, or the peer has gone."""

    @property
    def full(self) -> bool:
        """Whether too many bytes are held for the peer."""

    @property
    def held(self) -> int:
        """How many bytes wait for the peer, as far as this process can see."""

    def write(self, message: str | bytes) -> None:
        """Send one message, text or binary."""

    def push(self, prefix: Prefix, batch: Batch) -> bool:
        """Send all messages of `batch` with the id of `prefix`. Return False if there is no room.

        A closed writer drops them and returns True, so that no caller waits for room.
        """

    async def drained(self) -> None:
        """Wait until the writer is no longer full, or the connection is lost."""

    async def flushed(self) -> None:
        """Wait until everything has been passed to the server."""

    def background(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """Return what to run until it is cancelled; None if the writer needs nothing."""


def frames_of(websocket: WebSocket) -> Frames | None:
    """Return the server's `Frames` for `websocket`; None if it does not offer them."""
    extensions: Mapping[str, Any] = websocket.scope.get("extensions") or {}
    frames: Frames | None = extensions.get(EXTENSION)
    return frames


def transport_of(websocket: WebSocket, frames: Frames | None) -> Transport | None:
    """Return the transport of `websocket`; None if the server does not expose it."""
    return socket_transport(websocket) if frames is None else transport_under(frames)


class DirectWriter(Writer):
    """Passes finished frames to the server. A shared body is compressed once for all peers."""

    __slots__ = ("_compress_above", "_frames", "closed")

    def __init__(self, frames: Frames, *, compress_above: int) -> None:
        self.closed = False
        self._frames = frames
        self._compress_above = compress_above if frames.deflates else 0

    @property
    @override
    def full(self) -> bool:
        return self._frames.full

    @property
    @override
    def held(self) -> int:
        return self._frames.held

    @override
    def write(self, message: str | bytes) -> None:
        self._frames.write(message_frame(message))

    @override
    def push(self, prefix: Prefix, batch: Batch) -> bool:
        if self.closed:
            return True
        frames = self._frames
        if frames.full:
            return False
        frames.write(batch.frames(prefix, self._compress_above))
        return True

    @override
    async def drained(self) -> None:
        await self._frames.drained()

    @override
    async def flushed(self) -> None:
        self._frames.flush()

    @override
    def background(self) -> None:
        return


class AsgiWriter(Writer):
    """Sends messages one by one through ASGI, in a background task because `send` may wait.

    Small messages are written at once as complete frames if the server's class is known, and
    nothing waits before them.
    """

    __slots__ = (
        *("_ahead", "_below_at_once", "_empty", "_frames", "_held", "_more", "_outbox", "_room"),
        *("_send", "_transport", "closed"),
    )

    def __init__(
        self,
        send: Callable[[str | bytes], Awaitable[None]],
        transport: Transport | None = None,
        frames: UvicornFrames | None = None,
        *,
        compress_above: int = 0,
    ) -> None:
        self.closed = False
        self._send = send
        self._transport = transport
        self._frames = frames
        # Through ASGI, the server compresses a message.
        compresses = compress_above > 0 and frames is not None and frames.deflates
        self._below_at_once = compress_above if compresses else FULL_BYTES
        # How much was written at once since the background task last ran.
        self._ahead = 0
        self._outbox: deque[str | bytes] = deque()
        self._held = 0
        self._more = LightEvent()
        self._room = LightEvent(is_open=True)
        self._empty = LightEvent(is_open=True)

    @property
    @override
    def full(self) -> bool:
        return not self._room.is_set()

    @property
    @override
    def held(self) -> int:
        return self._held + self._below

    @override
    def write(self, message: str | bytes) -> None:
        small = len(message) < self._below_at_once
        if not (small and self._write_at_once(message_frame(message))):
            self._queue(message)

    def _write_at_once(self, frames: bytes) -> bool:
        """Write `frames` if nothing waits before them; return False if they have to wait.

        After `FULL_BYTES` the background task has to run. So a sender that never waits for anything
        else does not block the event loop.
        """
        ahead = self._ahead + len(frames)
        if self._frames is None or ahead >= FULL_BYTES or not self._empty.is_set():
            return False
        if not self._frames.write(frames):
            return False
        self._ahead = ahead
        return True

    def _queue(self, message: str | bytes) -> None:
        self._outbox.append(message)
        self._held += len(message)
        if self._held >= FULL_BYTES:
            self._room.clear()
        self._empty.clear()
        self._more.set()

    @override
    def push(self, prefix: Prefix, batch: Batch) -> bool:
        if self.closed:
            return True
        if self.full:
            return False
        if batch.largest < self._below_at_once and self._write_at_once(batch.frames(prefix)):
            return True
        start = prefix.text
        for body in batch.bodies:
            self._queue(start + body.text)
        return True

    @override
    async def drained(self) -> None:
        await self._room.wait()

    @override
    async def flushed(self) -> None:
        await self._empty.wait()

    @override
    def background(self) -> Callable[[], Coroutine[Any, Any, None]]:
        return self._run

    async def _run(self) -> None:
        while True:
            while self._outbox:
                message = self._outbox.popleft()
                await self._send(message)
                self._held -= len(message)
                if not self._outbox:
                    self._empty.set()
                await self._make_room()
            self._ahead = 0
            self._more.clear()
            await self._more.wait()

    async def _make_room(self) -> None:
        # Poll: ASGI's `send` returns before the peer has read anything, and a server does not
        # report when its buffer has drained.
        while self.full and self._below >= FULL_BYTES:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        if self._held < FULL_BYTES // 2:
            self._room.set()

    @property
    def _below(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()
