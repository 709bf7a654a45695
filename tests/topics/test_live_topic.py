"""How a topic opens, closes and catches up."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from gqlnotify import Cursor, Event, Settings, Subscription, TopicManager
from gqlnotify.brokers import Broker, MemoryBroker
from gqlnotify.errors import BrokerUnavailable
from gqlnotify.topics.live_topic import LiveTopic
from tests.bad_brokers import AnsweringLate, LosingItsData, OutOfReach, pause
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


def lingering(broker: Broker, seconds: float) -> TopicManager:
    return TopicManager(broker, settings=Settings(topic_linger=seconds))


# opening


@pytest.mark.parametrize("method", ["start", "subscribe", "head"])
async def test_aclose_during_the_start_leaves_nothing(method: str) -> None:
    broker = AnsweringLate(method)
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = manager.subscribe(NUMBERS)
        waiting = asyncio.create_task(anext(stream))
        await wait_until(lambda: broker.held)
        await stream.aclose()
        broker.answer.set()

        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_aclose_during_the_replay_leaves_nothing() -> None:
    broker = AnsweringLate("read")
    async with leaving_nothing(TopicManager(broker)) as manager:
        cursors = await publish_all(manager, [1, 2])
        stream = manager.subscribe(NUMBERS, after=cursors[0])
        waiting = asyncio.create_task(anext(stream))
        await wait_until(lambda: broker.held)
        await stream.aclose()
        broker.answer.set()

        with pytest.raises(StopAsyncIteration):
            await waiting


@pytest.mark.parametrize("method", ["start", "subscribe", "head", "read"])
async def test_a_start_that_is_cancelled_leaves_nothing(method: str) -> None:
    broker = AnsweringLate(method)
    async with leaving_nothing(TopicManager(broker)) as manager:
        starting = asyncio.create_task(manager.subscribe(NUMBERS, after="1-1").start())
        await wait_until(lambda: broker.held)
        starting.cancel()

        with pytest.raises(asyncio.CancelledError):
            await starting


async def test_a_start_that_is_cancelled_before_the_broker_confirmed_leaves_nothing() -> None:
    class ConfirmingLate(MemoryBroker):
        async def subscribe(self, topic: str) -> None:
            await super().subscribe(topic)
            await asyncio.Event().wait()

    broker = ConfirmingLate()
    async with leaving_nothing(TopicManager(broker)) as manager:
        starting = asyncio.create_task(manager.subscribe(NUMBERS).start())
        await wait_until(lambda: broker._subscribed)
        starting.cancel()
        await ended(starting)


@pytest.mark.parametrize("method", ["start", "subscribe", "head"])
async def test_a_cancelled_start_does_not_affect_others_that_open_the_topic(
    method: str,
) -> None:
    broker = AnsweringLate(method)
    async with leaving_nothing(TopicManager(broker)) as manager:
        streams = [manager.subscribe(NUMBERS) for _ in range(3)]
        starts = [asyncio.create_task(stream.start()) for stream in streams]
        await wait_until(lambda: broker.held)
        starts[0].cancel()
        await wait_until(starts[0].done)
        broker.answer.set()
        await asyncio.gather(*starts[1:])

        await publish_all(manager, [1])
        for stream in streams[1:]:
            assert await take(stream, 1) == [1]
            await stream.aclose()


@pytest.mark.parametrize("method", ["start", "subscribe"])
async def test_a_topic_that_failed_to_open_leaves_nothing_and_can_be_retried(
    method: str,
) -> None:
    broker = OutOfReach(method)
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = manager.subscribe(NUMBERS)
        with pytest.raises(BrokerUnavailable):
            await stream.start()
        await wait_until(lambda: not manager.live_topics.by_name)

        broker.down.clear()
        await stream.start()
        await publish_all(manager, [1])
        assert await take(stream, 1) == [1]
        await stream.aclose()


async def test_an_event_that_arrives_while_the_topic_opens_is_delivered() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        start = await manager.cursor(NUMBERS)
        stream = manager.subscribe(NUMBERS, after=start)
        broker.hold_one_answer = True
        waiting = asyncio.create_task(anext(stream))
        await wait_until(lambda: not broker.hold_one_answer)
        await publish_all(manager, [1])
        broker.answer.set()

        assert await waiting == 1
        await stream.aclose()


async def test_a_possible_gap_while_the_topic_opens_is_checked() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        start = await manager.cursor(NUMBERS)
        stream = manager.subscribe(NUMBERS, after=start)
        broker.hold_one_answer = broker.deaf = True
        waiting = asyncio.create_task(anext(stream))
        await wait_until(lambda: not broker.hold_one_answer)
        await publish_all(manager, [1])
        broker.on_possible_gap(NUMBERS.name)
        broker.answer.set()

        live_topic = manager.live_topics.by_name[NUMBERS.name]
        await wait_until(lambda: live_topic.buffer.last.seq == 1)
        assert await waiting == 1
        await stream.aclose()


# closing


async def test_nothing_remains_after_the_last_subscriber_leaves() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        streams = [await started(manager.subscribe(NUMBERS)) for _ in range(3)]
        for stream in streams:
            assert manager.live_topics.by_name
            assert not broker.calls["unsubscribe"]
            await stream.aclose()
        await wait_until(lambda: not manager.live_topics.by_name)
        assert broker.calls["unsubscribe"] == 1
        await publish_all(manager, [1])


async def test_a_subscriber_after_the_last_one_left_gets_every_event() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        for number in range(3):
            stream = await started(manager.subscribe(NUMBERS))
            await publish_all(manager, [number])
            assert await take(stream, 1) == [number]
            await stream.aclose()


@asynccontextmanager
async def closing(broker: AnsweringLate) -> AsyncIterator[tuple[TopicManager, Cursor]]:
    """Yield a manager whose topic closes until `broker.answer` is set, and its newest cursor."""
    async with leaving_nothing(TopicManager(broker)) as manager:
        last = await started(manager.subscribe(NUMBERS))
        [cursor] = await publish_all(manager, [1])
        await last.aclose()
        await wait_until(lambda: broker.held)
        yield manager, cursor


async def assert_gets_the_next_event(
    manager: TopicManager, subscription: Subscription[int]
) -> None:
    await publish_all(manager, [2])
    assert await take(subscription, 1) == [2]
    await subscription.aclose()


async def test_a_subscriber_that_joins_while_the_topic_closes_gets_every_event() -> None:
    broker = AnsweringLate("unsubscribe")
    async with closing(broker) as (manager, _):
        joining = asyncio.create_task(started(manager.subscribe(NUMBERS)))
        await pause(3)
        broker.answer.set()

        await assert_gets_the_next_event(manager, await joining)


async def test_a_subscriber_that_resumes_while_the_topic_closes_misses_nothing() -> None:
    broker = AnsweringLate("unsubscribe")
    async with closing(broker) as (manager, cursor):
        resumed = manager.subscribe(NUMBERS, after=cursor)
        waiting = asyncio.create_task(take(resumed, 3))
        await publish_all(manager, [2])
        await pause(3)
        broker.answer.set()
        await publish_all(manager, [3])
        await wait_until(lambda: resumed.subscriber.waiting)
        await publish_all(manager, [4])

        assert await waiting == [2, 3, 4]
        await resumed.aclose()


async def test_an_event_that_arrives_while_a_closed_topic_reopens_is_delivered() -> None:
    class UnsubscribingLate(LosingItsData):
        async def unsubscribe(self, topic: str) -> None:
            await unsubscribed.wait()
            await super().unsubscribe(topic)

    unsubscribed, broker = asyncio.Event(), UnsubscribingLate()
    async with leaving_nothing(TopicManager(broker)) as manager:
        last = await started(manager.subscribe(NUMBERS))
        cursors = await publish_all(manager, [1])
        await last.aclose()
        await wait_until(lambda: not manager.live_topics.by_name[NUMBERS.name]._ready)
        resumed = manager.subscribe(NUMBERS, after=cursors[0])
        waiting = asyncio.create_task(take(resumed, 1))
        await pause(3)
        broker.hold_one_answer = True
        unsubscribed.set()
        await wait_until(lambda: not broker.hold_one_answer)
        # The head was read before this event, and is answered after it.
        await publish_all(manager, [2])
        broker.answer.set()

        assert await waiting == [2]
        await resumed.aclose()


async def test_a_start_cancelled_while_the_topic_closes_does_not_affect_the_next_one() -> None:
    broker = AnsweringLate("unsubscribe")
    async with closing(broker) as (manager, _):
        cancelled = asyncio.create_task(manager.subscribe(NUMBERS).start())
        await pause(3)
        cancelled.cancel()
        await pause(3)
        joining = asyncio.create_task(started(manager.subscribe(NUMBERS)))
        await pause(3)
        broker.answer.set()
        await ended(cancelled)

        await assert_gets_the_next_event(manager, await joining)


async def test_a_start_cancelled_while_the_topic_closes_leaves_nothing() -> None:
    broker = AnsweringLate("unsubscribe")
    async with closing(broker) as (manager, _):
        cancelled = asyncio.create_task(manager.subscribe(NUMBERS).start())
        await pause(3)
        cancelled.cancel()
        await ended(cancelled)
        broker.answer.set()


@pytest.mark.usefixtures("small_buffers")
async def test_the_last_subscriber_to_leave_stops_catching_up() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        broker.down = {"read"}
        broker.on_possible_gap(NUMBERS.name)
        await wait_until(lambda: broker.failed > 1)
        await stream.aclose()


async def test_a_topic_that_reopened_while_a_read_was_cancelled_catches_up() -> None:
    class CancellingSlowly(LosingItsData):
        async def unsubscribe(self, topic: str) -> None:
            await left.wait()
            await super().unsubscribe(topic)

        async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
            try:
                return await super().read(topic, after, limit)
            except asyncio.CancelledError:
                await may_cancel.wait()
                raise

    left, may_cancel = asyncio.Event(), asyncio.Event()
    broker = CancellingSlowly()
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        broker.hold_one_answer = True
        broker.on_possible_gap(NUMBERS.name)
        await wait_until(lambda: not broker.hold_one_answer)
        await stream.aclose()
        await pause(3)
        back = manager.subscribe(NUMBERS)
        starting = asyncio.create_task(back.start())
        broker.hold_one_answer = broker.deaf = True
        left.set()
        await wait_until(lambda: not broker.hold_one_answer)
        await publish_all(manager, [1])
        broker.on_possible_gap(NUMBERS.name)
        broker.answer.set()
        await starting

        assert await take(back, 1) == [1]
        may_cancel.set()
        await back.aclose()


# possible gaps


async def test_a_possible_gap_brings_dropped_events_though_no_event_follows() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        waiting = await reading(stream)
        broker.deaf = True
        await publish_all(manager, [1, 2])
        await pause(10)
        assert not waiting.done()

        broker.on_possible_gap(NUMBERS.name)
        assert [await waiting, *await take(stream, 1)] == [1, 2]
        await stream.aclose()


async def test_a_possible_gap_while_the_history_is_read_reads_it_again() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        broker.deaf = broker.hold_one_answer = True
        broker.on_possible_gap(NUMBERS.name)
        await wait_until(lambda: not broker.hold_one_answer)
        await publish_all(manager, [1])
        broker.on_possible_gap(NUMBERS.name)
        broker.answer.set()

        assert await take(stream, 1) == [1]
        await stream.aclose()


async def test_a_possible_gap_keeps_the_buffer_of_a_lingering_topic_complete() -> None:
    broker = OutOfReach()
    manager = lingering(broker, 3600)
    stream = await started(manager.subscribe(NUMBERS))
    cursor = str(stream.subscriber.position)
    await stream.aclose()
    broker.deaf = True
    await publish_all(manager, [1, 2])
    broker.on_possible_gap(NUMBERS.name)
    live_topic = manager.live_topics.by_name[NUMBERS.name]
    await wait_until(lambda: live_topic.buffer.last.seq == 2)

    broker.down = {"read"}
    assert await take(manager.subscribe(NUMBERS, after=cursor), 2) == [1, 2]
    await manager.close()


@pytest.mark.usefixtures("small_buffers")
async def test_a_replay_reveals_dropped_events_to_the_others() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        start = await manager.cursor(NUMBERS)
        await publish_all(manager, [0])
        other = await started(manager.subscribe(NUMBERS))
        broker.deaf = True
        await publish_all(manager, range(1, 20))

        resumed = manager.subscribe(NUMBERS, after=start)
        assert await take(resumed, 20) == [*range(20)]
        assert await take(other, 19) == [*range(1, 20)]
        for stream in (resumed, other):
            await stream.aclose()


async def test_a_possible_gap_of_a_topic_without_subscribers_reads_nothing() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        await manager.start()
        broker.calls.clear()
        broker.on_possible_gap(NUMBERS.name)

        await pause(3)
        assert not broker.calls


async def test_a_possible_gap_that_was_none_disturbs_no_subscriber() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        broker.on_possible_gap(NUMBERS.name)
        await wait_until(lambda: broker.calls["read"])
        await publish_all(manager, [2])

        assert await take(stream, 2) == [1, 2]
        await stream.aclose()


async def test_a_possible_gap_in_the_same_tick_does_not_undo_a_cancel() -> None:
    class Away(MemoryBroker):
        reads = 0

        async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
            self.reads += 1
            raise BrokerUnavailable("away")

    broker = Away()
    await broker.start(lambda _event: None, lambda _topic: None)
    before = asyncio.all_tasks()
    topic = LiveTopic("numbers", broker)
    await topic.open()
    topic.refresh()
    await wait_until(lambda: broker.reads == 1)
    topic.refresh()
    topic.cancel()
    await wait_until(lambda: asyncio.all_tasks() <= before)
    assert broker.reads == 1


# clients that resume after the same cursor


class CountingReads(MemoryBroker):
    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
        self.reads += 1
        return await super().read(topic, after, limit)


async def test_only_the_first_that_resumes_from_before_the_buffer_reads_the_history() -> None:
    broker = CountingReads()
    async with leaving_nothing(TopicManager(broker)) as manager:
        cursors = await publish_all(manager, range(6))
        first = await started(manager.subscribe(NUMBERS, after=cursors[0]))
        await publish_all(manager, [6])
        others = [
            await started(manager.subscribe(NUMBERS, after=after)) for after in cursors[:3] * 2
        ]

        assert broker.reads == 1
        assert await take(first, 6) == [1, 2, 3, 4, 5, 6]
        for begin, stream in zip((1, 2, 3) * 2, others, strict=True):
            assert await take(stream, 7 - begin) == list(range(begin, 7))
            await stream.aclose()
        await first.aclose()
