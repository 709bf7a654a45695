"""Subscribers that lag, and subscriptions that are dropped without being closed."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from gqlnotify import Settings, Subscription, TopicManager
from gqlnotify.brokers import MemoryBroker
from gqlnotify.errors import (
    CursorExpired,
)
from tests.streams import (
    NUMBERS,
    leaving_nothing,
    publish_all,
    started,
    take,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_linger")


# slow subscribers


@pytest.mark.usefixtures("small_buffers")
async def test_a_subscriber_that_lags_beyond_the_buffer_reads_the_history(
    manager: TopicManager,
) -> None:
    slow, fast = [await started(manager.subscribe(NUMBERS)) for _ in range(2)]
    for number in range(50):
        await manager.publish(NUMBERS, number)
        assert await take(fast, 1) == [number]

    assert await take(slow, 50) == list(range(50))


@pytest.mark.usefixtures("small_buffers")
async def test_a_subscriber_that_lags_beyond_the_history_gets_cursor_expired() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker(length=20))) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, range(5))
        assert await take(stream, 2) == [0, 1]
        await publish_all(manager, range(5, 50))

        with pytest.raises(CursorExpired):
            await take(stream, 1)
        await stream.aclose()


@pytest.mark.usefixtures("small_buffers")
async def test_a_subscriber_with_an_expired_cursor_gets_no_later_event() -> None:
    manager = TopicManager(MemoryBroker(length=20))
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, range(50))
    for _ in range(3):
        with pytest.raises(CursorExpired):
            await take(stream, 1)
    await manager.close()


async def test_an_event_that_was_not_taken_costs_a_subscriber_no_memory(
    manager: TopicManager,
) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, range(100))

    assert not stream.subscriber._backlog


# dropped subscriptions


def subscribers_of(manager: TopicManager) -> int:
    return sum(manager.readers.values())


async def own_generator(manager: TopicManager) -> AsyncIterator[int]:
    async for number in manager.subscribe(NUMBERS):
        yield number


async def leave_a_generator(manager: TopicManager) -> None:
    numbers = own_generator(manager)
    reading = asyncio.ensure_future(anext(numbers))
    await wait_until(lambda: subscribers_of(manager))
    await manager.publish(NUMBERS, 1)
    await reading
    await numbers.aclose()  # type: ignore[attr-defined]


async def break_a_loop(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    await manager.publish(NUMBERS, 1)
    async for _ in stream:
        break


async def fail_in_a_loop(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    await manager.publish(NUMBERS, 1)
    with suppress(ZeroDivisionError):
        async for _ in stream:
            raise ZeroDivisionError


async def cancel_a_task(manager: TopicManager) -> None:
    reading = asyncio.create_task(take(manager.subscribe(NUMBERS), 1))
    await wait_until(lambda: subscribers_of(manager))
    reading.cancel()
    await asyncio.wait([reading])


async def drop_after_the_start(manager: TopicManager) -> None:
    await started(manager.subscribe(NUMBERS))


async def drop_a_mapped_one(manager: TopicManager) -> None:
    await started(manager.subscribe(NUMBERS).map(lambda value, _: value).map(lambda v, _: v))


async def drop_a_cycle(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    stream.itself = stream  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "leave",
    [
        leave_a_generator,
        break_a_loop,
        fail_in_a_loop,
        cancel_a_task,
        drop_after_the_start,
        drop_a_mapped_one,
        drop_a_cycle,
    ],
)
async def test_a_dropped_subscription_leaves_its_topic(
    manager: TopicManager, leave: Callable[[TopicManager], Any]
) -> None:
    await leave(manager)
    gc.collect()

    assert subscribers_of(manager) == 0


async def test_dropped_subscriptions_leave_without_the_garbage_collector(
    manager: TopicManager,
) -> None:
    gc.disable()
    try:
        for _ in range(1000):
            await break_a_loop(manager)
        assert subscribers_of(manager) == 0
    finally:
        gc.enable()


async def test_a_publish_wakes_only_subscribers_that_remain(manager: TopicManager) -> None:
    stays = await started(manager.subscribe(NUMBERS))
    live_topic = manager.live_topics.by_name[NUMBERS.name]
    for _ in range(100):
        gone = asyncio.ensure_future(anext(await started(manager.subscribe(NUMBERS))))
        await wait_until(lambda: live_topic._listeners)
        gone.cancel()
        await asyncio.wait([gone])
    del gone
    gc.collect()

    reading = asyncio.ensure_future(anext(stays))
    await wait_until(lambda: live_topic._listeners)
    assert len(live_topic._listeners) == len(live_topic.subscribers) == 1
    reading.cancel()
    await asyncio.wait([reading])


async def test_a_topic_closes_after_its_last_subscription_was_dropped() -> None:
    manager = TopicManager(MemoryBroker(), settings=Settings(topic_linger=0))
    await drop_after_the_start(manager)

    await wait_until(lambda: not manager.live_topics.by_name)
    await manager.close()


async def test_another_thread_can_collect_a_subscription() -> None:
    manager = TopicManager(MemoryBroker(), settings=Settings(topic_linger=0))
    await drop_a_cycle(manager)
    await asyncio.to_thread(gc.collect)

    await wait_until(lambda: not manager.live_topics.by_name)
    await manager.close()


async def test_a_waiting_task_without_other_references_is_not_collected(
    manager: TopicManager,
) -> None:
    got: list[int] = []

    async def read() -> None:
        got.extend(await take(manager.subscribe(NUMBERS), 1))

    # Nothing refers to the task: asyncio itself has only a weak reference.
    asyncio.create_task(read())  # noqa: RUF006
    await wait_until(lambda: subscribers_of(manager))
    gc.collect()
    await manager.publish(NUMBERS, 1)

    await wait_until(lambda: got == [1])


def test_a_subscription_can_outlive_its_event_loop() -> None:
    manager = TopicManager(MemoryBroker())

    async def begin() -> Any:
        return await started(manager.subscribe(NUMBERS))

    stream = asyncio.run(begin())
    del stream
    gc.collect()


class Reader:
    """Keeps the subscriber that wakes it."""

    def __init__(self, stream: Subscription[Any]) -> None:
        self.subscriber = stream.subscriber.fork(on_wake=self.wake)

    def wake(self) -> None:
        """Read what there is."""


async def test_a_closed_subscriber_lets_its_reader_be_freed_at_once(manager: TopicManager) -> None:
    reader = Reader(await started(manager.subscribe(NUMBERS)))
    freed = weakref.ref(reader)
    gc.disable()
    reader.subscriber.close()
    del reader
    gc.enable()
    assert freed() is None
