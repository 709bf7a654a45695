"""A connection outlives its ASGI call, but only if nothing waits for the end of the call."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import strawberry
from fastapi import Depends, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.http11 import Request

from gqlnotify import GraphQLRouter, Topic, TopicManager
from gqlnotify.server.websocket import WebSocketProtocol
from gqlnotify.websocket.handler import GraphQLTransportWSHandler
from tests.e2e.raw import Socket, open_socket
from tests.servers import running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

NUMBERS = Topic("numbers", int)
COUNT = "subscription { count }"


@strawberry.type
class Query:
    ok: bool = True


class RecordingApp:
    """An application that notes the ends of its calls and connections."""

    def __init__(self) -> None:
        self.topics = topics = TopicManager()
        self.ended: list[str] = []

        @strawberry.type
        class Subscription:
            @strawberry.subscription
            async def count(self) -> AsyncIterator[int]:
                return topics.subscribe(NUMBERS)

            @strawberry.subscription
            async def endless(self) -> AsyncIterator[int]:
                try:
                    yield 1
                    await asyncio.Event().wait()
                finally:
                    ended.append("generator")

        ended = self.ended
        self.schema = strawberry.Schema(Query, subscription=Subscription)

    def app(self, router: type[GraphQLRouter[Any, Any]] = GraphQLRouter, **options: Any) -> FastAPI:
        app = FastAPI()
        app.include_router(router(self.schema, topics=self.topics, **options), prefix="/graphql")
        return app

    @asynccontextmanager
    async def subscribed(self, app: ASGIApp, path: str = "") -> AsyncIterator[Socket]:
        async with (
            running(app, ws=WebSocketProtocol) as origin,
            open_socket(f"ws://{origin}{path}") as socket,
        ):
            await socket.init()
            await socket.subscribe("1", COUNT)
            assert await self.next_number(socket) == 1
            yield socket

    async def next_number(self, socket: Socket) -> int:
        receiving = asyncio.create_task(message_of(socket, "1"))
        while not receiving.done():
            await self.topics.publish(NUMBERS, 1)
            await asyncio.wait([receiving], timeout=0.02)
        number: int = (await receiving)["payload"]["data"]["count"]
        return number


async def message_of(socket: Socket, id_: str) -> dict[str, Any]:
    """Return the next message of one operation; skip those of others."""
    while (message := await socket.receive()).get("id") != id_:
        pass
    return message


@pytest.fixture
def recording() -> RecordingApp:
    return RecordingApp()


def calls() -> int:
    """Count the ASGI calls that run."""
    names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    return sum("run_asgi" in name for name in names)


async def test_a_socket_without_middleware_holds_no_asgi_call(recording: RecordingApp) -> None:
    async with recording.subscribed(recording.app()) as socket:
        await wait_until(lambda: calls() == 0)
        assert await recording.next_number(socket) == 1


async def test_a_socket_without_a_call_answers_and_ends_like_any_other(
    recording: RecordingApp,
) -> None:
    async with recording.subscribed(recording.app()) as socket:
        await socket.send({"type": "ping", "payload": {"a": 1}})
        while (message := await socket.receive())["type"] != "pong":
            assert message["type"] == "next"
        assert message["payload"] == {"a": 1}
        await socket.send({"id": "1", "type": "complete"})
        await socket.send({"type": "nonsense"})
        assert (await socket.closed()).code == 4400


async def test_when_the_peer_disconnects_its_operations_end(recording: RecordingApp) -> None:
    async with recording.subscribed(recording.app()) as socket:
        await socket.subscribe("2", "subscription { endless }")
        await message_of(socket, "2")
        socket.connection.transport.abort()
        await wait_until(lambda: recording.ended == ["generator"])
        await wait_until(lambda: not any(recording.topics.readers.values()))


async def test_when_the_server_stops_its_operations_end_before_the_topics_do(
    recording: RecordingApp,
) -> None:
    async with recording.subscribed(recording.app()) as socket:
        await socket.subscribe("2", "subscription { endless }")
        await message_of(socket, "2")
    assert recording.ended == ["generator"]


class Middleware:
    def __init__(self, app: ASGIApp, ended: list[str]) -> None:
        self.app, self.ended = app, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            if scope["type"] == "websocket":
                self.ended.append("call")


def with_middleware(recording: RecordingApp) -> ASGIApp:
    app = recording.app()
    app.add_middleware(Middleware, ended=recording.ended)
    return app


def wrapped(recording: RecordingApp) -> ASGIApp:
    return Middleware(recording.app(), recording.ended)


def mounted(recording: RecordingApp) -> ASGIApp:
    outer = FastAPI()
    outer.mount("/sub", Middleware(recording.app(), recording.ended))
    return outer


def with_a_dependency_that_cleans_up(recording: RecordingApp) -> ASGIApp:
    async def context() -> AsyncIterator[dict[str, Any]]:
        yield {}
        recording.ended.append("call")

    return recording.app(context_getter=context)


def with_a_dependency_of_the_router(recording: RecordingApp) -> ASGIApp:
    async def session() -> AsyncIterator[None]:
        yield
        recording.ended.append("call")

    app = FastAPI()
    app.include_router(
        GraphQLRouter(recording.schema, topics=recording.topics),
        prefix="/graphql",
        dependencies=[Depends(session)],
    )
    return app


def with_a_router_that_waits(recording: RecordingApp) -> ASGIApp:
    class Waiting(GraphQLRouter[Any, Any]):
        async def run(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await super().run(request, *args, **kwargs)
            finally:
                recording.ended.append("call")

    return recording.app(Waiting)


def with_a_handler_that_waits(recording: RecordingApp) -> ASGIApp:
    class Waiting(GraphQLTransportWSHandler):
        async def handle(self) -> None:
            await super().handle()
            recording.ended.append("call")

    class Router(GraphQLRouter[Any, Any]):
        graphql_transport_ws_handler_class = Waiting

    return recording.app(Router)


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (with_middleware, ""),
        (wrapped, ""),
        (mounted, "/sub"),
        (with_a_dependency_that_cleans_up, ""),
        (with_a_dependency_of_the_router, ""),
        (with_a_router_that_waits, ""),
        (with_a_handler_that_waits, ""),
    ],
)
async def test_code_that_waits_for_the_end_of_the_call_runs_when_the_connection_ends(
    recording: RecordingApp, build: Callable[[RecordingApp], ASGIApp], path: str
) -> None:
    app = build(recording)
    lifespan: Callable[[], Awaitable[None]] = recording.topics.start
    await lifespan()
    async with recording.subscribed(app, path) as socket:
        assert await recording.next_number(socket) == 1
        assert recording.ended == []
        assert calls() == 1
        socket.connection.transport.abort()
        await wait_until(lambda: recording.ended == ["call"])
    await recording.topics.close()


def _requests() -> list[Request]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Request)]


async def test_a_connection_keeps_its_headers_once(recording: RecordingApp) -> None:
    # Other tests may have left some.
    before = _requests()
    async with recording.subscribed(recording.app()) as socket:
        ours = [
            request
            for request in _requests()
            if all(request is not other for other in (*before, socket.connection.request))
        ]

    assert ours
    assert not any(request.headers for request in ours)
