"""What a connection starts, and what it leaves."""

import gc
from collections.abc import MutableMapping
from typing import Any

import pytest
import strawberry
from fastapi import FastAPI

from gqlnotify import GraphQLRouter, Settings

SCOPE = {
    "type": "websocket",
    "path": "/graphql",
    "query_string": b"",
    "headers": [],
    "subprotocols": ["graphql-transport-ws"],
}


@strawberry.type
class Query:
    one: int = 1


@pytest.mark.filterwarnings("always")
async def test_a_socket_that_is_refused_at_once_leaves_no_coroutine_that_never_ran(
    recwarn: pytest.WarningsRecorder,
) -> None:
    router = GraphQLRouter(strawberry.Schema(Query), settings=Settings(max_connections=1))
    app = FastAPI()
    app.include_router(router, prefix="/graphql")
    router._gqlnotify.connection_limits.enter()
    sent: list[MutableMapping[str, Any]] = []

    # Neither waits, so the writer's task is cancelled before its first step.
    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(dict(SCOPE), receive, send)
    gc.collect()

    assert sent[-1]["code"] == 1013
    assert not [each for each in recwarn if "never awaited" in str(each.message)]
