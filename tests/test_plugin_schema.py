"""The schema of the router: the application's own object, which it may change or replace."""

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
import strawberry
from strawberry.extensions import QueryDepthLimiter, SchemaExtension
from strawberry.fastapi import GraphQLRouter as StrawberryRouter

from gqlnotify import GraphQLRouter, Settings, Topic, TopicManager
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

Router = type[Any]


@pytest.fixture(params=[StrawberryRouter, GraphQLRouter], ids=["strawberry", "gqlnotify"])
def router(request: pytest.FixtureRequest) -> Router:
    chosen: Router = request.param
    return chosen


def counting() -> tuple[list[SchemaExtension], Any]:
    """Return what a factory has made so far, and the factory."""
    made: list[SchemaExtension] = []

    def make() -> SchemaExtension:
        made.append(SchemaExtension())
        return made[-1]

    return made, make


async def test_extensions_are_made_once_for_each_operation(router: Router) -> None:
    made, make = counting()
    serving = router(schema_of(extensions=[make]), subscription_protocols=ALL_PROTOCOLS)
    assert not made
    async with running(application(serving)) as origin, client_of(origin) as client:
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


async def test_a_factory_may_read_what_only_a_request_has(router: Router) -> None:
    depth: ContextVar[int] = ContextVar("depth")

    async def context() -> dict[str, Any]:
        depth.set(1)
        return {}

    schema = schema_of(extensions=[lambda: QueryDepthLimiter(max_depth=depth.get())])
    serving = router(schema, context_getter=context)
    async with running(application(serving)) as origin, client_of(origin) as client:
        assert await post(client, HELLO) == {"data": {"hello": "world"}}
        assert "errors" in await post(client, "{ nested { nested { hello } } }")


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


async def test_the_router_serves_the_schema_that_it_has_now(router: Router) -> None:
    schema = schema_of()
    serving = router(schema, subscription_protocols=ALL_PROTOCOLS)
    assert serving.schema is schema
    async with running(application(serving)) as origin, client_of(origin) as client:
        assert await post(client, HELLO) == {"data": {"hello": "world"}}
        serving.schema = strawberry.Schema(Other, subscription=OtherSubscription)
        assert await post(client, HELLO) == {"data": {"hello": "another world"}}
        asked = {"query": COUNT}
        answer = await client.post("/graphql", json=asked, headers=EVENT_STREAM)
        assert events(answer.text)[0] == ("next", {"data": {"count": -2}})
        answer = await client.post("/graphql", json=asked, headers=MULTIPART)
        assert parts(answer.text) == [{"data": {"count": -2}}]
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            assert await socket.query(HELLO) == {"hello": "another world"}
            await socket.subscribe("1", COUNT)
            assert await socket.next("1") == {"data": {"count": -2}}


async def test_a_schema_takes_extensions_that_are_added_later(router: Router) -> None:
    made, make = counting()
    schema = schema_of()
    serving = router(schema)
    schema.extensions = (make,)
    async with running(application(serving)) as origin, client_of(origin) as client:
        await post(client, HELLO)
    assert len(made) == 1


class OwnExtensions(strawberry.Schema):
    """Decides by itself about extensions."""

    def get_extensions(self, sync: bool = False) -> list[SchemaExtension]:
        return []


@pytest.mark.parametrize("protocol", ["http", "websocket"])
async def test_a_schema_that_ignores_extensions_keeps_the_limits(protocol: str) -> None:
    strict = Settings(broker_url="memory://", query_max_depth=1)
    schema = OwnExtensions(Query)
    serving = GraphQLRouter(schema, settings=strict)
    deep = "{ nested { nested { hello } } }"
    async with running(application(serving)) as origin, client_of(origin) as client:
        if protocol == "http":
            told = await post(client, deep)
            assert told["errors"][0]["extensions"]["code"] == "QUERY_TOO_DEEP"
            return
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            await socket.subscribe("1", deep)
            told = await socket.error("1")
            assert told[0]["extensions"]["code"] == "QUERY_TOO_DEEP"


NUMBERS = Topic("numbers", int)


async def test_a_shared_subscription_goes_on_with_the_schema_that_it_began_with() -> None:
    topics = TopicManager(settings=Settings(broker_url="memory://", topic_linger=0))

    def numbers_as(type_: type) -> strawberry.Schema:
        @strawberry.type
        class Subscription:
            @strawberry.subscription(graphql_type=type_)  # type: ignore[untyped-decorator]
            async def numbers(self) -> Any:
                return topics.subscribe(NUMBERS)

        return strawberry.Schema(Other, subscription=Subscription)

    serving = GraphQLRouter(numbers_as(int), topics=topics)
    async with (
        running(application(serving)) as origin,
        open_socket(f"ws://{origin}") as socket,
    ):
        await socket.init()
        document = "subscription { numbers }"
        await socket.subscribe("old", document)
        assert await socket.query(HELLO) == {"hello": "another world"}
        serving.schema = numbers_as(str)
        await socket.subscribe("new", document)
        assert await socket.query(HELLO) == {"hello": "another world"}
        await topics.publish(NUMBERS, 3)
        told = [await socket.receive() for _ in range(2)]
        data = {each["id"]: each["payload"]["data"] for each in told}
        assert data == {"old": {"numbers": 3}, "new": {"numbers": "3"}}
