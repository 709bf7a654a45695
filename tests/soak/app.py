"""The application of the soak test: numbers on topics, and counts of what the process holds."""

import asyncio
import gc
import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import strawberry
from fastapi import FastAPI
from graphql import GraphQLError
from strawberry.exceptions import MissingQueryError
from strawberry.types import ExecutionContext

from gqlnotify import GraphQLRouter, Topic, TopicManager, current_principal
from gqlnotify.errors import NotifyError

# Modules whose objects belong to connections and operations. Other modules keep caches, which are
# bounded: parsed documents, shared executions and their results, histories.
_PASSING = (
    "gqlnotify.auth",
    "gqlnotify.connections",
    "gqlnotify.execution.group",
    "gqlnotify.http",
    "gqlnotify.protocol",
    "gqlnotify.server",
    "gqlnotify.topics",
    "gqlnotify.websocket",
)
# Kept by the shared executions, their results, the addresses that sent bad tokens, and the tokens
# that were verified lately.
_KEPT = {
    *("Batch", "Projection", "Principal", "Rate", "SharedBody"),
    *("HandshakeQueue", "Shortcut", "Shortcuts", "_Dependency"),
}


@strawberry.type
class Number:
    """What is published: consecutive numbers in each topic."""

    number: int
    text: str


NUMBERS = Topic("numbers.<name>", Number)
topics = TopicManager()


@strawberry.type
class Query:
    @strawberry.field
    def echo(self, text: str) -> str:
        return text

    @strawberry.field
    def subject(self) -> str:
        return current_principal().subject

    @strawberry.field
    async def cursor(self, name: str) -> str:
        return await topics.cursor(NUMBERS(name=name))


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def publish(self, name: str, number: int, size: int) -> str:
        value = Number(number=number, text="x" * size)
        return str(await topics.publish(NUMBERS(name=name), value))


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def numbers(self, name: str, every: int = 1, mine: bool = False) -> AsyncIterator[Number]:
        return topics.subscribe(
            NUMBERS(name=name),
            where=None if every == 1 else lambda value: value.number % every == 0,
            per_viewer=mine,
        )

    @strawberry.subscription
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @strawberry.subscription
    async def flood(self) -> AsyncIterator[str]:
        """An endless stream, as fast as it is read."""
        while True:
            yield "x" * 10_000


class Schema(strawberry.Schema):
    """Does not log mistakes of clients, so that every error in the log is one of ours."""

    def process_errors(
        self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None
    ) -> None:
        theirs = NotifyError | MissingQueryError | None
        ours = [error for error in errors if not isinstance(error.original_error, theirs)]
        super().process_errors(ours, execution_context)


router: GraphQLRouter[Any, Any] = GraphQLRouter(
    Schema(Query, Mutation, Subscription), topics=topics
)
app = FastAPI()
app.include_router(router, prefix="/graphql")


@app.get("/held")
async def held() -> dict[str, int]:
    """Count the objects that must end with their connection."""
    gc.collect()
    kinds = (type(one) for one in gc.get_objects())
    passing = Counter(kind.__name__ for kind in kinds if str(kind.__module__).startswith(_PASSING))
    return {
        "tasks": len(asyncio.all_tasks()),
        "file descriptors": len(os.listdir("/proc/self/fd")),
        "topics": len(topics.live_topics.by_name),
        **{name: count for name, count in passing.items() if name not in _KEPT},
    }
