"""gqlnotify on FastAPI; the broker and the token's secret are in the environment."""

import os
from collections.abc import AsyncIterator
from typing import Any

import strawberry
from fastapi import FastAPI
from strawberry.schema.config import StrawberryConfig

from benchmarks.apps.common import fields
from benchmarks.apps.probe import with_probe
from gqlnotify import GraphQLRouter, Topic, TopicManager


@strawberry.type
class Event:
    """What is delivered."""

    seq: int
    sent_at: float
    kind: str
    text: str


ROOM = Topic("room.<name>", Event)
topics = TopicManager()
executions = 0


def counting(source: Any, name: str) -> Any:
    """Resolve a field as Strawberry does, and count how often an event is looked at."""
    global executions  # noqa: PLW0603
    executions += name == "seq"
    return getattr(source, name)


@strawberry.type
class Query:
    """Besides what GraphQL wants, how often an event was executed."""

    ok: bool = True

    @strawberry.field
    def executions(self) -> int:
        """Return how many there were, if they were to be counted."""
        return executions


@strawberry.type
class Mutation:
    """The way in."""

    @strawberry.mutation
    async def publish(self, count: int, room: str) -> int:
        """Publish so many events in one go."""
        topic = ROOM(name=room)
        for _ in range(count):
            await topics.publish(topic, Event(**fields()))
        return count


@strawberry.type
class Subscription:
    """The way out."""

    @strawberry.subscription
    async def events(self, room: str, tag: int | None = None) -> AsyncIterator[Event]:  # noqa: ARG002
        """Deliver what is published in the room."""
        return topics.subscribe(ROOM(name=room))


config = (
    StrawberryConfig(default_resolver=counting)
    if os.environ.get("BENCH_COUNT")
    else StrawberryConfig()
)
app = with_probe(FastAPI())
app.include_router(
    GraphQLRouter(strawberry.Schema(Query, Mutation, Subscription, config=config), topics=topics),
    prefix="/graphql",
)
