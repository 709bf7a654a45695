"""Helpers for the tests of topics and their subscriptions."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gqlnotify import Cursor, Principal, Subscription, Topic, TopicManager
from gqlnotify.auth import Viewer
from tests.waiting import PATIENCE, wait_until

NUMBERS = Topic("numbers", int)


@dataclass(frozen=True)
class Tally:
    """How a stream of numbers differs from the expected one."""

    lost: int
    repeated: int
    reordered: int

    @classmethod
    def of(cls, got: Sequence[int], expected: Sequence[int]) -> "Tally":
        return cls(
            lost=len(set(expected) - set(got)),
            repeated=len(got) - len(set(got)),
            reordered=sum(a > b for a, b in pairwise(got)),
        )


PERFECT = Tally(0, 0, 0)


def viewer(*, subscribe: Sequence[str] = (), publish: Sequence[str] = ()) -> Viewer:
    """Return a viewer with these rights."""
    return Viewer(Principal("alice", subscribe=tuple(subscribe), publish=tuple(publish)))


async def take(stream: Subscription[Any], count: int) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(stream) for _ in range(count)]


async def take_until(stream: Subscription[int], last: int) -> list[int]:
    got = list[int]()
    async with asyncio.timeout(PATIENCE):
        async for number in stream:
            got.append(number)
            if number == last:
                break
    return got


async def publish_all(manager: TopicManager, numbers: Iterable[int]) -> list[Cursor]:
    return [await manager.publish(NUMBERS, number) for number in numbers]


async def started(stream: Subscription[Any]) -> Subscription[Any]:
    await stream.start()
    return stream


async def reading(stream: Subscription[Any]) -> "asyncio.Task[Any]":
    """Return a task that waits for the stream's next value."""
    task = asyncio.create_task(anext(stream))
    await wait_until(lambda: stream.subscriber.waiting or task.done())
    return task


async def ended(task: "asyncio.Task[Any]") -> None:
    """Return once the task has ended, also by an error.

    Raises:
        TimeoutError: it did not.
    """
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def leaving_nothing(manager: TopicManager) -> AsyncIterator[TopicManager]:
    """Expect that the manager has no live topic, task or broker subscription left at the end."""
    tasks = asyncio.all_tasks()
    yield manager
    await wait_until(lambda: not manager.live_topics.by_name)
    await wait_until(lambda: asyncio.all_tasks() <= tasks)
    assert not manager._broker._subscribed  # type: ignore[attr-defined]
    await manager.close()
