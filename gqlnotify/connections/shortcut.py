"""Calls a WebSocket endpoint without the layers of FastAPI, where none of them has anything to do.

The first handshake on a path goes through FastAPI and shows the way: the route, and what each layer
adds to the scope. Later handshakes on that path skip the layers, a tenth of what connecting costs.
Everything that this file does not know for sure makes a handshake go through FastAPI.
"""

import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import iscoroutinefunction
from typing import Any, Protocol

from fastapi import APIRouter, BackgroundTasks, FastAPI, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIWebSocketRoute
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from gqlnotify.connections.asgi_adapter import STACKS, has_no_middleware, passes_on
from gqlnotify.event_loop import OnePerLoop

_HANDLERS = "starlette.exception_handlers"
# What uvicorn and FastAPI put into the scope.
_OF_THE_SERVER = frozenset(
    {
        "type",
        "asgi",
        "http_version",
        "scheme",
        "server",
        "client",
        "root_path",
        "path",
        "raw_path",
        "query_string",
        "headers",
        "subprotocols",
        "state",
        "extensions",
    }
)
_SAME_FOR_ALL = ("app", "router", "endpoint", "route", "root_path", _HANDLERS)
# What FastAPI notes on its way to the route.
_NOTES = "fastapi"
_KNOWN = _OF_THE_SERVER.union(_SAME_FOR_ALL, (_NOTES, "path_params"), STACKS)
# Whether these match a WebSocket depends on nothing but the path.
_ROUTES = frozenset(
    {
        "starlette.routing.Route",
        "starlette.routing.WebSocketRoute",
        "starlette.routing.Mount",
        "fastapi.routing.APIRoute",
        "fastapi.routing.APIWebSocketRoute",
    }
)
# What `FastAPI.__call__` does for a WebSocket: telemetry, and what is in the scope.
_CALLS = frozenset(
    {
        "root_path",
        "lifespan",
        "fastapi.telemetry._runtime",
        "_telemetry",
        "super",
        "__call__",
        "middleware_stack",
        "build_middleware_stack",
        "_native_telemetry",
        "enabled",
        "_legacy_otel",
    }
)
_FIELDS = frozenset(
    {
        "path_params",
        "query_params",
        "header_params",
        "cookie_params",
        "body_params",
        "dependencies",
        "name",
        "call",
        "request_param_name",
        "websocket_param_name",
        "http_connection_param_name",
        "response_param_name",
        "background_tasks_param_name",
        "security_scopes_param_name",
        "own_oauth_scopes",
        "parent_oauth_scopes",
        "use_cache",
        "path",
        "scope",
        "concurrency",
    }
)
_MAX_PATHS = 100
_PARAMETERS = ("path_params", "query_params", "header_params", "cookie_params", "body_params")
_UNUSED = ("request_param_name", "security_scopes_param_name", "own_oauth_scopes")


class _Session:
    """What the dependencies of one handshake share."""

    __slots__ = ("background_tasks", "response", "websocket")

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.background_tasks = BackgroundTasks()
        self.response = Response()
        # As FastAPI does: a dependency sets what it needs.
        del self.response.headers["content-length"]
        nothing: Any = None
        self.response.status_code = nothing


@dataclass(frozen=True, slots=True)
class _Dependency:
    """A coroutine function, and where its arguments come from."""

    call: Callable[..., Awaitable[Any]]
    of_session: Sequence[tuple[str, str]]
    dependencies: "Sequence[tuple[str, _Dependency]]"

    async def solve(self, session: _Session) -> Any:
        arguments = {name: getattr(session, source) for name, source in self.of_session}
        for name, dependency in self.dependencies:
            arguments[name] = await dependency.solve(session)
        return await self.call(**arguments)


