"""Private parts of FastAPI and Starlette, and of the ASGI callables that they pass.

This module checks at import what can be checked without an application. If it is not sure, it
assumes that something waits for the end of the ASGI call, which is slower but always correct.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import AsyncExitStack
from types import FunctionType
from typing import Any

from fastapi import Request
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, Mount
from starlette.types import Receive
from starlette.websockets import WebSocket

from gqlnotify.connections.peer import Transport, transport_under
from gqlnotify.frameworks import missing, require, warn_of_fallback

# The scope keys of the exit stacks that FastAPI closes after the call.
STACKS = ("fastapi_inner_astack", "fastapi_function_astack", "fastapi_middleware_astack")

_MOUNTED = "app_root_path"
_WRAPPER_MODULE = "starlette._exception_handler"
_WRAPPER_VARIABLES = ("response_started", "send")
# For a WebSocket, the middleware for CORS uses only the first of these: the next layer.
_CALLS_OF_CORS = frozenset({"app", "Headers", "get", "preflight_response", "simple_response"})
_COST = "Each WebSocket keeps its ASGI call, half of its memory"

logger = logging.getLogger("gqlnotify.transports")

# Without it, the body of a request would have no size limit.
require("starlette", missing(Request, "_receive"))


def bound_receive(request: Request, receive: Receive) -> None:
    """Make `request` read its body through `receive`."""
    request._receive = receive


def asgi_transport(receive: Any) -> Transport | None:
    """Return the transport under the ASGI callable `receive`; None if it can't be found.

    ASGI has no way to drop a peer that does not read: `close` waits until the peer has read
    everything. Each of uvicorn's protocol classes passes a method of its own as `receive`.
    """
    return transport_under(getattr(receive, "__self__", None))


def socket_transport(websocket: WebSocket) -> Transport | None:
    """Return the transport under `websocket`; None if it can't be found."""
    return asgi_transport(getattr(websocket, "_receive", None))


def socket_send(websocket: WebSocket) -> Any:
    """Return the ASGI callable that `websocket` sends through, without Starlette's wrappers.

    They only notice whether an HTTP response has started. Anything else that wraps the server's
    `send` may do something with each message, and is returned as it is.
    """
    send = getattr(websocket, "_send", None)
    while isinstance(send, FunctionType) and _only_passes_on(send):
        _, inner = send.__closure__ or ()
        send = inner.cell_contents
    return send


def is_from(function: Any, module: str) -> bool:
    """Return whether `function` was written in `module`, so no tracer has replaced it."""
    code = getattr(function, "__code__", None)
    file = getattr(sys.modules.get(module), "__file__", None)
    return code is not None and code.co_filename == file


def has_no_middleware(application: Any) -> bool:
    """Return whether an application has no middleware that does anything with a WebSocket."""
    added = getattr(application, "user_middleware", None)
    return added is not None and all(passes_on(each.cls) for each in added)


def passes_on(middleware: object) -> bool:
    """Return whether this class of middleware only calls the next layer for a WebSocket."""
    if middleware is not CORSMiddleware:
        return False
    call: Any = CORSMiddleware.__call__
    return is_from(call, CORSMiddleware.__module__) and _CALLS_OF_CORS.issuperset(
        call.__code__.co_names
    )


def is_unattended(scope: Mapping[str, Any], served: Any) -> bool:
    """Return whether nothing between the server and the route waits for the end of the ASGI call.

    Args:
        scope: of a WebSocket, as the route sees it.
        served: the application that the server calls.
    """
    application = scope.get("app")
    return (
        served is application
        and has_no_middleware(application)
        # A `Mount` may have its own middleware.
        and _MOUNTED not in scope
        and _mounts_are_seen()
        and _cleans_up_nothing(scope)
    )


def forget_stacks(scope: MutableMapping[str, Any]) -> None:
    """Drop FastAPI's exit stacks, which are empty."""
    for name in STACKS:
        scope.pop(name, None)


def _only_passes_on(send: FunctionType) -> bool:
    calls_nothing_else = not send.__code__.co_names
    return (
        is_from(send, _WRAPPER_MODULE)
        and calls_nothing_else
        and send.__code__.co_freevars == _WRAPPER_VARIABLES
    )


def _cleans_up_nothing(scope: Mapping[str, Any]) -> bool:
    absent = tuple(f"scope[{name!r}]" for name in STACKS if name not in scope)
    if absent:
        warn_of_fallback(logger, "fastapi", absent, _COST)
        return False
    # Other versions may have more stacks.
    return not any(_holds(each) for each in scope.values() if isinstance(each, AsyncExitStack))


def _holds(stack: AsyncExitStack) -> bool:
    return bool(getattr(stack, "_exit_callbacks", True))


def _mounts_are_seen() -> bool:
    if not _MOUNT_LACKS:
        return True
    warn_of_fallback(logger, "starlette", _MOUNT_LACKS, _COST)
    return False


def _mount_lacks() -> tuple[str, ...]:
    """Return the scope key by which a `Mount` is recognised, if this version does not set it."""
    match, child = Mount("/a", app=_nothing).matches(
        {"type": "websocket", "path": "/a/b", "root_path": ""}
    )
    seen = match is Match.FULL and _MOUNTED in child
    return () if seen else (f"scope[{_MOUNTED!r}]",)


async def _nothing(*_: Any) -> None:
    pass


_MOUNT_LACKS = _mount_lacks()
