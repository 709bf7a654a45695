"""Stock Strawberry on FastAPI, with the task service's extension if it is asked for."""

import os
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import strawberry
from fastapi import FastAPI
from jose import JWTError, jwt
from strawberry.exceptions import ConnectionRejectionError
from strawberry.fastapi import GraphQLRouter
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL

from benchmarks.apps.common import SECRET, Rooms, fields
from benchmarks.apps.probe import with_probe
from schema.discretion import DiscreetSchema, Discretion


@strawberry.type
class Event:
    """What is delivered."""

    seq: int
    sent_at: float
    kind: str
    text: str


rooms: Rooms[Event] = Rooms()


@strawberry.type
class Query:
    """GraphQL wants one."""

    ok: bool = True


@strawberry.type
class Mutation:
    """The way in."""

    @strawberry.mutation
    async def publish(self, count: int, room: str) -> int:
        """Publish so many events in one go."""
        for _ in range(count):
            rooms.publish(room, Event(**fields()))
        return count


@strawberry.type
class Subscription:
    """The way out."""

    @strawberry.subscription
    async def events(self, room: str, tag: int | None = None) -> AsyncGenerator[Event]:  # noqa: ARG002
        """Deliver what is published in the room."""
        listening: AsyncIterator[Event] = rooms.listen(room)
        async for event in listening:
            yield event


class Router(GraphQLRouter[Any, Any]):
    """Checks the token, where one is asked for."""

    async def on_ws_connect(self, context: dict[str, object]) -> Any:
        """Refuse a connection without a good token."""
        if SECRET:
            params: Any = context["connection_params"]
            try:
                jwt.decode(str(params["Authorization"])[7:], SECRET, algorithms=["HS256"])
            except (JWTError, KeyError, TypeError) as error:
                raise ConnectionRejectionError from error
        return await super().on_ws_connect(context)


schema = (
    DiscreetSchema(Query, Mutation, Subscription, extensions=[Discretion])
    if os.environ.get("BENCH_MASKED")
    else strawberry.Schema(Query, Mutation, Subscription)
)
app = with_probe(FastAPI())
app.include_router(
    Router(
        schema,
        subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL],
    ),
    prefix="/graphql",
)
