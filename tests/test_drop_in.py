"""One application under both routers, over real sockets: what is the same, and what differs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import strawberry
from strawberry.extensions import QueryDepthLimiter, SchemaExtension
from strawberry.fastapi import GraphQLRouter as StrawberryRouter
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import (
    BaseGraphQLTransportWSHandler,
)

from gqlnotify import GraphQLRouter
from gqlnotify.server.websocket import WebSocketProtocol
from tests.applications import (
    ALL_PROTOCOLS,
    COUNT,
    EVENT_STREAM,
    HELLO,
    MULTIPART,
    Query,
    application,
    client_of,
    events,
    parts,
    post,
    schema_of,
)
from tests.e2e.raw import open_socket
from tests.servers import running

pytestmark = pytest.mark.processes

Router = Any


@dataclass(frozen=True)
class Way:
    """A router, and the class under which uvicorn serves its sockets."""

    router: type[Router]
    ws: type[asyncio.Protocol] | Literal["auto"] = "auto"

    def serve(self, router: Router) -> AbstractAsyncContextManager[str]:
        return running(application(router), ws=self.ws)


WAYS = {
    "strawberry": Way(StrawberryRouter),
    "gqlnotify": Way(GraphQLRouter),
    "gqlnotify-direct": Way(GraphQLRouter, WebSocketProtocol),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


# Large results


class Exports:
    """An application whose mutations have large results, and that counts them."""

    def __init__(self) -> None:
        self.made = made = list[int]()

        @strawberry.type
        class Mutation:
            @strawberry.mutation
            def export(self, size: int) -> str:
                made.append(size)
                return "x" * size

        self.schema = strawberry.Schema(Query, Mutation)


@pytest.mark.parametrize(("size", "times"), [(1_500_000, 1), (30_000, 50)])
async def test_a_client_that_reads_gets_all_of_large_results(
    way: Way, size: int, times: int
) -> None:
    exports = Exports()
    document = "mutation ($size: Int!) { export(size: $size) }"
    ids = [str(number) for number in range(times)]
    async with (
        way.serve(way.router(exports.schema)) as origin,
        open_socket(f"ws://{origin}") as socket,
    ):
        await socket.init()
        for id_ in ids:
            await socket.subscribe(id_, document, variables={"size": size})
        received = [await socket.receive() for _ in range(2 * times)]
        results = {each["id"]: each["payload"] for each in received if each["type"] == "next"}
        assert results == {id_: {"data": {"export": "x" * size}} for id_ in ids}
        assert {each["id"] for each in received if each["type"] == "complete"} == set(ids)
        assert await socket.query(HELLO) == {"hello": "world"}
    assert exports.made == [size] * times


# The application's own handlers


class OwnHandler(BaseGraphQLTransportWSHandler[Any, Any]):
    """A handler that was written for Strawberry's router."""


async def test_a_handler_written_for_strawberry_works_without_tokens(
    way: Way,
) -> None:
    own = type("Own", (way.router,), {"graphql_transport_ws_handler_class": OwnHandler})
    async with way.serve(own(schema_of())) as origin, open_socket(f"ws://{origin}") as socket:
        await socket.init()
        assert await socket.query(HELLO) == {"hello": "world"}
    if way.router is GraphQLRouter:
        with pytest.raises(ValueError, match="without a check of the token"):
            own(schema_of(), authenticate=lambda _token, _connection: None)


# Extensions


def counting() -> tuple[list[SchemaExtension], Any]:
    """Return the objects that a factory has created so far, and the factory."""
    made: list[SchemaExtension] = []

    def make() -> SchemaExtension:
        made.append(SchemaExtension())
        return made[-1]

    return made, make


async def test_extensions_are_made_once_for_each_operation(way: Way) -> None:
    made, make = counting()
    router = way.router(schema_of(extensions=[make]), subscription_protocols=ALL_PROTOCOLS)
    assert not made
    async with way.serve(router) as origin, client_of(origin) as client:
        assert await post(client, HELLO) == {"data": {"hello": "world"}}
        assert len(made) == 1
        await post(client, 'mutation { echo(text: "a") }')
        assert len(made) == 2
        for accept in (EVENT_STREAM, MULTIPART):
            await client.post("/graphql", json={"query": COUNT}, headers=accept)
        assert len(made) == 4
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            assert len(made) == 4
            assert await socket.query(HELLO) == {"hello": "world"}
            assert len(made) == 5
            await socket.subscribe("1", COUNT)
            assert await socket.next("1") == {"data": {"count": 1}}
            assert len(made) == 6


async def test_a_factory_may_read_what_only_a_request_has(way: Way) -> None:
    depth: ContextVar[int] = ContextVar("depth")

    async def context() -> dict[str, Any]:
        depth.set(1)
        return {}

    schema = schema_of(extensions=[lambda: QueryDepthLimiter(max_depth=depth.get())])
    router = way.router(schema, context_getter=context)
    async with way.serve(router) as origin, client_of(origin) as client:
        assert await post(client, HELLO) == {"data": {"hello": "world"}}
        assert "errors" in await post(client, "{ nested { nested { hello } } }")


async def test_a_schema_takes_extensions_that_are_added_later(way: Way) -> None:
    made, make = counting()
    schema = schema_of()
    router = way.router(schema)
    schema.extensions = (make,)
    async with way.serve(router) as origin, client_of(origin) as client:
        await post(client, HELLO)
    assert len(made) == 1


# Subclasses


