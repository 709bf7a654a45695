"""Writes complete frames under uvicorn's own WebSocket class, without ASGI for each message.

uvicorn's `send` builds a frame for each message, and a task has to await it. Frames skip it only
if nothing between the application and uvicorn looks at the messages. This file does not import
uvicorn, because another server may be in use.
"""

import logging
from functools import lru_cache
from types import MethodType
from typing import Any

from starlette.websockets import WebSocket

from gqlnotify.connections.asgi_adapter import is_from, socket_send
from gqlnotify.frameworks import missing, warn_of_fallback

_MODULE = "uvicorn.protocols.websockets.websockets_sansio_impl"
_CLASS = "WebSocketsSansIOProtocol"
_NEEDED = ("close_sent", "conn", "transport", "writable")
_COST = "Each message goes through ASGI, which takes twice as long"

logger = logging.getLogger("gqlnotify.transports")


class UvicornFrames:
    """Writes frames to the transport of one accepted WebSocket."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    @property
    def deflates(self) -> bool:
        """Whether uvicorn compresses the messages to this peer."""
        return bool(self._protocol.conn.extensions)

    def write(self, frames: bytes) -> bool:
        """Write complete frames. Return False if uvicorn's `send` would wait or fail now."""
        protocol = self._protocol
        transport = protocol.transport
        if protocol.close_sent or transport.is_closing() or not protocol.writable.is_set():
            return False
        transport.write(frames)
        return True


def uvicorn_frames(websocket: WebSocket) -> UvicornFrames | None:
    """Return where to write frames for `websocket`; None if it needs ASGI."""
    send = socket_send(websocket)
    if not isinstance(send, MethodType):
        return None
    protocol: Any = send.__self__
    return UvicornFrames(protocol) if _is_known(protocol.__class__, send.__func__) else None


@lru_cache(maxsize=16)
def _is_known(protocol: Any, send: Any) -> bool:
    # Another class, also a subclass, or a tracer's `send` may do something with each message.
    if (protocol.__module__, protocol.__qualname__) != (_MODULE, _CLASS):
        return False
    if not is_from(send, _MODULE):
        return False
    lacking = missing(protocol, *_NEEDED)
    if lacking:
        warn_of_fallback(logger, "uvicorn", lacking, _COST)
    return not lacking
