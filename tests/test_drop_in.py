"""One application under both routers, over real sockets: what is the same, and what differs."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import strawberry
from strawberry.fastapi import GraphQLRouter as StrawberryRouter

from gqlnotify import GraphQLRouter
from tests.applications import (
    ALL_PROTOCOLS,
    EVENT_STREAM,
    MULTIPART,
    Query,
    application,
    client_of,
    events,
    parts,
)
from tests.e2e.raw import open_socket
from tests.servers import running

BROKEN = "subscription { broken }"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def broken(self) -> AsyncIterator[int]:
        yield 1
        raise ValueError("the source is gone")


def serving(router: type[Any]) -> Any:
    schema = strawberry.Schema(Query, subscription=Subscription)
    return running(application(router(schema, subscription_protocols=ALL_PROTOCOLS)))


async def test_a_source_that_raises_ends_in_an_error_and_no_complete_over_websocket() -> None:
    async with serving(GraphQLRouter) as origin, open_socket(f"ws://{origin}") as socket:
        await socket.init()
        await socket.subscribe("1", BROKEN)
        assert await socket.next("1") == {"data": {"broken": 1}}
        (error,) = await socket.error("1")
        assert error["message"] == "the source is gone"
        # What is next is the answer to this, and not a `complete`.
        assert await socket.query("{ hello }") == {"hello": "world"}


@pytest.mark.parametrize("router", [StrawberryRouter, GraphQLRouter])
async def test_a_source_that_raises_ends_a_stream_with_its_error(router: type[Any]) -> None:
    async with serving(router) as origin, client_of(origin) as client:
        asked = {"query": BROKEN}
        sent = events((await client.post("/graphql", json=asked, headers=EVENT_STREAM)).text)
        last = parts((await client.post("/graphql", json=asked, headers=MULTIPART)).text)[-1]
    assert [name for name, _ in sent] == ["next", "next", "complete"]
    for told in (sent[1][1], last):
        assert told["errors"][0]["message"] == "the source is gone"
