"""Two versions of one application, as a rolling deploy runs them side by side."""

import os
from collections.abc import AsyncIterator
from enum import Enum
from typing import Any

import strawberry
from fastapi import FastAPI

from gqlnotify import GraphQLRouter, Topic, TopicManager

TOPIC = os.environ.get("TASKS_TOPIC", "tasks")


@strawberry.enum(name="Status")
class OldStatus(Enum):
    OPEN = "open"
    DONE = "done"


@strawberry.type(name="Task")
class OldTask:
    id: int
    status: OldStatus


@strawberry.enum(name="Status")
class NewStatus(Enum):
    OPEN = "open"
    DONE = "done"
    ARCHIVED = "archived"


@strawberry.type(name="Task")
class NewTask:
    """A task with a field without a default, which events of the old version lack."""

    id: int
    status: NewStatus
    owner: str


def application(task: Any, status: Any, **more: Any) -> FastAPI:
    """Return the application with tasks of this type."""
    topics, topic = TopicManager(), Topic[Any](TOPIC, task)

    @strawberry.type
    class Query:
        @strawberry.field
        async def cursor(self) -> str:
            return await topics.cursor(topic)

    @strawberry.type
    class Mutation:
        @strawberry.mutation
        async def publish(self, id: int, value: str) -> str:  # noqa: A002
            return str(await topics.publish(topic, task(id=id, status=status(value), **more)))

    async def tasks() -> AsyncIterator[Any]:
        return topics.subscribe(topic)

    tasks.__annotations__["return"] = AsyncIterator[task]
    feed = type("Subscription", (), {"tasks": strawberry.subscription(resolver=tasks)})
    feed.__annotations__ = {"tasks": AsyncIterator[task]}
    schema = strawberry.Schema(Query, Mutation, strawberry.type(feed))
    app = FastAPI()
    app.include_router(GraphQLRouter(schema, topics=topics), prefix="/graphql")
    return app


old = application(OldTask, OldStatus)
new = application(NewTask, NewStatus, owner="alice")
