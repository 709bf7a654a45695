"""How messages leave: through ASGI, or as finished frames where the server takes those.

The bytes are the same on both ways. Writing never waits: who writes much asks whether the wire is
`full`, and waits until it has `drained`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any, Protocol

from starlette.websockets import WebSocket

from gqlnotify.connections.asgi_adapter import socket_transport
from gqlnotify.connections.peer import Transport, transport_under
from gqlnotify.protocol.frames import Batch, Prefix, text_frame
from gqlnotify.settings import Settings
from gqlnotify.websocket.primitives import LightEvent

EXTENSION = "gqlnotify.frames"
# What may wait in this process for a peer that reads slowly, before its writers wait as well.
FULL_BYTES = 64 * 1024
_LOOK_SECONDS = 0.01


class Frames(Protocol):
    """What a server offers in the ASGI scope under `EXTENSION`."""

    @property
    def deflates(self) -> bool:
        """Whether the peer takes compressed frames, with a window as large as ours."""

    full: bool
    """Whether more is held for the peer than is good."""

    transport: Any
    """The transport under the connection."""

    @property
    def held(self) -> int:
        """How many bytes wait for the peer, those in the transport's buffer with them."""

    def limit(self, settings: Settings) -> None:
        """Bound what the peer may send, and what is read of it while it does not read itself."""

    def write(self, frame: bytes) -> None:
        """Send a finished frame, with all others of this turn of the event loop in one write."""

    async def drained(self) -> None:
        """Return when it is no longer full, or lost."""

    def flush(self) -> None:
        """Write what this turn has brought so far."""

    @property
    def readable(self) -> bool:
        """Whether a message is there to be received."""

    def detach(self, scope: MutableMapping[str, Any], on_message: Callable[[], None]) -> bool:
        """Live on when the ASGI call returns, and call `on_message` for each message that comes.

        False where somebody would miss the call.
        """

    on_drain: Callable[[], None] | None
    """Called, if it is given, when the connection has to end because the server does."""

    def keep(self, task: "asyncio.Task[None]") -> None:
        """Have the server wait for `task` before it shuts down."""


class Writer(Protocol):
    """One way out."""

    closed: bool
    """Whether nothing more may be sent: a close frame is on its way, or the peer has gone."""

    @property
    def full(self) -> bool:
        """Whether more is held for the peer than is good."""

    @property
    def held(self) -> int:
        """How many bytes wait for the peer, as far as that can be known."""

    def write(self, text: str) -> None:
        """Send one message."""

    def push(self, prefix: Prefix, batch: Batch) -> bool:
        """Send all messages of `batch` under the id of `prefix`; return False if there is no room.

        A closed writer takes them and drops them: no one waits for room there.
        """

    async def drained(self) -> None:
        """Return when the wire is no longer full, or lost."""

    async def flushed(self) -> None:
        """Return when everything has been handed to the server."""

    def background(self) -> Coroutine[Any, Any, None] | None:
        """Return what has to run in the background until it is cancelled, if anything has."""


def frames_of(websocket: WebSocket) -> Frames | None:
    """Return what the server of `websocket` offers, if it does."""
    extensions: Mapping[str, Any] = websocket.scope.get("extensions") or {}
    frames: Frames | None = extensions.get(EXTENSION)
    return frames


def transport_of(websocket: WebSocket, frames: Frames | None) -> Transport | None:
    """Return the transport under `websocket`; None where the server does not let it be seen."""
    return socket_transport(websocket) if frames is None else transport_under(frames)


class DirectWriter:
    """Hands over finished frames; what they share is compressed once for all."""

    __slots__ = ("_compress_above", "_frames", "closed")

    def __init__(self, frames: Frames, *, compress_above: int) -> None:
        self.closed = False
        self._frames = frames
        self._compress_above = compress_above if frames.deflates else 0

    @property
    def full(self) -> bool:
        """See `Writer.full`."""
        return self._frames.full

    @property
    def held(self) -> int:
        """See `Writer.held`."""
        return self._frames.held

    def write(self, text: str) -> None:
        """See `Writer.write`."""
        self._frames.write(text_frame(text.encode()))

    def push(self, prefix: Prefix, batch: Batch) -> bool:
        """See `Writer.push`."""
        if self.closed:
            return True
        frames = self._frames
        if frames.full:
            return False
        frames.write(batch.frames(prefix, self._compress_above))
        return True

    async def drained(self) -> None:
        """See `Writer.drained`."""
        await self._frames.drained()

    async def flushed(self) -> None:
        """See `Writer.flushed`."""
        self._frames.flush()

    def background(self) -> None:
        """See `Writer.background`."""
        return


class AsgiWriter:
    """Sends one message after the other through ASGI, which may make it wait."""

    def __init__(
        self, send: Callable[[str], Awaitable[None]], transport: Transport | None = None
    ) -> None:
        self.closed = False
        self._send = send
        self._transport = transport
        self._outbox: deque[str] = deque()
        self._held = 0
        self._more = LightEvent()
        self._room = LightEvent(is_open=True)
        self._empty = LightEvent(is_open=True)

    @property
    def full(self) -> bool:
        """See `Writer.full`."""
        return not self._room.is_set()

    @property
    def held(self) -> int:
        """See `Writer.held`."""
        return self._held + self._below

    def write(self, text: str) -> None:
        """See `Writer.write`."""
        self._outbox.append(text)
        self._held += len(text)
        if self._held >= FULL_BYTES:
            self._room.clear()
        self._empty.clear()
        self._more.set()

    def push(self, prefix: Prefix, batch: Batch) -> bool:
        """See `Writer.push`."""
        if self.closed:
            return True
        if self.full:
            return False
        start = prefix.text
        for body in batch.bodies:
            self.write(start + body.text)
        return True

    async def drained(self) -> None:
        """See `Writer.drained`."""
        await self._room.wait()

    async def flushed(self) -> None:
        """See `Writer.flushed`."""
        await self._empty.wait()

    def background(self) -> Coroutine[Any, Any, None]:
        """See `Writer.background`."""
        return self._run()

    async def _run(self) -> None:
        while True:
            while self._outbox:
                text = self._outbox.popleft()
                await self._send(text)
                self._held -= len(text)
                if not self._outbox:
                    self._empty.set()
                await self._make_room()
            self._more.clear()
            await self._more.wait()

    async def _make_room(self) -> None:
        # ASGI's `send` returns before the peer has read anything, and a server says nothing when
        # its buffer has drained.
        while self.full and self._below >= FULL_BYTES:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        if self._held < FULL_BYTES // 2:
            self._room.set()

    @property
    def _below(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()
