"""What the kernel knows about a peer: what it has taken, what it has not, and how to drop it."""

import asyncio
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, Protocol

from gqlnotify.deadline import Deadline
from gqlnotify.errors import TooSlow
from gqlnotify.observability import trace
from gqlnotify.observability.metrics import refused

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ

# `tcpi_bytes_acked` in Linux's `struct tcp_info`: RFC 4898, tcpEStatsAppHCThruOctetsAcked.
_BYTES_ACKED = slice(120, 128)
_RESET = struct.pack("ii", 1, 0)
# How many checks a peer gets within its time limit.
_LOOKS = 4


class Transport(Protocol):
    """What this module uses of the transport under a connection."""

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait in this process."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the socket under the transport, for `"socket"`."""

    def get_protocol(self) -> Any:
        """Return the server's protocol object."""

    def abort(self) -> None:
        """Close without writing what waits in this process."""


def transport_under(protocol: Any) -> Transport | None:
    """Return the transport that `protocol` writes to, or None."""
    transport: Any = getattr(protocol, "transport", None)
    needed = ("abort", "get_extra_info", "get_protocol", "get_write_buffer_size")
    return transport if all(hasattr(transport, name) for name in needed) else None


def let_go(transport: Transport) -> None:
    """Close at once, and discard everything that the peer has not read.

    `abort` discards what waits in this process. The kernel would keep its own send queue, some
    megabytes, for minutes. With `SO_LINGER` (1, 0) it discards that too, and sends a reset.
    """
    with suppress(OSError):
        _socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def taken(transport: Transport) -> int:
    """Return a number that grows whenever the peer takes some of what was sent.

    On Linux these are the bytes that its kernel has acknowledged. Elsewhere the number grows only
    when the buffer in this process shrinks.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            info = _socket(transport).getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
            return int.from_bytes(info[_BYTES_ACKED], sys.byteorder)
    return -transport.get_write_buffer_size()


def watches_reading(transport: Transport) -> bool:
    """Return whether the server itself drops peers that do not read."""
    return bool(getattr(transport.get_protocol(), "watches_reading", False))


def unread(transport: Transport) -> int:
    """Return how many bytes wait for the peer, including the kernel's send queue."""
    return transport.get_write_buffer_size() + _send_queue(transport)


def _send_queue(transport: Transport) -> int:
    if sys.platform == "linux":
        with suppress(OSError):
            answer = ioctl(_socket(transport).fileno(), TIOCOUTQ, bytes(4))
            return int.from_bytes(answer, sys.byteorder)
    return 0


def _socket(transport: Transport) -> Any:
    found = transport.get_extra_info("socket")
    if found is None or found.fileno() < 0:
        raise OSError("The transport has no open socket")
    return found


class LettingGo:
    """Drops a peer that has read no data for `seconds`, unless cancelled."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: Transport, seconds: float
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._seconds = seconds
        self._wait()

    def cancel(self) -> None:
        """Stop, because the connection has ended."""
        self._timer.cancel()

    def _wait(self) -> None:
        self._taken = taken(self._transport)
        self._timer = self._loop.call_later(self._seconds, self._look)

    def _look(self) -> None:
        # A peer that still reads gets the time to reach the close frame.
        if unread(self._transport) and taken(self._transport) > self._taken:
            self._wait()
            return
        # A timer of asyncio keeps its callback, a method of this object, even when it has run.
        self.cancel()
        let_go(self._transport)


class ReadWatch:
    """Drops a peer that reads none of its pending data for `seconds`.

    It checks four times in `seconds`, so a peer may get up to a quarter more.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: Transport, seconds: float
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._interval = seconds / _LOOKS
        self._taken = taken(transport)
        self._idle = 0
        self._last = False
        self._wait()

    def cancel(self) -> None:
        """Stop."""
        self._deadline.cancel()

    def finish(self) -> None:
        """Check until no data waits for the peer."""
        self._last = True

    def _wait(self) -> None:
        self._deadline = Deadline(self._loop, self._interval, self._look)

    def _look(self) -> None:
        waiting, now = unread(self._transport), taken(self._transport)
        if not waiting and self._last:
            return
        self._idle = self._idle + 1 if waiting and now == self._taken else 0
        self._taken = now
        # At the first check, the data may have waited for only a moment.
        if self._idle <= _LOOKS:
            self._wait()
        else:
            refused(TooSlow.label)
            trace.note(trace.Kind.TOO_SLOW)
            let_go(self._transport)
