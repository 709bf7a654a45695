"""A handshake skips FastAPI's layers only if none of them has anything to do."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import strawberry
from fastapi import APIRouter, Depends, FastAPI, Header, WebSocketException
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Host, Match, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from gqlnotify import GraphQLRouter, Settings, add_cors
from gqlnotify.connections import shortcut
from gqlnotify.connections.shortcut import Shortcuts
from gqlnotify.server.websocket import WebSocketProtocol
from schema.app import create_app
from schema.settings import TaskSettings
from tests.e2e.raw import open_socket
from tests.schema.client import SECRET, token
from tests.servers import running

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        any(each.name not in shortcut._FIELDS for each in fields(Dependant)),
        reason="with this version of FastAPI, no handshake skips the layers",
    ),
]


@strawberry.type
class Query:
    ok: bool = True


class Watching(GraphQLRouter[Any, Any]):
    """Notes the scope of each connection."""

    def __init__(self, **options: Any) -> None:
        super().__init__(strawberry.Schema(Query), **{"path": "/graphql", **options})
        self.scopes: list[Any] = []

    async def on_ws_connect(self, context: Any) -> Any:
        connection = context["request"]
        self.scopes.append({**connection.scope, "path_params": dict(connection.path_params)})
        return await super().on_ws_connect(context)


def application(*routers: APIRouter, **options: Any) -> FastAPI:
    app = FastAPI(**options)
    for router in routers:
        app.include_router(router)
    return app


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    async with running(app, ws=WebSocketProtocol) as origin:
        yield f"ws://{origin}"


async def visit(origin: str, path: str = "/graphql", **options: Any) -> None:
    async with open_socket(origin, path=path, **options) as socket:
        await socket.init()


def is_short(app: FastAPI, scope: Scope) -> bool:
    """Return whether a handshake with this scope would skip the layers of `app`."""
    return Shortcuts.of(asyncio.get_running_loop()).find(scope, app) is not None


async def is_short_after_a_visit(app: FastAPI, router: Watching, path: str = "/graphql") -> bool:
    async with served(app) as origin:
        await visit(origin, path)
        await visit(origin, path)
    assert len(router.scopes) == 2
    return is_short(app, router.scopes[0])


async def test_the_second_handshake_finds_the_same_scope_without_the_layers() -> None:
    router = Watching()
    app = application(router)
    app.root_path = "/api"
    assert await is_short_after_a_visit(app, router)

    long, short = router.scopes
    for name in ("app", "router", "route", "endpoint", "path_params", "root_path", "fastapi"):
        assert short.get(name) == long.get(name)
    assert short["path"] == long["path"] == "/graphql"
    assert short["headers"] is not long["headers"]


async def test_each_connection_has_a_context_of_its_own() -> None:
    made: list[Any] = []

    async def context(websocket: WebSocket) -> Any:
        made.append({"of": websocket})
        return made[-1]

    router = Watching(context_getter=context)
    assert await is_short_after_a_visit(application(router), router)
    assert made[0]["of"] is not made[1]["of"]


async def by_header(x_tenant: str = Header("")) -> Any:
    return {"tenant": x_tenant}


def in_a_thread() -> Any:
    return {}


async def opened() -> AsyncIterator[Any]:
    yield {}


class Passing:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class OwnFastAPI(FastAPI):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)


class OwnRouter(APIRouter):
    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().app(scope, receive, send)


class OwnRoute(Route):
    """Might match by the headers."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope)


