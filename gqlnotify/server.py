"""A WebSocket protocol class for uvicorn: `uvicorn --ws gqlnotify.server:WebSocketProtocol`.

It is uvicorn's own, and offers beside ASGI's `send` a faster way out to applications that know it:
the scope extension `gqlnotify.frames`, which takes finished frames.
"""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.http11 import Request
from websockets.protocol import State

from gqlnotify.protocol.frames import WINDOW_BITS
from gqlnotify.transports.gate import Gate, Mailbox
from gqlnotify.transports.wire import EXTENSION, FULL_BYTES
from gqlnotify.turn import Turn

_MEMORY_LEVEL = 5


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._frames: list[bytes] = []
        self._held = 0
        self._turn = Turn.of(self.loop)
        self._room = Gate(is_open=True)
        # In place of asyncio's own, which would be a fifth of what a connection weighs.
        queue: Any = Mailbox()
        writable: Any = Gate(is_open=True)
        self.queue, self.writable = queue, writable
        if self.config.ws_per_message_deflate:
            self.conn.available_extensions = [_deflate()]

    @property
    def deflates(self) -> bool:
        """Whether the peer takes compressed frames, with a window as large as ours."""
        return any(
            isinstance(extension, PerMessageDeflate)
            and extension.local_max_window_bits >= WINDOW_BITS
            for extension in self.conn.extensions
        )

    @property
    def full(self) -> bool:
        """Whether more is held for the peer than is good."""
        return not self._room.is_set()

    def write(self, frame: bytes) -> None:
        """Send a finished frame, with all others of this turn of the event loop in one write."""
        if not self._frames:
            self._turn.add(self)
        self._frames.append(frame)
        self._held += len(frame)
        if self._held >= FULL_BYTES:
            self._room.clear()

    def flush(self) -> None:
        """Write what this turn has brought so far."""
        frames, self._frames, self._held = self._frames, [], 0
        # Behind a close frame, ours or the peer's that uvicorn has answered, nothing may follow.
        if frames and self.conn.state is State.OPEN and not self.transport.is_closing():
            self.transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        if self.writable.is_set():
            self._room.set()

    def take_turn(self) -> None:
        """See `turn.Waiting`."""
        self.flush()

    async def drained(self) -> None:
        """Return when it is no longer full, or lost."""
        await self._room.wait()

    def handle_connect(self, event: Request) -> None:
        """Let the application find the extension in its scope."""
        super().handle_connect(event)
        if self.handshake_initiated and not self.close_sent:
            extensions: Any = self.scope["extensions"]
            extensions[EXTENSION] = self

    def pause_writing(self) -> None:
        """Note that the transport holds more than is good."""
        super().pause_writing()
        self._room.clear()

    def resume_writing(self) -> None:
        """Note that the transport has room again."""
        super().resume_writing()
        if self._held < FULL_BYTES:
            self._room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let nobody wait for a peer that has gone."""
        super().connection_lost(exc)
        self._room.set()


def _deflate() -> ServerPerMessageDeflateFactory:
    # Without context takeover, in which what is compressed once for all could not be mixed; and
    # no connection keeps 30 kB of zlib's for it.
    return ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        server_max_window_bits=WINDOW_BITS,
        client_max_window_bits=WINDOW_BITS,
        compress_settings={"memLevel": _MEMORY_LEVEL},
    )
