"""Subscriptions wait for a broker that can't be reached."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from gqlnotify import Subscription, TopicManager
from gqlnotify.errors import CursorExpired
from tests.bad_brokers import AnsweringLate, OutOfReach
from tests.streams import (
    NUMBERS,
    ended,
    leaving_nothing,
    publish_all,
    reading,
    started,
    take,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_linger")


@dataclass
class Waiting:
    """A subscription that waits for its broker, and the events that it has missed."""

    stream: Subscription[int]
    missed: list[int]


async def opening(broker: OutOfReach, manager: TopicManager) -> Waiting:
    broker.down = {"head"}
    return Waiting(manager.subscribe(NUMBERS), [])


async def opening_after_a_cursor(broker: OutOfReach, manager: TopicManager) -> Waiting:
    start = await manager.cursor(NUMBERS)
    broker.down = {"head", "read"}
    await publish_all(manager, range(20))
    return Waiting(manager.subscribe(NUMBERS, after=start), [*range(20)])


async def resuming(broker: OutOfReach, manager: TopicManager) -> Waiting:
    start = await manager.cursor(NUMBERS)
    await publish_all(manager, range(20))
    broker.down = {"read"}
    stream = await started(manager.subscribe(NUMBERS, after=start))
    return Waiting(stream, [*range(20)])


async def refilling(broker: OutOfReach, manager: TopicManager) -> Waiting:
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, range(20))
    broker.down = {"read"}
    return Waiting(stream, [*range(20)])


async def catching_up(broker: OutOfReach, manager: TopicManager) -> Waiting:
    stream = await started(manager.subscribe(NUMBERS))
    broker.down, broker.deaf = {"read"}, True
    await publish_all(manager, range(19))
    broker.deaf = False
    await publish_all(manager, [19])
    return Waiting(stream, [*range(20)])


async def finding_the_head_after_a_gap(broker: OutOfReach, manager: TopicManager) -> Waiting:
    stream = await started(manager.subscribe(NUMBERS))
    broker._histories.clear()
    broker.down = {"head"}
    await publish_all(manager, [0])
    return Waiting(stream, [])


Stage = Callable[[OutOfReach, TopicManager], Awaitable[Waiting]]
WHOLE: list[Stage] = [opening, opening_after_a_cursor, resuming, refilling, catching_up]
ALL: list[Stage] = [*WHOLE, finding_the_head_after_a_gap]


async def cancelled(task: "asyncio.Task[int]", stream: Subscription[int], _: TopicManager) -> None:
    task.cancel()
    await ended(task)
    await stream.aclose()


async def closed(_: "asyncio.Task[int]", stream: Subscription[int], __: TopicManager) -> None:
    await stream.aclose()


async def all_closed(_: "asyncio.Task[int]", __: Subscription[int], manager: TopicManager) -> None:
    await manager.close()


End = Callable[["asyncio.Task[int]", Subscription[int], TopicManager], Awaitable[None]]


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("stage", WHOLE)
async def test_a_subscription_waits_for_its_broker_and_misses_nothing(stage: Stage) -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        waiting = await stage(broker, manager)
        read = asyncio.create_task(take(waiting.stream, len(waiting.missed) + 2))
        await wait_until(lambda: broker.failed > 2)
        assert not read.done()

        broker.down.clear()
        await wait_until(lambda: waiting.stream.subscriber.started)
        await publish_all(manager, [100, 101])
        assert await read == [*waiting.missed, 100, 101]
        await waiting.stream.aclose()


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("stage", ALL)
@pytest.mark.parametrize("end", [cancelled, closed, all_closed])
async def test_a_subscription_that_waits_for_its_broker_can_end_at_once(
    stage: Stage, end: End
) -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        waiting = await stage(broker, manager)
        read = asyncio.create_task(waiting.stream.__anext__())
        await wait_until(lambda: broker.failed > 2)
        assert not read.done()

        await end(read, waiting.stream, manager)
        await ended(read)


async def replaying(manager: TopicManager) -> Subscription[int]:
    cursors = await publish_all(manager, range(2))
    return manager.subscribe(NUMBERS, after=cursors[0])


async def lagging(manager: TopicManager) -> Subscription[int]:
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, range(20))
    return stream


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("begin", [replaying, lagging])
@pytest.mark.parametrize("end", [cancelled, closed, all_closed])
async def test_a_subscription_that_ends_before_its_read_fails_leaves_nothing(
    begin: Callable[[TopicManager], Awaitable[Subscription[int]]], end: End
) -> None:
    broker = AnsweringLate("read")
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await begin(manager)
        read = asyncio.create_task(stream.__anext__())
        await wait_until(lambda: broker.held)
        broker.down = {"read"}
        await end(read, stream, manager)
        broker.answer.set()
        await ended(read)


@pytest.mark.usefixtures("small_buffers")
async def test_all_subscribers_that_wait_for_a_topic_to_open_can_join() -> None:
    broker = OutOfReach("head")
    async with leaving_nothing(TopicManager(broker)) as manager:
        streams = [manager.subscribe(NUMBERS) for _ in range(3)]
        starts = [asyncio.create_task(stream.start()) for stream in streams]
        await wait_until(lambda: broker.failed > 2)
        starts[0].cancel()
        broker.down.clear()
        await asyncio.gather(*starts[1:])

        await publish_all(manager, [1])
        for stream in streams[1:]:
            assert await take(stream, 1) == [1]
            await stream.aclose()


@pytest.mark.usefixtures("small_buffers")
async def test_each_attempt_to_reach_the_broker_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    broker = OutOfReach("head")
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = manager.subscribe(NUMBERS)
        starting = asyncio.create_task(stream.start())
        await wait_until(lambda: broker.failed > 2)
        broker.down.clear()
        await starting
        await stream.aclose()

    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == broker.failed
    assert all("'numbers'" in line and "No head" in line for line in lines)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("after", ["1-1", "9999999999999-1"])
async def test_an_expired_cursor_is_reported_as_soon_as_the_broker_is_back(after: str) -> None:
    broker = OutOfReach("read")
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS, after=after))
        waiting = asyncio.create_task(anext(stream))
        await wait_until(lambda: broker.failed > 2)
        assert not waiting.done()

        broker.down.clear()
        with pytest.raises(CursorExpired):
            await waiting
        await stream.aclose()


@pytest.mark.usefixtures("small_buffers")
async def test_a_new_history_is_found_as_soon_as_the_broker_is_back() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        old = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        assert await take(old, 1) == [1]
        waiting = await reading(old)
        broker._histories.clear()
        broker.down = {"head"}
        await publish_all(manager, [2])
        await wait_until(lambda: broker.failed > 2)
        assert not waiting.done()

        broker.down.clear()
        with pytest.raises(CursorExpired):
            await waiting
        await old.aclose()


@pytest.mark.usefixtures("small_buffers")
async def test_a_topic_that_closed_while_catching_up_catches_up_when_it_reopens() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        waiting = await catching_up(broker, manager)
        await wait_until(lambda: broker.failed > 1)
        start = str(waiting.stream.subscriber.position)
        await waiting.stream.aclose()
        await wait_until(lambda: not manager.live_topics.by_name)

        broker.down.clear()
        back = manager.subscribe(NUMBERS, after=start)
        assert await take(back, 20) == waiting.missed
        await back.aclose()
