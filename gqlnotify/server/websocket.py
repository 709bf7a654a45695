"""A WebSocket protocol class for uvicorn: `uvicorn --ws gqlnotify.server:WebSocketProtocol`.

It subclasses uvicorn's class. In the ASGI scope it offers the extension `gqlnotify.frames`, which
takes complete frames and is faster than ASGI's `send`.
"""

import asyncio
import logging
from collections.abc import Callable, MutableMapping, Sequence
from functools import lru_cache, partial
from http import HTTPStatus
from math import inf
from typing import Any

from typing_extensions import override
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame
from websockets.http11 import Request

from gqlnotify.connections.asgi_adapter import forget_stacks, is_unattended
from gqlnotify.connections.peer import LettingGo, let_go, taken, unread
from gqlnotify.connections.shortcut import Shortcuts
from gqlnotify.deadline import Deadline
from gqlnotify.drain import Drain, Drainable
from gqlnotify.errors import Draining, TooManyMessages
from gqlnotify.event_loop import TickBatcher
from gqlnotify.observability.metrics import refused
from gqlnotify.protocol.frames import WINDOW_BITS
from gqlnotify.rate import Rate
from gqlnotify.server.garbage import garbage
from gqlnotify.server.uvicorn_adapter import (
    WebSocketBase,
    inside_proxy_headers,
    without_proxy_headers,
)
from gqlnotify.server_settings import ServerSettings
from gqlnotify.settings import Settings
from gqlnotify.timers import Timers
from gqlnotify.websocket.primitives import LightEvent, LightQueue
from gqlnotify.websocket.writer import EXTENSION, FULL_BYTES

MARGIN_SECONDS = 5.0
"""Seconds after the drain window in which a process ends, even if its peers do not read."""
RETRY_AFTER = "1"
_CLOSE_SECONDS = 2.0
# Many clients send the same values of these. Others may be secrets, which must not be remembered.
_COMMON_HEADERS = frozenset(
    {
        *(b"accept-encoding", b"accept-language", b"cache-control", b"connection", b"host"),
        *(b"origin", b"pragma", b"sec-websocket-extensions", b"sec-websocket-version"),
        *(b"upgrade", b"user-agent"),
    }
)
_COMMON_BYTES = 256
_SLICE_BYTES = 4096
_MEMORY_LEVEL = 5
# Longer than the 4 bytes of uvicorn's pings, so that it ignores the pong.
_PING = b"gqlnotify"
# No context takeover (RFC 7692, section 7.1.1): a body that is compressed once for all members must
# not depend on a connection's earlier messages. It also saves 30 kB for each connection.
_EXTENSIONS = (
    ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        server_max_window_bits=WINDOW_BITS,
        client_max_window_bits=WINDOW_BITS,
        compress_settings={"memLevel": _MEMORY_LEVEL},
    ),
)


_protocol_logger = logging.getLogger("uvicorn.error.websockets")
_protocol_logger.setLevel(logging.WARNING)


