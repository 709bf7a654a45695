"""The only file that imports undocumented parts of uvicorn and websockets.

The other files of this folder subclass these classes. This file lists which of their methods and
attributes they need, and checks at import that they exist.
"""

import logging
from copy import copy
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.importer import ImportFromStringError, import_from_string
from uvicorn.lifespan.on import LifespanOn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol
from uvicorn.supervisors import ChangeReload, multiprocess
from websockets.server import ServerProtocol

from gqlnotify.frameworks import missing, require, warn_of_fallback

__all__ = [
    "STARTUP_FAILURE",
    "AutoHTTPProtocol",
    "ChangeReload",
    "ImportFromStringError",
    "LifespanOn",
    "WebSocketBase",
    "import_from_string",
    "inside_proxy_headers",
    "multiprocess",
    "usable_http",
    "usable_websocket",
    "without_proxy_headers",
]

logger = logging.getLogger("gqlnotify.transports")

try:
    from uvicorn.protocols.websockets.websockets_sansio_impl import (
        WebSocketsSansIOProtocol as WebSocketBase,
    )
except ImportError:

    class WebSocketBase:  # type: ignore[no-redef]
        """Takes the place of the class if this version of uvicorn does not have it."""


WEBSOCKET_LACKS = missing(
    WebSocketBase,
    *("connection_lost", "data_received", "pause_writing", "resume_writing", "shutdown"),
    *("handle_cont", "handle_events", "handle_connect", "handle_parser_exception"),
    *("handle_ping", "keepalive_timeout", "send_keepalive_ping", "start_keepalive"),
    *("ping_interval", "ping_timer", "schedule_ping"),
    *("app", "on_task_complete", "run_asgi", "send", "send_receive_event_to_app"),
    *("config", "connections", "loop", "scope", "tasks", "transport"),
    *("conn", "curr_msg_data_type", "frames", "queue", "read_paused", "writable"),
    *("close_sent", "close_timeout", "close_timer", "disconnected"),
    *("handshake_complete", "handshake_initiated", "ping_timeout", "pong_timer"),
    *("request", "response"),
) + missing(
    ServerProtocol,
    *("close_sent", "data_to_send", "eof_sent", "events", "fail", "handshake_exc"),
    *("available_extensions", "debug", "extensions", "logger", "max_message_size"),
    *("parser", "parser_exc"),
    *("reject", "send_response"),
)

_AUTO_HTTP: Any = AutoHTTPProtocol
HTTP_LACKS = missing(
    _AUTO_HTTP,
    *("connection_lost", "connection_made", "data_received", "shutdown"),
    *("pause_writing", "resume_writing", "timeout_keep_alive_handler"),
    *("_should_upgrade", "handle_websocket_upgrade"),
    *("config", "connections", "cycle", "flow", "headers", "loop", "scope", "transport"),
)

# Without these, `gqlnotify serve` could not drain before uvicorn's shutdown.
require(
    "uvicorn",
    missing(uvicorn.Config, "lifespan_class", "load", "load_app", "loaded_app", "should_reload")
    + missing(uvicorn.Server, "handle_exit", "run", "server_state", "shutdown", "startup")
    + missing(uvicorn.Server, "should_exit", "started")
    + missing(LifespanOn, "config", "send")
    + missing(multiprocess.Process, "_server", "config", "exitcode", "server")
    + missing(multiprocess.Multiprocess, "processes", "run", "signal_queue"),
)


def usable_websocket(ours: Any) -> Any:
    """Return `ours`, or uvicorn's class for WebSockets if it lacks what `ours` needs."""
    if not WEBSOCKET_LACKS:
        return ours
    cost = "uvicorn's own class serves WebSockets, with one task for each connection"
    warn_of_fallback(logger, "uvicorn", WEBSOCKET_LACKS, cost)
    return AutoWebSocketsProtocol


def usable_http(ours: Any) -> Any:
    """Return `ours`, or uvicorn's class for HTTP if it lacks what `ours` needs."""
    if not HTTP_LACKS:
        return ours
    cost = "uvicorn's own class serves HTTP, without a deadline for a request to arrive"
    warn_of_fallback(logger, "uvicorn", HTTP_LACKS, cost)
    return AutoHTTPProtocol


def inside_proxy_headers(application: Any, inner: Any) -> Any:
    """Return `inner` inside of the same middleware of uvicorn's that `application` is inside of."""
    if not isinstance(application, ProxyHeadersMiddleware):
        return inner
    outer = copy(application)
    outer.app = inside_proxy_headers(application.app, inner)
    return outer


def without_proxy_headers(application: Any) -> Any:
    """Return the application inside of uvicorn's own middleware, which only changes the scope."""
    while isinstance(application, ProxyHeadersMiddleware):
        application = application.app
    return application
