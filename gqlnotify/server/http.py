"""An HTTP protocol class for uvicorn: `uvicorn --http gqlnotify.http_server:HttpProtocol`.

It is the one that uvicorn would take, httptools' or h11's, but it does not wait for ever for a
request or for a peer to read the answer, ends streams when the server does, and answers what is
under way to a server that stops.
"""

import sys
from typing import Any

from typing_extensions import override

from gqlnotify.connections.peer import ReadWatch, let_go
from gqlnotify.deadline import Deadline
from gqlnotify.drain import Drain, Drainable
from gqlnotify.observability.metrics import refused
from gqlnotify.server.uvicorn_adapter import AutoHTTPProtocol
from gqlnotify.server.websocket import drain_times
from gqlnotify.server_settings import ServerSettings

HANDSHAKE_TIMEOUT = "HANDSHAKE_TIMEOUT"
# An honest client sends a body faster than this.
_BODY_BYTES_A_SECOND = 500
# A request that was sent before its sender could know that the server stops gets an answer.
_GRACE_SECONDS = 0.5

_Base: Any = object


class Watched(_Base):  # type: ignore[misc]
    """What is added to a protocol class of uvicorn's."""

    watches_reading = True
    parser: Any
    """That of httptools; h11's class has none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: Deadline | None = None
        self._reading: ReadWatch | None = None
        self._received = 0
        self._parsed = b""
        self._unparsed = b""

    def connection_made(self, transport: Any) -> None:
        """Expect a request soon."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Expect the rest of a request soon."""
        self._parse(data)
        self._received += len(data)
        if self._has_a_request:
            self._unwatch()
            if Drain.of(self.loop).begun:
                self.cycle.keep_alive = False
        elif self._deadline is None and not self.gone:
            self._watch()

    def handle_websocket_upgrade(self, *args: Any) -> None:
        """Leave the connection to the protocol class for WebSocket, if it is a handshake."""
        if self._is_handshake():
            self._unwatch()
            super().handle_websocket_upgrade(*args)
        else:
            self._go_on_without_upgrade()

    def _should_upgrade(self) -> bool:
        # httptools stops after the head of any request that has the header.
        return self._is_handshake() or hasattr(self, "parser")

    def _is_handshake(self) -> bool:
        # RFC 6455, section 4.1: it is a GET. RFC 9110, section 7.8: HTTP/1.0 knows no upgrade.
        if self.scope["method"] != "GET" or self.scope["http_version"] == "1.0":
            return False
        return bool(super()._should_upgrade())

    def _go_on_without_upgrade(self) -> None:
        """Ignore the header (RFC 9110, section 7.8).

        httptools would take the body for the next request. So it reads the head again without the
        header, and then the body.
        """
        if self.scope["method"] == "CONNECT":
            # CONNECT requests a tunnel even without the header.
            self.send_400_response("CONNECT is not supported.")
            return
        stop = sys.exception()
        assert stop is not None
        (length,) = stop.args
        version: str = self.scope["http_version"]
        line = (self.scope["method"].encode(), self.url, b"HTTP/" + version.encode())
        headers = (b"%s: %s" % each for each in self.headers if each[0] != b"upgrade")
        head = b"\r\n".join((b" ".join(line), *headers, b"", b""))
        # The old one may be at the end of what it reads, as after `Connection: close`.
        self.parser = type(self.parser)(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._unparsed = head + self._parsed[length:]

    def _parse(self, data: bytes) -> None:
        # A loop: each of many pipelined requests may have an upgrade that is ignored.
        self._unparsed = data
        while self._unparsed:
            self._parsed, self._unparsed = self._unparsed, b""
            super().data_received(self._parsed)
        self._parsed = b""

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting for requests."""
        self._unwatch()
        self._stop_watching_reading()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Expect the peer to read what waits for it."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """Note that the peer has read what waited for it."""
        super().resume_writing()
        self._stop_watching_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that is idle, also where its peer has not read the last answer."""
        super().timeout_keep_alive_handler()
        self._watch_reading()

    def retire(self) -> None:
        """Close during the drain window, if this is a stream."""
        if self._streams:
            Drain.of(self.loop).add(self)

    def shutdown(self) -> None:
        """End after the answer that is due, or that a client may ask for at this moment."""
        drain = Drain.of(self.loop)
        self.retire()
        if not drain.begun:
            drain.begin(*drain_times(self.loop, self.config.timeout_graceful_shutdown))
        if self._is_between_requests:
            self.loop.call_later(_GRACE_SECONDS, self._end)
        elif not self._streams:
            super().shutdown()

    @property
    def handshake_timeout(self) -> float:
        """How long a request may take to come."""
        return ServerSettings.of(self.loop).handshake_timeout

    @property
    def send_timeout(self) -> float:
        """Seconds after which a peer that reads none of its pending data is dropped."""
        return ServerSettings.of(self.loop).send_timeout

    @property
    @override
    def gone(self) -> bool:
        return self not in self.connections

    def leave(self) -> None:
        """Hang up on a stream; a proper end would say that there is no more to come."""
        self.transport.close()

    @override
    def abort(self) -> None:
        let_go(self.transport)

    def _end(self) -> None:
        if not self.gone and not self.transport.is_closing():
            super().shutdown()

    @property
    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _has_a_request(self) -> bool:
        return not self._is_between_requests and not self.cycle.more_body

    @property
    def _streams(self) -> bool:
        return (
            not self._is_between_requests
            and self.cycle.response_started
            and _takes_a_stream(self.cycle.scope["headers"])
        )

    def _watch_reading(self) -> None:
        if self._reading is None and not self.gone:
            self._reading = ReadWatch(self.loop, self.transport, self.send_timeout)

    def _stop_watching_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _watch(self) -> None:
        self._received = 0
        self._deadline = Deadline(self.loop, self.handshake_timeout, self._too_late)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if not self._is_between_requests and self._body_comes():
            self._watch()
            return
        refused(HANDSHAKE_TIMEOUT)
        self.abort()

    def _body_comes(self) -> bool:
        # Where the application takes its time to read, the peer can't be blamed.
        paused: bool = self.flow.read_paused
        return paused or self._received >= _BODY_BYTES_A_SECOND * self.handshake_timeout


class HttpProtocol(Watched, AutoHTTPProtocol, Drainable):  # type: ignore[misc, valid-type]
    """One HTTP connection."""


def _takes_a_stream(headers: list[tuple[bytes, bytes]]) -> bool:
    accept = b",".join(value.lower() for name, value in headers if name == b"accept")
    return b"text/event-stream" in accept or b"subscriptionspec" in accept
