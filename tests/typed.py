"""Code that mypy and pyright must accept: `make check` checks this file, no test runs it."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, assert_type

import strawberry

from gqlnotify import Change, Cursor, LiveList, Publisher, Snapshot, Topic, TopicManager


@dataclass
class Added:
    id: int


@dataclass
class Removed:
    id: int


CLASS = Topic("class", Added, latest_by=lambda added: added.id)
LISTED = Topic("listed", list[Added])
UNION = Topic[Added | Removed]("union", Added | Removed, latest_by=lambda change: change.id)
DECLARED: Topic[Added | Removed] = Topic("declared", Added | Removed)
NAMED = Topic[Added | Removed]("named", Annotated[Added | Removed, strawberry.union("Change")])
LOOSE = Topic("loose", Added | Removed)


def load() -> list[str]:
    """Return rows."""
    return []


async def load_later() -> list[str]:
    """Return rows."""
    return []


def follow(topics: TopicManager) -> None:
    """Follow live lists."""
    plain = topics.live(CLASS, load=load, key=lambda added: added.id)
    later = topics.live(CLASS, load=load_later, key=lambda added: added.id)
    assert_type(plain, LiveList[Snapshot[str] | Change[Added]])
    assert_type(later, LiveList[Snapshot[str] | Change[Added]])


async def publish(topics: TopicManager, publisher: Publisher) -> None:
    """Publish to each."""
    assert_type(CLASS, Topic[Added])
    assert_type(LISTED, Topic[list[Added]])
    assert_type(UNION, Topic[Added | Removed])
    assert_type(await topics.publish(UNION, Removed(1)), Cursor)
    await topics.publish(DECLARED, Added(1))
    await topics.publish(NAMED, Added(1))
    await topics.publish(LOOSE, Added(1))
    await topics.publish("by.name", {"id": 1})
    await publisher.publish(UNION, Added(1))
    await topics.publish("by.name", None)
    topics.publish_sync("by.name", [1])
    await asyncio.to_thread(topics.publish_sync, "by.name", [1])
    topics.publish_sync(CLASS, Removed(1))  # type: ignore[misc]
    publisher.publish_sync(CLASS, Removed(1))  # type: ignore[misc]
    await topics.publish(CLASS, Removed(1))  # type: ignore[misc]
    async for change in topics.subscribe(UNION):
        assert_type(change, Added | Removed)
