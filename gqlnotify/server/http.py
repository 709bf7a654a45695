"""An HTTP protocol class for uvicorn: `uvicorn --http gqlnotify.http_server:HttpProtocol`.

It subclasses the class that uvicorn would use, that of httptools or of h11. It limits how long a
request may take to arrive and how long a peer may read nothing. When the server stops, it closes
streams, and still answers requests that are on their way.
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
# Every real client sends a body faster than this.
_BODY_BYTES_A_SECOND = 500
# How long an idle connection stays open when the server stops. A client may have sent a request
# before it could know, and gets an answer.
_GRACE_SECONDS = 0.5

_Base: Any = object


class Watched(_Base):  # type: ignore[misc]
    """Adds deadlines and the drain to an HTTP protocol class of uvicorn."""

    watches_reading = True
    parser: Any
    """The parser of httptools. The class for h11 has none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: Deadline | None = None
        self._reading: ReadWatch | None = None
        self._received = 0
        self._parsed = b""
        self._unparsed = b""

    def connection_made(self, transport: Any) -> None:
        """Start the deadline for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take data, and start the deadline for the rest of an incomplete request."""
        self._parse(data)
        self._received += len(data)
        if self._has_a_request:
            self._unwatch()
            if Drain.of(self.loop).begun:
                self.cycle.keep_alive = False
        elif self._deadline is None and not self.gone:
            self._watch()

    def handle_websocket_upgrade(self, *args: Any) -> None:
        """Pass the connection to the WebSocket protocol class if this is a handshake."""
        if self._is_handshake():
            self._unwatch()
            super().handle_websocket_upgrade(*args)
            # It refers to this object, which only the garbage collector could free then.
            self.parser = None
        else:
            self._go_on_without_upgrade()

    def _should_upgrade(self) -> bool:
        # httptools stops after the head of every request with an `Upgrade` header, so all of them
        # must go through `handle_websocket_upgrade`.
        return self._is_handshake() or hasattr(self, "parser")

    def _is_handshake(self) -> bool:
        # RFC 6455, section 4.1: "The method of the request MUST be GET". RFC 9110, section 7.8: "A
        # server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request".
        if self.scope["method"] != "GET" or self.scope["http_version"] == "1.0":
            return False
        return bool(super()._should_upgrade())

    def _go_on_without_upgrade(self) -> None:
        """Ignore the header (RFC 9110, section 7.8).

        After such a head, httptools would parse the body as the next request. So a new parser gets
        the head without the header, and then the body.
        """
        if self.scope["method"] == "CONNECT":
            # CONNECT asks for a tunnel: httptools stops after its head even without the header.
            self.send_400_response("CONNECT is not supported.")
            return
        stop = sys.exception()
        assert stop is not None
        (length,) = stop.args
        version: str = self.scope["http_version"]
        line = (self.scope["method"].encode(), self.url, b"HTTP/" + version.encode())
        headers = (b"%s: %s" % each for each in self.headers if each[0] != b"upgrade")
        head = b"\r\n".join((b" ".join(line), *headers, b"", b""))
        # A new parser: the old one may accept no more data, for example after `Connection: close`.
        self.parser = type(self.parser)(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._unparsed = head + self._parsed[length:]

    def _parse(self, data: bytes) -> None:
        # A loop, not a recursion: there may be many pipelined requests with an ignored upgrade.
        self._unparsed = data
        while self._unparsed:
            self._parsed, self._unparsed = self._unparsed, b""
            super().data_received(self._parsed)
        self._parsed = b""

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        self._unwatch()
        self._stop_watching_reading()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start to watch whether the peer reads: the transport's buffer is full."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """Stop watching whether the peer reads: the transport's buffer has room again."""
        super().resume_writing()
        self._stop_watching_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if its peer does not read the last response."""
        super().timeout_keep_alive_handler()
        self._watch_reading()

    def retire(self) -> None:
        """Close during the drain window, if this is a stream."""
        if self._streams:
            Drain.of(self.loop).add(self)

    def shutdown(self) -> None:
        """Close after the current response. An idle connection waits briefly for a request."""
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
        """Seconds that a request may take to arrive."""
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
        """Cut a stream off. After a proper end, clients would not reconnect."""
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
        # If reading is paused, the application is slow, not the peer.
        paused: bool = self.flow.read_paused
        return paused or self._received >= _BODY_BYTES_A_SECOND * self.handshake_timeout


class HttpProtocol(Watched, AutoHTTPProtocol, Drainable):  # type: ignore[misc, valid-type]
    """One HTTP connection."""


def _takes_a_stream(headers: list[tuple[bytes, bytes]]) -> bool:
    accept = b",".join(value.lower() for name, value in headers if name == b"accept")
    return b"text/event-stream" in accept or b"subscriptionspec" in accept
