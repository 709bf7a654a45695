"""A list of tasks that is live: its database, the resolver, and clients that fold."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import strawberry
from fastapi import FastAPI
from pydantic import SecretStr
from strawberry.extensions import SchemaExtension
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL

from gqlnotify import Change, Cursor, Event, GraphQLRouter, Settings, Snapshot, Topic, TopicManager
from gqlnotify.testing import Client, Stream, connect

SECRET = "a secret of the house, 32 bytes or more"
LIST = "subscription ($owner: String) { tasks(owner: $owner) { ...parts } }"
PARTS = """
    fragment parts on LiveTasks {
        snapshot { id title owner } change { key removed task { id title owner } }
    }
"""
TASKS_LIVE = LIST + PARTS


@strawberry.type
class Task:
    """One row."""

    id: str
    title: str
    owner: str = "ann"

    @strawberry.field
    def shout(self) -> str:
        """Fail for the titles that can't be shouted."""
        return _shouted(self.title)

    @strawberry.field
    async def slow_shout(self) -> str:
        """Do the same after a moment, or never."""
        await asyncio.sleep(0)
        if self.title == "endless":
            await asyncio.Event().wait()
        return _shouted(self.title)


def _shouted(title: str) -> str:
    if title == "unspeakable":
        raise ValueError("a secret of the house")
    return title.upper()


@strawberry.type
class TaskEvent:
    """One change."""

    task: Task
    deleted: bool = False


@strawberry.type
class TaskChange:
    """What a client folds."""

    key: str
    removed: bool
    task: Task | None


@strawberry.type
class LiveTasks:
    """A snapshot, or a change."""

    snapshot: list[Task] | None = None
    change: TaskChange | None = None


TASKS = Topic("tasks", TaskEvent)


def as_result(each: Snapshot[Task] | Change[TaskEvent], _event: Event) -> LiveTasks:
    """Return what the client gets."""
    if isinstance(each, Snapshot):
        return LiveTasks(snapshot=each.items)
    task = None if each.value is None else each.value.task
    return LiveTasks(change=TaskChange(key=str(each.key), removed=each.removed, task=task))


def key_of(change: TaskEvent) -> str:
    """Return the id of the task."""
    return change.task.id


@dataclass
class House:
    """The database, and the application."""

    settings: Settings
    per_viewer: bool = False
    scope_of: Callable[[], Any] = lambda: None
    extensions: Sequence[type[SchemaExtension]] = ()
    rows: dict[str, Task] = field(default_factory=dict)
    loads: int = 0
    may_load: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[Exception] = field(default_factory=list)
    """The errors of the next loads."""

    def __post_init__(self) -> None:
        """Make the application."""
        self.may_load.set()
        self.topics = TopicManager(settings=self.settings)
        self.app = self._app()

    async def load(self, owner: str | None = None) -> list[Task]:
        """Read the rows."""
        self.loads += 1
        rows = [row for row in self.rows.values() if owner in {None, row.owner}]
        await self.may_load.wait()
        if self.failures:
            raise self.failures.pop(0)
        return rows

    @staticmethod
    def task(id_: str, title: str, owner: str = "ann") -> Task:
        """Return a row."""
        return Task(id=id_, title=title, owner=owner)

    @property
    def acknowledged(self) -> Cursor:
        """Up to where all clients have acknowledged the changes."""
        return min(each.acknowledged for each in self.topics.resumptions._running.values())

    async def put(self, id_: str, title: str, owner: str = "ann") -> Cursor:
        """Write a row, and publish the change."""
        self.rows[id_] = self.task(id_, title, owner)
        return await self.topics.publish(TASKS, TaskEvent(task=self.rows[id_]))

    async def delete(self, id_: str) -> Cursor:
        """Delete a row, and publish the change."""
        return await self.topics.publish(TASKS, TaskEvent(task=self.rows.pop(id_), deleted=True))

    def titles(self, owner: str | None = None) -> dict[str, str]:
        """Return the titles in the database."""
        return {row.id: row.title for row in self.rows.values() if owner in {None, row.owner}}

    def _app(self) -> FastAPI:
        house = self

        def live(owner: str | None, after: str | None) -> Any:
            return house.topics.live(
                TASKS,
                load=partial(house.load, owner),
                key=key_of,
                after=after,
                where=lambda change: not change.deleted and owner in {None, change.task.owner},
                scope=house.scope_of(),
                per_viewer=house.per_viewer,
            ).map(as_result)

        @strawberry.type
        class Query:
            hello: str = "world"

        @strawberry.type
        class Subscription:
            @strawberry.subscription
            async def tasks(
                self, owner: str | None = None, after: str | None = None
            ) -> AsyncIterator[LiveTasks]:
                return live(owner, after)  # type: ignore[no-any-return]

        schema = strawberry.Schema(
            Query, subscription=Subscription, extensions=list(self.extensions)
        )
        app = FastAPI()
        router = GraphQLRouter[None, None](
            schema,
            topics=self.topics,
            settings=self.settings,
            subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL),
        )
        app.include_router(router, prefix="/graphql")
        return app


def settings(**more: Any) -> Settings:
    """Return settings with a short history."""
    return Settings(
        jwt_secret=SecretStr(SECRET),
        history_length=10,
        **{"ack_interval": 0.01, **more},
    )


class Fold:
    """What a client has: three lines of code for any live list."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.snapshots = 0

    def take(self, data: Mapping[str, Any]) -> None:
        """Fold one result."""
        each = data["tasks"]
        if each["snapshot"] is not None:
            self.rows = {row["id"]: row["title"] for row in each["snapshot"]}
            self.snapshots += 1
        elif each["change"]["removed"]:
            self.rows.pop(each["change"]["key"], None)
        else:
            self.rows[each["change"]["key"]] = each["change"]["task"]["title"]


@asynccontextmanager
async def clients(house: House, token: str, count: int) -> AsyncIterator[list[Client]]:
    """Connect some clients."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(connect(house.app, token=token)) for _ in range(count)
        ]


async def folded(stream: Stream, fold: Fold, count: int = 1) -> Fold:
    """Fold the next results."""
    for result in await stream.take(count):
        fold.take(result.data)
    return fold
