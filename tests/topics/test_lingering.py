"""A topic stays open for a while after its last subscriber left."""

import asyncio
import random

import pytest

from gqlnotify import Settings, Subscription, TopicManager
from gqlnotify.brokers import Broker, MemoryBroker
from tests.bad_brokers import OutOfReach, pause
from tests.streams import (
    NUMBERS,
    leaving_nothing,
    publish_all,
    started,
    take,
)
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.usefixtures("no_linger")

A_WHILE = 0.05


def lingering(broker: Broker, seconds: float) -> TopicManager:
    return TopicManager(broker, settings=Settings(topic_linger=seconds))


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_topic_stays_open_for_topic_linger_after_the_last_subscriber_left() -> None:
    broker = OutOfReach()
    async with leaving_nothing(lingering(broker, A_WHILE)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        left = now()
        await stream.aclose()
        await publish_all(manager, [1])
        assert manager.live_topics.by_name[NUMBERS.name].buffer.last.seq == 1

        await wait_until(lambda: broker.calls["unsubscribe"])
        assert now() - left >= A_WHILE


async def test_resuming_in_a_lingering_topic_needs_no_call_to_the_broker() -> None:
    broker = OutOfReach()
    manager = lingering(broker, 3600)
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, [1])
    assert await take(stream, 1) == [1]
    await stream.aclose()
    await publish_all(manager, [2, 3])
    broker.calls.clear()

    back = manager.subscribe(NUMBERS, after=str(stream.cursor))
    assert await take(back, 2) == [2, 3]
    assert not broker.calls
    await manager.close()


async def test_a_new_subscriber_keeps_the_topic_open_and_restarts_the_linger_time() -> None:
    broker = OutOfReach()
    async with leaving_nothing(lingering(broker, A_WHILE)) as manager:
        first = await started(manager.subscribe(NUMBERS))
        await first.aclose()
        await pause(3)
        back = await started(manager.subscribe(NUMBERS))
        due = now() + A_WHILE
        await wait_until(lambda: now() > due)
        assert not broker.calls["unsubscribe"]
        await publish_all(manager, [1])
        assert await take(back, 1) == [1]

        left = now()
        await back.aclose()
        await wait_until(lambda: broker.calls["unsubscribe"])
        assert now() - left >= A_WHILE


async def test_each_subscriber_that_leaves_restarts_the_linger_time() -> None:
    broker = OutOfReach()
    async with leaving_nothing(lingering(broker, A_WHILE)) as manager:
        for _ in range(2):
            stream = await started(manager.subscribe(NUMBERS))
            left = now()
            await stream.aclose()
            await wait_until(lambda left=left: now() > left + A_WHILE / 2)

        await wait_until(lambda: broker.calls["unsubscribe"])
        assert now() - left >= A_WHILE
        assert broker.calls["subscribe"] == 1


@pytest.mark.usefixtures("small_buffers")
async def test_resuming_in_a_lingering_topic_beyond_its_buffer_reads_the_history() -> None:
    manager = lingering(MemoryBroker(), 3600)
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, [0])
    assert await take(stream, 1) == [0]
    await stream.aclose()
    await publish_all(manager, range(1, 30))

    assert await take(manager.subscribe(NUMBERS, after=str(stream.cursor)), 29) == [*range(1, 30)]
    await manager.close()


async def test_close_does_not_wait_until_a_topic_has_lingered() -> None:
    tasks = asyncio.all_tasks()
    manager = lingering(MemoryBroker(), 3600)
    stream = await started(manager.subscribe(NUMBERS))
    await stream.aclose()
    await manager.close()

    await wait_until(lambda: asyncio.all_tasks() <= tasks)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("seed", range(10))
async def test_subscribers_that_resume_while_the_topic_opens_and_closes_miss_nothing(
    seed: int,
) -> None:
    chance = random.Random(seed)
    count = 100

    class TakingItsTime(OutOfReach):
        async def _call(self, method: str) -> None:
            await pause(chance.randrange(4))
            await super()._call(method)

    async def take_into(got: list[int], stream: Subscription[int]) -> None:
        async for number in stream:
            got.append(number)  # noqa: PERF401 - what was taken before a cancel counts as well

    async def resume_until_the_end(manager: TopicManager, after: str) -> list[int]:
        got = list[int]()
        while count not in got:
            stream = manager.subscribe(NUMBERS, after=after)
            reads = asyncio.create_task(take_into(got, stream))
            await pause(chance.randrange(30))
            reads.cancel()
            await asyncio.wait([reads])
            after = str(stream.cursor or after)
            await stream.aclose()
            await pause(chance.randrange(6))
        return got

    manager = lingering(TakingItsTime(), chance.choice([0, 0.0005]))
    async with leaving_nothing(manager):
        start = await manager.cursor(NUMBERS)
        subscribers = [asyncio.create_task(resume_until_the_end(manager, start)) for _ in range(2)]
        for number in range(count + 1):
            await manager.publish(NUMBERS, number)
            await pause(chance.randrange(4))
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(*subscribers) == [[*range(count + 1)]] * 2
