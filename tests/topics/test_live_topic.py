import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from gqlnotify import Cursor, Event, Settings, Subscription, TopicManager
from gqlnotify.brokers import Broker, MemoryBroker
from gqlnotify.errors import BrokerUnavailable, CursorExpired
from gqlnotify.topics.live_topic import LiveTopic
from tests.bad_brokers import AnsweringLate, LosingItsData, OutOfReach, pause
from tests.streams import (
    NUMBERS,
    ended,
    leaving_at_once,  # noqa: F401
    leaving_nothing,
    publish_all,
    reading,
    small,  # noqa: F401
    started,
    take,
)
from tests.waiting import PATIENCE, wait_until

A_WHILE = 0.05


def lingering(broker: Broker, seconds: float) -> TopicManager:
    return TopicManager(broker, settings=Settings(topic_linger=seconds))


def now() -> float:
    return asyncio.get_running_loop().time()


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


async def test_aclose_ends_a_read_that_waits() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        waiting = await reading(stream)
        await stream.aclose()

        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_a_closed_stream_is_over() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        await stream.aclose()
        await stream.aclose()

        assert [number async for number in stream] == []
        await stream.start()


async def test_a_stream_that_never_started_can_be_closed() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        stream = manager.subscribe(NUMBERS)
        await stream.aclose()

        assert [number async for number in stream] == []
        assert not manager._live_topics


async def test_a_read_that_is_cancelled_loses_nothing() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        waiting = await reading(stream)
        waiting.cancel()
        await asyncio.wait([waiting])
        await publish_all(manager, [1])

        assert await take(stream, 1) == [1]
        await stream.aclose()


async def test_a_read_cancelled_as_its_event_arrives_loses_nothing() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        waiting = await reading(stream)
        await publish_all(manager, [1])
        waiting.cancel()
        await asyncio.wait([waiting])

        assert waiting.cancelled()
        assert await take(stream, 1) == [1]
        await stream.aclose()


@pytest.mark.usefixtures("small")
async def test_leaving_while_the_topic_catches_up_stops_it() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        broker.down = {"read"}
        broker.on_possible_gap(NUMBERS.name)
        await wait_until(lambda: broker.failed > 1)
        await stream.aclose()


# lingering


async def test_a_topic_stays_open_for_its_time_after_the_last_subscriber_left() -> None:
    broker = OutOfReach()
    async with leaving_nothing(lingering(broker, A_WHILE)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        left = now()
        await stream.aclose()
        await publish_all(manager, [1])
        assert manager._live_topics[NUMBERS.name].buffer.last.seq == 1

        await wait_until(lambda: broker.calls["unsubscribe"])
        assert now() - left >= A_WHILE


async def test_who_comes_back_in_time_is_served_from_the_window_and_the_broker_hears_nothing() -> (
    None
):
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


async def test_who_comes_back_in_time_keeps_the_topic_and_its_time_counts_anew() -> None:
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


async def test_who_comes_and_goes_in_time_makes_the_topic_stay_longer() -> None:
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


@pytest.mark.usefixtures("small")
async def test_who_comes_back_later_than_the_window_reaches_is_served_from_the_history() -> None:
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


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(10))
async def test_readers_that_come_back_while_the_topic_opens_and_closes_miss_nothing(
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

    async def coming_and_going(manager: TopicManager, after: str) -> list[int]:
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
        subscribers = [asyncio.create_task(coming_and_going(manager, start)) for _ in range(2)]
        for number in range(count + 1):
            await manager.publish(NUMBERS, number)
            await pause(chance.randrange(4))
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(*subscribers) == [[*range(count + 1)]] * 2


# a broker out of reach


@dataclass
class Waiting:
    """A stream that waits for its broker, and what it has missed."""

    stream: Subscription[int]
    missed: list[int]


async def opening(broker: OutOfReach, manager: TopicManager) -> Waiting:
    broker.down = {"head"}
    return Waiting(manager.subscribe(NUMBERS), [])


async def opening_behind_a_cursor(broker: OutOfReach, manager: TopicManager) -> Waiting:
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


async def finding_the_head_behind_a_gap(broker: OutOfReach, manager: TopicManager) -> Waiting:
    stream = await started(manager.subscribe(NUMBERS))
    broker._histories.clear()
    broker.down = {"head"}
    await publish_all(manager, [0])
    return Waiting(stream, [])


Stage = Callable[[OutOfReach, TopicManager], Awaitable[Waiting]]
WHOLE: list[Stage] = [opening, opening_behind_a_cursor, resuming, refilling, catching_up]
ALL: list[Stage] = [*WHOLE, finding_the_head_behind_a_gap]


async def cancelled(task: "asyncio.Task[int]", stream: Subscription[int], _: TopicManager) -> None:
    task.cancel()
    await ended(task)
    await stream.aclose()


async def closed(_: "asyncio.Task[int]", stream: Subscription[int], __: TopicManager) -> None:
    await stream.aclose()


async def all_closed(_: "asyncio.Task[int]", __: Subscription[int], manager: TopicManager) -> None:
    await manager.close()


End = Callable[["asyncio.Task[int]", Subscription[int], TopicManager], Awaitable[None]]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("stage", WHOLE)
async def test_a_stream_waits_for_its_broker_and_misses_nothing(stage: Stage) -> None:
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


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("stage", ALL)
@pytest.mark.parametrize("end", [cancelled, closed, all_closed])
async def test_a_stream_that_waits_for_its_broker_ends_at_once_and_leaves_nothing(
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


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("begin", [replaying, lagging])
@pytest.mark.parametrize("end", [cancelled, closed, all_closed])
async def test_a_stream_that_ends_while_its_read_is_about_to_fail_leaves_nothing(
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


@pytest.mark.usefixtures("small")
async def test_everybody_who_waits_for_a_topic_to_open_gets_in() -> None:
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


@pytest.mark.usefixtures("small")
async def test_each_try_to_reach_the_broker_is_logged(caplog: pytest.LogCaptureFixture) -> None:
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


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("after", ["1-1", "9999999999999-1"])
async def test_a_cursor_that_has_expired_is_told_as_soon_as_the_broker_is_back(after: str) -> None:
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


@pytest.mark.usefixtures("small")
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


@pytest.mark.usefixtures("small")
async def test_a_topic_that_closed_while_it_caught_up_catches_up_when_it_opens_again() -> None:
    broker = OutOfReach()
    async with leaving_nothing(TopicManager(broker)) as manager:
        waiting = await catching_up(broker, manager)
        await wait_until(lambda: broker.failed > 1)
        start = str(waiting.stream.subscriber.position)
        await waiting.stream.aclose()
        await wait_until(lambda: not manager._live_topics)

        broker.down.clear()
        back = manager.subscribe(NUMBERS, after=start)
        assert await take(back, 20) == waiting.missed
        await back.aclose()


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


@pytest.mark.usefixtures("small")
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