class WebSocketProtocol(WebSocketBase, Drainable):
    """One WebSocket connection."""

    # These slots include attributes of uvicorn's class. With at most 30 attributes left in its
    # `__dict__`, an instance needs a third of the memory, and the attributes that each delivery
    # uses are close together.
    __slots__ = (
        *("_bound", "_collects", "_frames", "_held", "_rate", "_room", "_slice", "_ticks"),
        *("_has_shortcut", "_is_refused", "full", "on_drain", "on_frame"),
        *("transport", "close_sent", "conn", "queue", "writable"),
        *("handshake_complete", "scope", "request", "response", "frames"),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._frames: list[bytes] = []
        self._collects = False
        self._slice = 0
        self._held = 0
        self._ticks = TickBatcher.of(self.loop)
        self._room = LightEvent(is_open=True)
        self.full = False
        self._has_shortcut = self._is_refused = False
        self._rate: Rate | None = None
        self._bound = inf
        self.on_drain: Callable[[], None] | None = None
        self.on_frame: Callable[[], None] | None = None
        # asyncio's classes would take a fifth of a connection's memory.
        queue: Any = LightQueue()
        writable: Any = LightEvent(is_open=True)
        self.queue, self.writable = queue, writable
        # At the level "debug", websockets logs the content of frames, which includes tokens. At
        # "info" it says without an address what uvicorn says with it.
        self.conn.debug = False
        self.conn.logger = _protocol_logger
        if self.config.ws_per_message_deflate:
            self.conn.available_extensions = _EXTENSIONS

    def limit(self, settings: Settings) -> None:
        """Limit what the peer may send, and what is read from it while it does not read."""
        self._rate = Rate(settings.message_rate, settings.message_burst)
        self._bound = settings.outgoing_max_bytes
        self.conn.max_message_size = settings.message_max_bytes

    @property
    def deflates(self) -> bool:
        """Whether the peer accepts compressed frames, with a window as large as ours."""
        return any(
            isinstance(extension, PerMessageDeflate)
            and extension.local_max_window_bits >= WINDOW_BITS
            for extension in self.conn.extensions
        )

    @property
    def held(self) -> int:
        """How many bytes wait for the peer, including the transport's buffer."""
        return self._held + self.transport.get_write_buffer_size()

    def write(self, frame: bytes) -> None:
        """Send a complete frame.

        A connection that gets one frame at a time writes it at once, which costs least. After a
        second frame in the same slice, it collects the frames of each slice for one write, until
        there is only one again.
        """
        if self._collects or self._slice == self._ticks.slice:
            self._collect(frame)
            return
        self._slice = self._ticks.slice
        self._write(frame)

    def _collect(self, frame: bytes) -> None:
        if not self._frames:
            self._collects = True
            self._ticks.add(self)
        self._frames.append(frame)
        self._held += len(frame)
        if self._held >= FULL_BYTES:
            self._fill()

    def on_tick(self) -> None:
        """Write the collected frames."""
        self._collects = len(self._frames) > 1
        self.flush()

    def flush(self) -> None:
        """Write the collected frames now."""
        frames, self._frames, self._held = self._frames, [], 0
        if frames:
            self._write(b"".join(frames))
        if self.full:
            self._drain()

    def _write(self, data: bytes) -> None:
        # "The application MUST NOT send any more data frames after sending a Close frame" (RFC
        # 6455, section 5.5.1). The close frame may be ours, or uvicorn's answer to the peer's.
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(data)

    def ping(self) -> None:
        """Send a ping that uvicorn's own pings do not know of."""
        if not self.close_sent and not self.transport.is_closing():
            self.conn.send_ping(_PING)
            self._write(b"".join(self.conn.data_to_send()))

    async def drained(self) -> None:
        """Wait until the connection is no longer full, or is lost."""
        await self._room.wait()

    @property
    def readable(self) -> bool:
        """Whether there is a message to receive."""
        return not self.queue.empty()

    def detach(self, scope: MutableMapping[str, Any], on_message: Callable[[], None]) -> bool:
        """Stay open when the ASGI call returns, and call `on_message` for each message.

        The stack frames of a waiting call are half of a connection's memory. If something waits for
        the end of the call (a middleware, or a dependency that cleans up), this does nothing and
        returns False.
        """
        if not self._has_shortcut:
            served = without_proxy_headers(self.config.loaded_app)
            if not is_unattended(scope, served):
                return False
            Shortcuts.of(self.loop).learn(scope, served)
            forget_stacks(scope)
        no_timer: Any = _NO_TIMER
        self.close_timer = no_timer
        mailbox: Any = self.queue
        mailbox.on_put = on_message
        if self.readable:
            on_message()
        return True

    def forget_callbacks(self) -> None:
        """Stop calling the application."""
        mailbox: Any = self.queue
        mailbox.on_put = self.on_drain = self.on_frame = None

    @override
    def abort(self) -> None:
        """Drop the connection at once, even if the peer has not read everything."""
        let_go(self.transport)

    @override
    def schedule_ping(self) -> None:
        """Set the timer of the next ping."""
        assert self.ping_interval is not None
        timer: Any = Timers.of(self.loop).after(self.ping_interval, self.send_keepalive_ping)
        self.ping_timer = timer

    @override
    def send_keepalive_ping(self) -> None:
        """Ping the peer. Time in which this process is blocked does not count against it."""
        super().send_keepalive_ping()
        if self.pong_timer is not None:
            self._wait_for_a_pong()

    def _wait_for_a_pong(self) -> None:
        assert self.pong_timer is not None
        assert self.ping_timeout is not None
        self.pong_timer.cancel()
        deadline: Any = Deadline(
            self.loop, self.ping_timeout, partial(self._judge, taken(self.transport))
        )
        self.pong_timer = deadline

    def _judge(self, taken_before: int) -> None:
        if unread(self.transport) and taken(self.transport) > taken_before:
            # The peer is reading, but has not reached the ping yet.
            self._wait_for_a_pong()
        else:
            self.keepalive_timeout()

    @override
    def keepalive_timeout(self) -> None:
        """Drop a dead peer. uvicorn would wait until the peer has read everything."""
        super().keepalive_timeout()
        self.abort()

    @override
    async def send(self, message: Any) -> None:
        """Send an ASGI message. Drop a peer that does not answer a close frame in time."""
        if self._is_refused:
            # The application does not know that yet: its next message tells it.
            return
        await super().send(message)
        if message["type"] != "websocket.send":
            self._end_in_time()

    @override
    def on_task_complete(self, task: "asyncio.Task[None]") -> None:
        """Note that the ASGI call has returned."""
        super().on_task_complete(task)
        # Nothing needs the scope any more, and its extension is this object: a cycle.
        nothing: Any = None
        self.scope = nothing
        self._end_in_time()

    def _end_in_time(self) -> None:
        # A closing transport waits without a limit until the peer has read everything.
        ends = self.close_sent or self.transport.is_closing()
        timer: Any = self.close_timer
        if not ends or self.disconnected or isinstance(timer, LettingGo):
            return
        if timer is not None:
            timer.cancel()
        timer = LettingGo(self.loop, self.transport, self.close_timeout)
        self.close_timer = timer

    def keep(self, task: "asyncio.Task[None]") -> None:
        """Make the server wait for `task` before it shuts down."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    @override
    def start_keepalive(self) -> None:
        """Start the pings, and free the memory of the handshake, which is over."""
        super().start_keepalive()
        # The parser, a generator, refers to the request as long as the connection lasts.
        self.request.headers = _NO_HEADERS
        nothing: Any = None
        self.request = self.response = nothing

    @override
    def data_received(self, data: bytes) -> None:
        """Take data from the peer. A malformed handshake gets a response at once."""
        garbage.count_message()
        # In slices, so that the rate limit is checked often: a segment can contain 40 000 frames.
        for start in range(0, len(data), _SLICE_BYTES):
            if self.conn.eof_sent or self.transport.is_closing():
                # The connection has failed or is closing, so the rest of the data is ignored.
                break
            super().data_received(data[start : start + _SLICE_BYTES])
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()
        self._end_in_time()
        self._pause_if_held()

    def _pause_if_held(self) -> None:
        # A peer may send pings without reading the pongs, which would fill our memory.
        if self.held <= self._bound or self.read_paused:
            return
        if not self.close_sent and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    @override
    def handle_events(self) -> None:
        """Process the received frames, unless there are too many."""
        events = self.conn.events
        if self.handshake_initiated and not self.handshake_complete and events:
            # "The client MUST wait for a response" (RFC 6455, section 4.1).
            self.abort()
        elif self._allows(len(events)):
            super().handle_events()
            self._forget(events)
            if self.on_frame is not None:
                self.on_frame()
        else:
            flood = TooManyMessages("Too many messages")
            refused(flood.label)
            self.conn.fail(flood.close_code, flood.reason)
            self.handle_parser_exception()

    @staticmethod
    def _forget(events: Sequence[object]) -> None:
        # The parser refers to the last frame until the next one comes.
        for event in events:
            if isinstance(event, Frame):
                event.data = b""

    def _allows(self, frames: int) -> bool:
        if self._rate is None:
            return True
        now = self.loop.time()
        return all(self._rate.allows(now) for _ in range(frames))

    @override
    async def run_asgi(self) -> None:
        """Call the application, or its endpoint if no layer in between has anything to do."""
        application = self.config.loaded_app
        served = without_proxy_headers(application)
        scope: Any = self.scope
        shortcut = Shortcuts.of(self.loop).find(scope, served)
        if shortcut is not None:
            self.app = inside_proxy_headers(application, shortcut)
            self._has_shortcut = True
        await super().run_asgi()
        self.app = application

    @override
    def handle_ping(self) -> None:
        """Send the pong, unless the connection has failed: nothing may follow a close frame."""
        if not self.conn.eof_sent:
            super().handle_ping()

    @override
    def handle_cont(self, event: Frame) -> None:
        """Join the fragments of a message as they arrive, so that empty ones take no memory."""
        so_far: Any = self.frames[0]
        if not isinstance(so_far, bytearray):
            so_far = bytearray(so_far)
        so_far += event.data
        self.frames = [bytes(so_far)] if event.fin else [so_far]
        if event.fin:
            self.send_receive_event_to_app()

    @override
    def handle_parser_exception(self) -> None:
        """Send the close frame, and wait for the peer to close the TCP connection.

        uvicorn closes the transport at once. If the peer is still sending, the kernel then answers
        with a reset, and the peer may never see the close frame.
        """
        close = self.conn.close_sent
        assert close is not None
        disconnect: Any = {
            "type": "websocket.disconnect",
            "code": close.code,
            "reason": close.reason,
        }
        self.queue.put_nowait(disconnect)
        self.on_tick()
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    @override
    def send_receive_event_to_app(self) -> None:
        """Pass a message on, or close with 1007 if a text is not UTF-8 (RFC 6455, section 8.1).

        uvicorn's class would raise, and log a traceback.
        """
        if self.curr_msg_data_type == "bytes" or _is_utf8(b"".join(self.frames)):
            super().send_receive_event_to_app()
            return
        self.frames = []
        if self.close_sent:
            return
        self.conn.fail(1007)
        self.handle_parser_exception()

    @override
    def handle_connect(self, event: Request) -> None:
        """Add the extension to the scope of the application. Refuse while the server drains."""
        if Drain.of(self.loop).begun:
            self._refuse()
            return
        super().handle_connect(event)
        if self.handshake_initiated and not self.close_sent:
            scope: Any = self.scope
            scope["extensions"][EXTENSION] = self
            scope["headers"] = [_shared(*header) for header in scope["headers"]]

    @override
    def shutdown(self) -> None:
        """Close during the drain window, spread evenly with the other drainables."""
        drain = Drain.of(self.loop)
        drain.add(self)
        if not drain.begun:
            drain.begin(*drain_times(self.loop, self.config.timeout_graceful_shutdown))

    @property
    @override
    def gone(self) -> bool:
        return self not in self.connections

    @override
    def leave(self) -> None:
        """Close with 1012. If `on_drain` is set, the application does so after its operations."""
        self.close_timeout = _CLOSE_SECONDS
        if self.on_drain is not None and self.handshake_complete and not self.close_sent:
            self.on_drain()
        elif self.handshake_complete:
            self.on_tick()
            super().shutdown()
        else:
            self._refuse()
        self._end_in_time()

    def _refuse(self) -> None:
        refused(Draining.label)
        response = self.conn.reject(HTTPStatus.SERVICE_UNAVAILABLE, "The server is about to stop\n")
        response.headers["Retry-After"] = RETRY_AFTER
        self.conn.send_response(response)
        self.transport.write(b"".join(self.conn.data_to_send()))
        # The application, or its end, must not answer once more.
        self._is_refused = self.handshake_complete = self.close_sent = True
        self.transport.close()

    @override
    def pause_writing(self) -> None:
        """Note that the transport's write buffer is above its high-water mark."""
        super().pause_writing()
        self._fill()

    @override
    def resume_writing(self) -> None:
        """Note that the transport's write buffer has room again."""
        super().resume_writing()
        self._drain()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Wake the tasks that wait for the peer to read, and free the parser."""
        super().connection_lost(exc)
        self._drain()
        self._free_parser()

    def _free_parser(self) -> None:
        # It is a generator that refers to `conn`, as do the tracebacks of its errors.
        self.conn.parser.close()
        _drop_tracebacks(self.conn.parser_exc)
        _drop_tracebacks(self.conn.handshake_exc)

    def _fill(self) -> None:
        self.full = True
        self._room.clear()

    def _drain(self) -> None:
        if self.writable.is_set() and self._held < FULL_BYTES:
            self.full = False
            self._room.set()
            if self.read_paused and self.queue.empty() and not self.disconnected:
                self.read_paused = False
                self.transport.resume_reading()


def drain_times(loop: asyncio.AbstractEventLoop, graceful: float | None) -> tuple[float, float]:
    """Return the window and the margin of a drain, in seconds.

    Args:
        loop: The event loop of the server.
        graceful: Uvicorn's limit for the whole shutdown (`timeout_graceful_shutdown`), or None.
            uvicorn does not wait longer, so the drain has to fit into it.
    """
    window = ServerSettings.of(loop).drain_window
    if graceful is None:
        return window, MARGIN_SECONDS
    return min(window, max(graceful - MARGIN_SECONDS, 0)), min(graceful, MARGIN_SECONDS)


class _NoTimer:
    """Keeps uvicorn from closing the connection when the ASGI call returns.

    uvicorn does not close it if a timer for closing is already set.
    """

    def cancel(self) -> None:
        """Do nothing: there is no timer."""


def _shared(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return a header. All connections share equal ones that are common."""
    is_common = name in _COMMON_HEADERS and len(value) <= _COMMON_BYTES
    return _remembered(name, value) if is_common else (name, value)


@lru_cache(maxsize=1024)
def _remembered(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return name, value


_NO_TIMER = _NoTimer()
_NO_HEADERS = Headers()


def _drop_tracebacks(error: BaseException | None) -> None:
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
