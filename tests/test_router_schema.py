"""The schema of the router: an object of the application, which may change or replace it."""

from typing import Any

import pytest
import strawberry
from strawberry.extensions import SchemaExtension

from gqlnotify import GraphQLRouter, Settings, Topic, TopicManager
from tests.applications import (
    HELLO,
    Query,
    application,
    client_of,
    post,
)
from tests.e2e.raw import open_socket
from tests.servers import running

pytestmark = pytest.mark.processes


@strawberry.type
class Other:
    @strawberry.field
    def hello(self) -> str:
        return "another world"


class OwnExtensions(strawberry.Schema):
    """Chooses its extensions itself."""

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
            received = await post(client, deep)
            assert received["errors"][0]["extensions"]["code"] == "QUERY_TOO_DEEP"
            return
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            await socket.subscribe("1", deep)
            received = await socket.error("1")
            assert received[0]["extensions"]["code"] == "QUERY_TOO_DEEP"


NUMBERS = Topic("numbers", int)


async def test_a_shared_subscription_keeps_the_schema_that_it_started_with() -> None:
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
        received = [await socket.receive() for _ in range(2)]
        data = {each["id"]: each["payload"]["data"] for each in received}
        assert data == {"old": {"numbers": 3}, "new": {"numbers": "3"}}