class CheckedRoute(APIRoute):
    """Does something before each request, as FastAPI's documentation shows."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return super().get_route_handler()


class Running(Watching):
    async def run(self, request: Any, context: Any = None, root_value: Any = None) -> Any:
        return await super().run(request, context=context, root_value=root_value)


async def nothing(_request: Any) -> Any:
    return None


class OwnCors(CORSMiddleware):
    pass


def with_middleware(router: Watching) -> FastAPI:
    app = application(router)
    app.add_middleware(Passing)
    return app


def with_a_patched_stack(router: Watching) -> FastAPI:
    app = application(router)
    build: Callable[[], ASGIApp] = app.build_middleware_stack
    app.build_middleware_stack = lambda: Passing(build())  # type: ignore[method-assign]
    return app


def with_another_stack(router: Watching) -> FastAPI:
    app = application(router)
    app.middleware_stack = Passing(app.build_middleware_stack())
    return app


def with_a_router_of_its_own(router: Watching) -> FastAPI:
    app = FastAPI()
    app.router = OwnRouter()
    app.include_router(router)
    return app


def with_middleware_on_the_router(router: Watching) -> FastAPI:
    app = FastAPI()
    app.router = APIRouter()
    app.router.middleware_stack = Passing(app.router.app)
    app.include_router(router)
    return app


def with_a_route_of_its_own(router: Watching) -> FastAPI:
    app = FastAPI()
    app.router.routes.append(OwnRoute("/other", nothing))
    app.include_router(router)
    return app


def with_a_patched_route(router: Watching) -> FastAPI:
    app = FastAPI()
    route = Route("/other", nothing)
    route.matches = lambda scope: Route.matches(route, scope)  # type: ignore[method-assign]
    app.router.routes.append(route)
    app.include_router(router)
    return app


def with_a_host(router: Watching) -> FastAPI:
    app = FastAPI()
    app.router.routes.append(Host("other.example", app=Starlette()))
    app.include_router(router)
    return app


def with_an_override(router: Watching) -> FastAPI:
    app = application(router)
    app.dependency_overrides[nothing] = nothing
    return app


@pytest.mark.parametrize(
    "build",
    [
        with_middleware,
        with_a_patched_stack,
        with_another_stack,
        with_a_router_of_its_own,
        with_middleware_on_the_router,
        with_a_route_of_its_own,
        with_a_patched_route,
        with_a_host,
        with_an_override,
        lambda router: application(router, middleware=[Middleware(Passing)]),
        lambda router: application(router, middleware=[Middleware(OwnCors)]),
        lambda router: application(
            router, middleware=[Middleware(CORSMiddleware), Middleware(Passing)]
        ),
        lambda router: application(router, dependencies=[Depends(by_header)]),
    ],
)
async def test_what_the_application_adds_is_not_skipped(build: Callable[[Any], FastAPI]) -> None:
    router = Watching()
    assert not await is_short_after_a_visit(build(router), router)


async def test_a_route_class_that_only_handles_requests_leaves_the_shortcut_open() -> None:
    router, checked = Watching(), APIRouter(route_class=CheckedRoute)
    checked.add_api_route("/checked", nothing)
    assert await is_short_after_a_visit(application(checked, router), router)


async def test_the_task_service_has_a_shortcut(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/tasks.db"
    app = create_app(TaskSettings(jwt_secret=SecretStr(SECRET), database_url=database))
    async with served(app) as origin, open_socket(origin) as socket:
        await socket.init({"Authorization": f"Bearer {token()}"})
        assert is_short(app, {"path": "/graphql"})


async def test_the_middleware_for_cors_is_skipped_because_it_ignores_websockets() -> None:
    router = Watching()
    app = application(router)
    add_cors(app, Settings(allowed_origins=("https://friend.example",)))
    assert await is_short_after_a_visit(app, router)


async def test_a_patched_middleware_for_cors_is_not_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = Watching()
    app = application(router, middleware=[Middleware(CORSMiddleware)])
    assert await is_short_after_a_visit(app, router)
    monkeypatch.setattr(CORSMiddleware, "__call__", Passing.__call__)
    assert not is_short(app, router.scopes[0])


async def test_a_subclass_of_fastapi_is_not_skipped() -> None:
    router = Watching()
    app = OwnFastAPI()
    app.include_router(router)
    assert not await is_short_after_a_visit(app, router)


@pytest.mark.parametrize(
    "options",
    [
        {"context_getter": by_header},
        {"context_getter": opened},
        {"context_getter": in_a_thread},
        {"dependencies": [Depends(by_header)]},
        {"root_value_getter": lambda: None},
        {"path": "/{name}"},
    ],
)
async def test_dependencies_that_need_fastapi_get_it(options: dict[str, Any]) -> None:
    router = Watching(**options)
    assert not await is_short_after_a_visit(application(router), router)


async def test_a_router_with_a_run_of_its_own_is_not_skipped() -> None:
    router = Running()
    assert not await is_short_after_a_visit(application(router), router)


async def test_a_mounted_application_is_not_skipped() -> None:
    router = Watching()
    app, inner = FastAPI(), application(router)
    app.mount("/sub", inner)
    async with served(app) as origin:
        await visit(origin, "/sub/graphql")
        await visit(origin, "/sub/graphql")

    assert len(router.scopes) == 2
    assert not is_short(app, router.scopes[0])
    assert not is_short(inner, router.scopes[0])


async def test_two_routers_have_a_shortcut_each() -> None:
    one, two = Watching(), Watching(path="/two")
    app = application(one, two)
    async with served(app) as origin:
        for path in ("/graphql", "/two", "/graphql", "/two"):
            await visit(origin, path)

    assert [scope["path"] for scope in one.scopes] == ["/graphql"] * 2
    assert [scope["path"] for scope in two.scopes] == ["/two"] * 2
    assert is_short(app, one.scopes[0])
    assert is_short(app, two.scopes[0])


async def refuse(websocket: WebSocket) -> None:
    await websocket.close(4000)


def a_route_before(app: FastAPI) -> None:
    app.router.routes.insert(0, WebSocketRoute("/graphql", refuse))


def an_override(app: FastAPI) -> None:
    app.dependency_overrides[nothing] = nothing


def a_stack(app: FastAPI) -> None:
    assert app.middleware_stack is not None
    app.middleware_stack = Passing(app.middleware_stack)


@pytest.mark.parametrize("change", [a_route_before, an_override, a_stack])
async def test_a_later_change_closes_the_shortcut(change: Callable[[FastAPI], None]) -> None:
    router = Watching()
    app = application(router)
    assert await is_short_after_a_visit(app, router)

    change(app)

    assert not is_short(app, router.scopes[0])


async def test_a_later_route_of_an_included_router_closes_the_shortcut() -> None:
    router, other = Watching(), APIRouter()
    app = application(other, router)
    assert await is_short_after_a_visit(app, router)
    before = is_short(app, router.scopes[0])

    router.routes.insert(0, WebSocketRoute("/graphql", refuse))

    assert before
    assert not is_short(app, router.scopes[0])


async def test_a_tracer_that_replaces_a_call_of_a_framework_closes_the_shortcut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = Watching()
    app = application(router)
    assert await is_short_after_a_visit(app, router)
    original = Starlette.__call__

    async def traced(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        await original(self, scope, receive, send)

    monkeypatch.setattr(Starlette, "__call__", traced)

    assert not is_short(app, router.scopes[0])


async def test_the_address_that_a_proxy_forwards_is_seen() -> None:
    router = Watching()
    app = application(router)
    async with served(app) as origin:
        await visit(origin)
        await visit(origin, additional_headers={"x-forwarded-for": "203.0.113.9"})

    assert is_short(app, router.scopes[0])
    assert router.scopes[1]["client"][0] == "203.0.113.9"


async def test_an_error_of_the_context_getter_is_handled_as_before() -> None:
    fails = False

    async def context() -> Any:
        if fails:
            raise WebSocketException(4321, "no context today")

    router = Watching(context_getter=context)
    app = application(router)
    handled: list[str] = []

    @app.exception_handler(WebSocketException)
    async def handle(websocket: WebSocket, error: WebSocketException) -> None:
        handled.append(error.reason)
        await websocket.close(error.code)

    async with served(app) as origin:
        await visit(origin)
        assert is_short(app, router.scopes[0])
        fails = True
        with pytest.raises(Exception, match="403"):
            await visit(origin)

    assert handled == ["no context today"]


def test_the_shortcut_knows_this_version_of_fastapi() -> None:
    assert shortcut._ORIGINAL_CALLS is not None