def subclass(router: type[Router]) -> type[Router]:
    """Return a subclass with its own attributes and methods, as applications write them."""

    class Own(router):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.settings = {"theme": "dark"}
            super().__init__(*args, **options)
            self.topics = ["weather"]
            self.limits = self._settings = self._topics = None

        def _authenticate(self) -> str:
            return "the application's"

        async def subscribe(self, topic: str) -> bool:
            return topic in self.topics

        def describe(self) -> tuple[Any, ...]:
            return self.settings, self.topics, self._authenticate()

    return Own


async def test_a_subclass_keeps_its_own_attributes_and_methods(way: Way) -> None:
    router = subclass(way.router)(schema_of(), subscription_protocols=ALL_PROTOCOLS)
    async with way.serve(router) as origin, client_of(origin) as client:
        assert await post(client, HELLO) == {"data": {"hello": "world"}}
        answer = await client.post("/graphql", json={"query": COUNT}, headers=EVENT_STREAM)
        assert [name for name, _ in events(answer.text)] == ["next", "next", "complete"]
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            assert await socket.query(HELLO) == {"hello": "world"}
    assert router.describe() == ({"theme": "dark"}, ["weather"], "the application's")
    assert await router.subscribe("weather")


# The schema


@strawberry.type
class Other:
    @strawberry.field
    def hello(self) -> str:
        return "another world"


@strawberry.type
class OtherSubscription:
    @strawberry.subscription
    async def count(self, to: int) -> AsyncIterator[int]:
        yield -to


async def test_the_router_serves_the_schema_that_it_has_now(way: Way) -> None:
    schema = schema_of()
    router = way.router(schema, subscription_protocols=ALL_PROTOCOLS)
    assert router.schema is schema
    async with way.serve(router) as origin, client_of(origin) as client:
        assert await post(client, HELLO) == {"data": {"hello": "world"}}
        router.schema = other = strawberry.Schema(Other, subscription=OtherSubscription)
        assert router.schema is other
        assert await post(client, HELLO) == {"data": {"hello": "another world"}}
        request = {"query": COUNT}
        answer = await client.post("/graphql", json=request, headers=EVENT_STREAM)
        assert events(answer.text)[0] == ("next", {"data": {"count": -2}})
        answer = await client.post("/graphql", json=request, headers=MULTIPART)
        assert parts(answer.text) == [{"data": {"count": -2}}]
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            assert await socket.query(HELLO) == {"hello": "another world"}
            await socket.subscribe("1", COUNT)
            assert await socket.next("1") == {"data": {"count": -2}}


# Limits

DEEP = "{" + "nested {" * 20 + "hello" + "}" * 21
FIELDS = (
    "{" + " ".join(f"n{n}: nested {{ hello root nested {{ hello }} }}" for n in range(120)) + "}"
)
ALIASES = "{" + " ".join(f"a{number}: hello" for number in range(60)) + "}"


@pytest.mark.parametrize("document", [DEEP, FIELDS, ALIASES], ids=["deep", "fields", "aliases"])
async def test_documents_of_an_ordinary_application_pass(way: Way, document: str) -> None:
    async with way.serve(way.router(schema_of())) as origin, client_of(origin) as client:
        received = await post(client, document)
        assert "errors" not in received
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            assert await socket.query(document) == received["data"]


async def test_bodies_and_uploads_of_an_ordinary_application_pass(way: Way) -> None:
    router = way.router(schema_of(), multipart_uploads_enabled=True)
    text = "x" * 300_000
    echo = {
        "query": "mutation ($text: String!) { echo(text: $text) }",
        "variables": {"text": text},
    }
    file = b"y" * 1_000_000
    upload = {
        "operations": '{"query": "mutation ($file: Upload!) { read(file: $file) }",'
        ' "variables": {"file": null}}',
        "map": '{"0": ["variables.file"]}',
    }
    async with way.serve(router) as origin, client_of(origin) as client:
        answer = await client.post("/graphql", json=echo)
        assert answer.json() == {"data": {"echo": text}}
        answer = await client.post("/graphql", data=upload, files={"0": file})
        assert answer.json() == {"data": {"read": file.decode()}}


# A source that raises

BROKEN = "subscription { broken }"


@strawberry.type
class BrokenSubscription:
    @strawberry.subscription
    async def broken(self) -> AsyncIterator[int]:
        yield 1
        raise ValueError("the source is gone")


def broken(way: Way) -> AbstractAsyncContextManager[str]:
    schema = strawberry.Schema(Query, subscription=BrokenSubscription)
    return way.serve(way.router(schema, subscription_protocols=ALL_PROTOCOLS))


async def test_a_source_that_raises_ends_an_operation_over_websocket(way: Way) -> None:
    """Expect `error` instead of `complete`, as the protocol says; Strawberry sends both."""
    async with broken(way) as origin, open_socket(f"ws://{origin}") as socket:
        await socket.init()
        await socket.subscribe("1", BROKEN)
        assert await socket.next("1") == {"data": {"broken": 1}}
        if way.router is StrawberryRouter:
            received = (await socket.next("1"))["errors"]
            await socket.completed("1")
        else:
            received = await socket.error("1")
        assert [error["message"] for error in received] == ["the source is gone"]
        # The next message is the answer to this, not another one of the operation.
        assert await socket.query(HELLO) == {"hello": "world"}


async def test_a_source_that_raises_ends_a_stream_with_its_error(way: Way) -> None:
    async with broken(way) as origin, client_of(origin) as client:
        request = {"query": BROKEN}
        sent = events((await client.post("/graphql", json=request, headers=EVENT_STREAM)).text)
        last = parts((await client.post("/graphql", json=request, headers=MULTIPART)).text)[-1]
    assert [name for name, _ in sent] == ["next", "next", "complete"]
    for received in (sent[1][1], last):
        assert received["errors"][0]["message"] == "the source is gone"