@dataclass(frozen=True, slots=True)
class Shortcut:
    """An ASGI application that calls one endpoint."""

    app: FastAPI
    endpoint: _Dependency
    added: Mapping[str, Any]
    routes: Sequence[tuple[Sequence[BaseRoute], Sequence[BaseRoute]]] = field(repr=False)

    @property
    def is_open(self) -> bool:
        """Whether nothing on the way has changed, and no layer has anything to do."""
        return _is_plain(self.app) and all(routes == before for routes, before in self.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket."""
        scope.update(self.added, path_params={})
        websocket = WebSocket(scope, receive, send)
        try:
            await self.endpoint.solve(_Session(websocket))
        except Exception as error:
            await wrap_app_handling_exceptions(_raising(error), websocket)(scope, receive, send)


class Shortcuts(OnePerLoop):
    """The shortcuts of an event loop, each for one path of one application."""

    def __init__(self) -> None:
        # None for a path that has no shortcut.
        self._by_path: dict[tuple[int, str], Shortcut | None] = {}

    def find(self, scope: Scope, served: object) -> Shortcut | None:
        """Return the shortcut for a handshake; None if it has to go through `served`."""
        found = self._by_path.get((id(served), scope["path"]))
        return found if found is not None and found.app is served and found.is_open else None

    def learn(self, scope: Scope, served: object) -> None:
        """Remember the way of a WebSocket that `served` has just passed to its endpoint.

        Nothing may wait for the end of the ASGI call: see `is_unattended`.
        """
        if scope["path_params"]:
            # Such a route has many paths, which would fill the table.
            return
        key = (id(served), scope["path"])
        if key not in self._by_path and len(self._by_path) < _MAX_PATHS:
            self._by_path[key] = _shortcut(scope)


def _shortcut(scope: Scope) -> Shortcut | None:
    app, route = scope["app"], scope.get("route")
    if not (_is_plain(app) and scope.keys() <= _KNOWN and type(route) is APIWebSocketRoute):
        return None
    if not _is_original(route.app, "fastapi.routing"):
        return None
    routes = list(_all_routes(app.router))
    endpoint = _dependency(route.dependant)
    if endpoint is None or None in routes:
        return None
    return Shortcut(
        app=app,
        endpoint=endpoint,
        added={name: scope[name] for name in _SAME_FOR_ALL if name in scope}
        # A copy, because FastAPI takes some of them back on its way out.
        | {name: dict(scope[name]) for name in (_NOTES,) if name in scope},
        routes=[(each, list(each)) for each in routes if each is not None],
    )


class _HasRoutes(Protocol):
    routes: list[BaseRoute]


def _is_plain(app: Any) -> bool:
    """Return whether `app` is a FastAPI application without anything that looks at a WebSocket."""
    return (
        type(app) is FastAPI
        and type(app.router) is APIRouter
        and has_no_middleware(app)
        and not app.dependency_overrides
        and not _is_traced(app)
        and app.router.middleware_stack == app.router.app
        and _calls() == _ORIGINAL_CALLS
        and vars(app).keys().isdisjoint(_OVERRIDABLE)
        and vars(app.router).keys().isdisjoint(_OVERRIDABLE)
        and [each for each in _layers(app) if not passes_on(each)] == _LAYERS
    )


def _is_traced(app: Any) -> bool:
    telemetry = getattr(app, "_native_telemetry", None)
    return telemetry is not None and telemetry.enabled()


def _layers(app: FastAPI) -> list[type]:
    layers: list[type] = []
    layer: Any = app.middleware_stack
    while layer is not None and layer is not app.router and len(layers) < 10:
        layers.append(type(layer))
        layer = getattr(layer, "app", None)
    return layers if layer is app.router else []


def _all_routes(router: _HasRoutes) -> Iterator[list[BaseRoute] | None]:
    """Yield the routes of `router` and of those included in it; None for what is not known."""
    yield router.routes
    for route in router.routes:
        included = getattr(route, "original_router", None)
        if type(route).__module__ == "fastapi.routing" and isinstance(included, APIRouter):
            same = all(
                getattr(type(included), name, None) is getattr(APIRouter, name, None)
                for name in _ROUTING
            )
            if not same or not vars(included).keys().isdisjoint(_OVERRIDABLE):
                yield None
            yield from _all_routes(included)
        elif not _matches_by_path(route):
            yield None


def _matches_by_path(route: BaseRoute) -> bool:
    # An application's class may handle requests in its own way, but not choose them.
    chooser = next(base for base in type(route).__mro__ if "matches" in vars(base))
    is_known = f"{chooser.__module__}.{chooser.__name__}" in _ROUTES
    return is_known and "matches" not in vars(route)


def _dependency(dependant: Dependant, seen: set[Any] | None = None) -> _Dependency | None:
    """Return what `dependant` needs; None if FastAPI has to find it out for each WebSocket."""
    seen = set() if seen is None else seen
    call = dependant.call
    known = all(each.name in _FIELDS for each in fields(dependant))
    if not known or not iscoroutinefunction(call) or call in seen:
        return None
    seen.add(call)
    if any(getattr(dependant, name) for name in (*_PARAMETERS, *_UNUSED)):
        return None
    sources = {
        dependant.websocket_param_name: "websocket",
        dependant.http_connection_param_name: "websocket",
        dependant.response_param_name: "response",
        dependant.background_tasks_param_name: "background_tasks",
    }
    dependencies = [(each.name, _dependency(each, seen)) for each in dependant.dependencies]
    needed = [(name, each) for name, each in dependencies if name is not None and each is not None]
    if len(needed) < len(dependencies):
        return None
    return _Dependency(call, [(n, source) for n, source in sources.items() if n], needed)


def _raising(error: Exception) -> ASGIApp:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    return app


def _plain_layers() -> list[type]:
    app = FastAPI()
    app.middleware_stack = app.build_middleware_stack()
    return _layers(app)


def _calls() -> list[Any]:
    """Return the functions that a WebSocket goes through. A tracer may replace one."""
    owners = (FastAPI, Starlette, Router, *_LAYERS)
    return [*(owner.__call__ for owner in owners), *(getattr(APIRouter, n, None) for n in _ROUTING)]


def _original_calls() -> list[Any] | None:
    """Return what `_calls` has to return; None if this version of FastAPI is not known."""
    owners = (FastAPI, Starlette, Router, *_LAYERS)
    original = all(_is_original(owner.__call__, owner.__module__) for owner in owners)
    known = original and frozenset(FastAPI.__call__.__code__.co_names) <= _CALLS
    return _calls() if known and _LAYERS else None


def _is_original(function: Any, module: str) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename == sys.modules[module].__file__


_ROUTING = ("matches", "handle", "app", "__call__")
_OVERRIDABLE = frozenset((*_ROUTING, "build_middleware_stack"))
_LAYERS = _plain_layers()
_ORIGINAL_CALLS = _original_calls()
