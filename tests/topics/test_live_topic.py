import asyncio
from collections.abc import Sequence

import pytest

from gqlnotify import Cursor, Event, Settings, TopicManager
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
async def test_one_that_gives_up_while_the_topic_opens_does_not_hurt_the_others(
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
async def test_a_topic_that_could_not_be_opened_leaves_nothing_and_can_be_tried_again(
    method: str,
) -> None:
    broker = OutOfReach(method)
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = manager.subscribe(NUMBERS)
        with pytest.raises(BrokerUnavailable):
            await stream.start()
        await wait_until(lambda: not manager._live_topics)

        broker.down.clear()
        await stream.start()
        await publish_all(manager, [1])
        assert await take(stream, 1) == [1]
        await stream.aclose()


async def test_what_arrives_while_the_topic_opens_is_not_overlooked() -> None:
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


async def test_a_recheck_while_the_topic_opens_is_not_overlooked() -> None:
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

        live_topic = manager._live_topics[NUMBERS.name]
        await wait_until(lambda: live_topic.buffer.last.seq == 1)
        assert await waiting == 1
        await stream.aclose()


# leaving


async def test_nothing_is_left_over_after_the_last_subscriber_leaves() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        streams = [await started(manager.subscribe(NUMBERS)) for _ in range(3)]
        for stream in streams:
            assert manager._live_topics
            assert not broker.calls["unsubscribe"]
            await stream.aclose()
        await wait_until(lambda: not manager._live_topics)
        assert broker.calls["unsubscribe"] == 1
        await publish_all(manager, [1])


async def test_who_comes_after_the_last_one_left_hears_everything() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        for number in range(3):
            stream = await started(manager.subscribe(NUMBERS))
            await publish_all(manager, [number])
            assert await take(stream, 1) == [number]
            await stream.aclose()


async def test_who_comes_while_the_last_one_leaves_hears_everything() -> None:
    broker = AnsweringLate("unsubscribe")
    async with leaving_nothing(TopicManager(broker)) as manager:
        drainable = await started(manager.subscribe(NUMBERS))
        await drainable.aclose()
        await wait_until(lambda: broker.held)
        coming = asyncio.create_task(started(manager.subscribe(NUMBERS)))
        await pause(3)
        broker.answer.set()
        subscriber = await coming

        await publish_all(manager, [1])
        assert await take(subscriber, 1) == [1]
        await subscriber.aclose()


async def test_who_resumes_while_the_last_one_leaves_misses_nothing() -> None:
    broker = AnsweringLate("unsubscribe")
    async with leaving_nothing(TopicManager(broker)) as manager:
        drainable = await started(manager.subscribe(NUMBERS))
        cursors = await publish_all(manager, [1])
        assert await take(drainable, 1) == [1]
        await drainable.aclose()
        await wait_until(lambda: broker.held)
        subscriber = manager.subscribe(NUMBERS, after=cursors[0])
        waiting = asyncio.create_task(take(subscriber, 3))
        await publish_all(manager, [2])
        await pause(3)
        broker.answer.set()
        await publish_all(manager, [3])
        await wait_until(lambda: subscriber.subscriber.waiting)
        await publish_all(manager, [4])

        assert await waiting == [2, 3, 4]
        await subscriber.aclose()


async def test_what_arrives_while_a_topic_that_just_closed_opens_again_is_not_overlooked() -> None:
    class LeavingLate(LosingItsData):
        async def unsubscribe(self, topic: str) -> None:
            await left.wait()
            await super().unsubscribe(topic)

    left, broker = asyncio.Event(), LeavingLate()
    async with leaving_nothing(TopicManager(broker)) as manager:
        drainable = await started(manager.subscribe(NUMBERS))
        cursors = await publish_all(manager, [1])
        await drainable.aclose()
        await wait_until(lambda: not manager._live_topics[NUMBERS.name]._ready)
        subscriber = manager.subscribe(NUMBERS, after=cursors[0])
        waiting = asyncio.create_task(take(subscriber, 1))
        await pause(3)
        broker.hold_one_answer = True
        left.set()
        await wait_until(lambda: not broker.hold_one_answer)
        # The head was asked for before this one, and is answered after it.
        await publish_all(manager, [2])
        broker.answer.set()

        assert await waiting == [2]
        await subscriber.aclose()


async def test_one_that_gives_up_while_the_last_one_leaves_does_not_hurt_who_comes_next() -> None:
    broker = AnsweringLate("unsubscribe")
    async with leaving_nothing(TopicManager(broker)) as manager:
        drainable = await started(manager.subscribe(NUMBERS))
        await drainable.aclose()
        await wait_until(lambda: broker.held)
        giving_up = asyncio.create_task(manager.subscribe(NUMBERS).start())
        await pause(3)
        giving_up.cancel()
        await pause(3)
        coming = asyncio.create_task(started(manager.subscribe(NUMBERS)))
        await pause(3)
        broker.answer.set()
        await asyncio.wait([giving_up])
        subscriber = await coming

        await publish_all(manager, [1])
        assert await take(subscriber, 1) == [1]
        await subscriber.aclose()


async def test_one_that_gives_up_while_the_last_one_leaves_leaves_nothing_either() -> None:
    broker = AnsweringLate("unsubscribe")
    async with leaving_nothing(TopicManager(broker)) as manager:
        drainable = await started(manager.subscribe(NUMBERS))
        await drainable.aclose()
        await wait_until(lambda: broker.held)
        giving_up = asyncio.create_task(manager.subscribe(NUMBERS).start())
        await pause(3)
        giving_up.cancel()
        await ended(giving_up)
        broker.answer.set()


@pytest.mark.usefixtures("small_buffers")
async def test_leaving_while_the_topic_catches_up_stops_it() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        broker.down = {"read"}
        broker.on_possible_gap(NUMBERS.name)
        await wait_until(lambda: broker.failed > 1)
        await stream.aclose()


async def test_a_topic_that_closed_and_opened_while_a_read_was_being_cancelled_catches_up() -> None:
    class LettingGoSlowly(LosingItsData):
        async def unsubscribe(self, topic: str) -> None:
            await left.wait()
            await super().unsubscribe(topic)

        async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
            try:
                return await super().read(topic, after, limit)
            except asyncio.CancelledError:
                await let_go.wait()
                raise

    left, let_go = asyncio.Event(), asyncio.Event()
    broker = LettingGoSlowly()
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
        let_go.set()
        await back.aclose()


# what the live path dropped without a sign


async def test_a_recheck_brings_what_was_dropped_though_nothing_came_after_it() -> None:
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


async def test_a_recheck_while_the_history_is_being_asked_asks_it_again() -> None:
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


async def test_a_recheck_keeps_the_window_of_a_lingering_topic_whole() -> None:
    broker = OutOfReach()
    manager = lingering(broker, 3600)
    stream = await started(manager.subscribe(NUMBERS))
    cursor = str(stream.subscriber.position)
    await stream.aclose()
    broker.deaf = True
    await publish_all(manager, [1, 2])
    broker.on_possible_gap(NUMBERS.name)
    live_topic = manager._live_topics[NUMBERS.name]
    await wait_until(lambda: live_topic.buffer.last.seq == 2)

    broker.down = {"read"}
    assert await take(manager.subscribe(NUMBERS, after=cursor), 2) == [1, 2]
    await manager.close()


@pytest.mark.usefixtures("small_buffers")
async def test_what_one_who_resumes_reads_shows_the_others_what_was_dropped() -> None:
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


async def test_a_recheck_of_a_topic_that_nobody_listens_to_asks_nothing() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        await manager.start()
        broker.calls.clear()
        broker.on_possible_gap(NUMBERS.name)

        await pause(3)
        assert not broker.calls


async def test_a_recheck_that_finds_nothing_disturbs_nobody() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        broker.on_possible_gap(NUMBERS.name)
        await wait_until(lambda: broker.calls["read"])
        await publish_all(manager, [2])

        assert await take(stream, 2) == [1, 2]
        await stream.aclose()


async def test_news_of_the_broker_in_the_same_tick_does_not_undo_an_end() -> None:
    class Away(MemoryBroker):
        asked = 0

        async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
            self.asked += 1
            raise BrokerUnavailable("away")

    broker = Away()
    await broker.start(lambda _event: None, lambda _topic: None)
    before = asyncio.all_tasks()
    topic = LiveTopic("numbers", broker)
    await topic.open()
    topic.refresh()
    await wait_until(lambda: broker.asked == 1)
    topic.refresh()
    topic.cancel()
    await wait_until(lambda: asyncio.all_tasks() <= before)
    assert broker.asked == 1
