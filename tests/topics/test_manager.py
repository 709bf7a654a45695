import asyncio
import gc
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqlnotify import Cursor, Event, Principal, Settings, Topic, TopicManager
from gqlnotify.auth import Viewer, viewing
from gqlnotify.brokers import Deliver, MemoryBroker, OnPossibleGap
from gqlnotify.errors import (
    BadUserInput,
    BrokerUnavailable,
    CursorExpired,
    Forbidden,
    InternalError,
    TopicsClosed,
    Unauthenticated,
)
from gqlnotify.settings import Retention
from gqlnotify.topics import live_topic
from tests.bad_brokers import (
    AnsweringLate,
    LosingItsData,
    OutOfReach,
    UnreliableBroker,
    pause,
)
from tests.streams import (
    NUMBERS,
    PERFECT,
    Tally,
    ended,
    leaving_at_once,  # noqa: F401
    leaving_nothing,
    publish_all,
    reading,
    small,  # noqa: F401
    started,
    take,
    take_until,
)
from tests.waiting import PATIENCE, wait_until

ROOMS = Topic("rooms.<room>", int)


def viewer(*, subscribe: Sequence[str] = (), publish: Sequence[str] = ()) -> Viewer:
    return Viewer(Principal("alice", subscribe=tuple(subscribe), publish=tuple(publish)))


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.fixture
async def manager() -> AsyncIterator[TopicManager]:
    manager = TopicManager(MemoryBroker())
    yield manager
    await manager.close()


# nothing lost, nothing twice, nothing out of order


async def test_every_subscriber_gets_every_event_once_and_in_order(manager: TopicManager) -> None:
    async with leaving_nothing(manager):
        streams = [await started(manager.subscribe(NUMBERS)) for _ in range(5)]
        reads = [asyncio.create_task(take_until(stream, 499)) for stream in streams]
        await publish_all(manager, range(500))

        assert await asyncio.gather(*reads) == [list(range(500))] * 5
        for stream in streams:
            await stream.aclose()


async def test_a_stream_begins_with_what_is_published_after_it_started(
    manager: TopicManager,
) -> None:
    await publish_all(manager, [1, 2])
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, [3])

    assert await take(stream, 1) == [3]


fate = st.lists(st.integers(min_value=0, max_value=12), max_size=3)


@given(
    fates=st.lists(fate, min_size=1, max_size=40),
    answer_turns=st.integers(0, 5),
    breaths=st.lists(st.integers(0, 6), min_size=1, max_size=6),
)
@pytest.mark.usefixtures("small")
def test_whatever_the_live_path_drops_repeats_or_reorders_every_subscriber_gets_all_in_order(
    fates: list[list[int]], answer_turns: int, breaths: list[int]
) -> None:
    last = len(fates)

    async def scenario() -> None:
        broker = UnreliableBroker(fates, answer_turns=answer_turns)
        async with leaving_nothing(TopicManager(broker)) as manager:
            streams = [await started(manager.subscribe(NUMBERS)) for _ in range(3)]
            reads = [asyncio.create_task(take_until(stream, last)) for stream in streams]
            for number in range(last + 1):
                await manager.publish(NUMBERS, number)
                await pause(breaths[number % len(breaths)])
            for got in await asyncio.gather(*reads):
                assert Tally.of(got, range(last + 1)) == PERFECT
            for stream in streams:
                await stream.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.usefixtures("small")
async def test_readers_that_come_back_again_and_again_lose_and_repeat_nothing(seed: int) -> None:
    chance = random.Random(seed)
    count = 300
    fates = [
        [chance.randrange(15) for _ in range(chance.choice([0, 1, 1, 2]))] for _ in range(count)
    ]
    broker = UnreliableBroker(fates, answer_turns=chance.randrange(4))

    async def coming_and_going(manager: TopicManager, after: str) -> list[int]:
        got = list[int]()
        while not got or got[-1] != count:
            stream = manager.subscribe(NUMBERS, after=after)
            for _ in range(chance.randrange(1, 20)):
                got.append(await anext(stream))
                after = str(stream.cursor)
                if got[-1] == count:
                    break
                await pause(chance.randrange(3))
            await stream.aclose()
        return got

    async with leaving_nothing(TopicManager(broker)) as manager:
        start = await manager.cursor(NUMBERS)
        subscribers = [asyncio.create_task(coming_and_going(manager, start)) for _ in range(8)]
        for number in range(count + 1):
            await manager.publish(NUMBERS, number)
            await pause(chance.randrange(4))
        async with asyncio.timeout(PATIENCE):
            for got in await asyncio.gather(*subscribers):
                assert Tally.of(got, range(count + 1)) == PERFECT


@pytest.mark.usefixtures("small")
async def test_resuming_behind_any_cursor_while_others_publish_has_no_hole_and_no_repeat() -> None:
    count = 60
    fates = [[number % 7] for number in range(count)]
    async with leaving_nothing(TopicManager(UnreliableBroker(fates, answer_turns=2))) as manager:
        reads = [
            asyncio.create_task(
                take_until(manager.subscribe(NUMBERS, after=await manager.cursor(NUMBERS)), count)
            )
        ]
        for number in range(count + 1):
            cursor = str(await manager.publish(NUMBERS, number))
            if number < count:
                stream = manager.subscribe(NUMBERS, after=cursor)
                reads.append(asyncio.create_task(take_until(stream, count)))
            await asyncio.sleep(0)

        for first, got in enumerate(await asyncio.gather(*reads)):
            assert got == list(range(first, count + 1))
        for live_topic in list(manager._live_topics.values()):
            for consumer in list(live_topic.consumers):
                consumer.close()


async def test_a_cursor_read_before_the_state_misses_nothing_that_follows(
    manager: TopicManager,
) -> None:
    await publish_all(manager, [1])
    cursor = await manager.cursor(NUMBERS)
    await publish_all(manager, [2, 3])
    stream = manager.subscribe(NUMBERS, after=cursor)

    assert await take(stream, 2) == [2, 3]


async def test_the_cursor_of_a_topic_that_was_never_used_misses_nothing_either(
    manager: TopicManager,
) -> None:
    cursor = await manager.cursor(NUMBERS)
    await publish_all(manager, [1])

    assert await take(manager.subscribe(NUMBERS, after=cursor), 1) == [1]


async def test_what_was_taken_has_the_cursor_that_its_publisher_got(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    assert stream.cursor is None
    for cursor in await publish_all(manager, range(3)):
        await take(stream, 1)
        assert str(stream.cursor) == cursor


# slow readers


@pytest.mark.usefixtures("small")
async def test_a_slow_reader_that_lags_beyond_the_window_is_served_from_the_history(
    manager: TopicManager,
) -> None:
    slow, fast = [await started(manager.subscribe(NUMBERS)) for _ in range(2)]
    for number in range(50):
        await manager.publish(NUMBERS, number)
        assert await take(fast, 1) == [number]

    assert await take(slow, 50) == list(range(50))


@pytest.mark.usefixtures("small")
async def test_a_reader_that_lags_beyond_the_history_is_told_so() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker(length=20))) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, range(5))
        assert await take(stream, 2) == [0, 1]
        await publish_all(manager, range(5, 50))

        with pytest.raises(CursorExpired):
            await take(stream, 1)
        await stream.aclose()


@pytest.mark.usefixtures("small")
async def test_a_reader_that_lags_is_not_served_past_a_gap_later_on() -> None:
    manager = TopicManager(MemoryBroker(length=20))
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, range(50))
    for _ in range(3):
        with pytest.raises(CursorExpired):
            await take(stream, 1)
    await manager.close()


async def test_a_reader_costs_no_memory_for_what_it_has_not_taken(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, range(100))

    assert not stream.subscriber._backlog


# histories that end


async def test_a_cursor_that_the_history_no_longer_reaches_is_expired() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker(length=3))) as manager:
        cursors = await publish_all(manager, range(10))
        stream = manager.subscribe(NUMBERS, after=cursors[0])

        with pytest.raises(CursorExpired):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@pytest.mark.parametrize("after", ["1-0", "9999999999999-1"])
async def test_a_cursor_of_another_history_is_expired(manager: TopicManager, after: str) -> None:
    async with leaving_nothing(manager):
        with pytest.raises(CursorExpired):
            await manager.subscribe(NUMBERS, after=after).start()


@pytest.mark.parametrize("after", ["", "soon", "1-2-3", "$"])
async def test_what_is_no_cursor_is_bad_input(manager: TopicManager, after: str) -> None:
    async with leaving_nothing(manager):
        with pytest.raises(BadUserInput):
            await manager.subscribe(NUMBERS, after=after).start()


async def test_when_the_history_begins_anew_who_listened_is_told_and_who_comes_goes_on() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        old = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        assert await take(old, 1) == [1]
        waiting = await reading(old)

        broker.lose_everything()
        await publish_all(manager, [2])
        with pytest.raises(CursorExpired):
            await waiting

        new = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [3, 4])
        assert await take(new, 2) == [3, 4]
        for stream in (old, new):
            await stream.aclose()


async def test_a_cursor_of_the_new_history_is_good_while_others_still_listen_to_the_old() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        old = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        broker.lose_everything()

        new = manager.subscribe(NUMBERS, after=await manager.cursor(NUMBERS))
        waiting = await reading(new)
        await publish_all(manager, [2])
        assert await waiting == 2
        for stream in (old, new):
            await stream.aclose()


async def test_who_replays_the_new_history_goes_on_live_while_others_listen_to_the_old() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        old = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        broker.lose_everything()
        cursor = await manager.cursor(NUMBERS)
        await broker.unsubscribe(NUMBERS.name)
        await publish_all(manager, [2, 3])
        await broker.subscribe(NUMBERS.name)

        new = manager.subscribe(NUMBERS, after=cursor)
        waiting = asyncio.create_task(take(new, 3))
        await wait_until(lambda: new.subscriber.waiting or waiting.done())
        await publish_all(manager, [4])
        assert await waiting == [2, 3, 4]
        for stream in (old, new):
            await stream.aclose()


async def test_what_comes_while_a_reader_finds_the_new_history_is_no_gap_either() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        old = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        broker.lose_everything()
        new = await started(manager.subscribe(NUMBERS, after=await manager.cursor(NUMBERS)))

        broker.hold_one_answer = True
        waiting = asyncio.create_task(take(new, 2))
        await wait_until(lambda: not broker.hold_one_answer)
        cursors = await publish_all(manager, [2, 3])
        live_topic = manager._live_topics[NUMBERS.name]
        await wait_until(lambda: str(live_topic.buffer.last) == cursors[-1])
        broker.answer.set()
        assert await waiting == [2, 3]
        for stream in (old, new):
            await stream.aclose()


async def test_a_history_that_lost_what_was_already_delivered_is_no_silent_gap() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        behind = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        assert await take(behind, 1) == [1]
        await publish_all(manager, range(2, live_topic.BUFFER_SIZE + 5))
        while (await manager._broker.head(NUMBERS.name)).seq > 1:
            broker.lose_the_newest(NUMBERS.name)

        with pytest.raises(CursorExpired):
            await take(behind, 1)
        await behind.aclose()


@pytest.mark.usefixtures("small")
async def test_a_gap_beyond_the_history_is_told_to_those_behind_it() -> None:
    broker = OutOfReach()
    broker._retention = Retention(10, 3600, {})
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        waiting = await reading(stream)
        broker.deaf = True
        await publish_all(manager, range(20))
        broker.deaf = False
        await publish_all(manager, [20])

        with pytest.raises(CursorExpired):
            await waiting
        await stream.aclose()


# filters and what is made of values


async def test_a_filter_lets_through_what_it_is_true_for(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS, where=lambda number: number % 3 == 0))
    cursors = await publish_all(manager, range(10))

    assert await take(stream, 4) == [0, 3, 6, 9]
    assert str(stream.cursor) == cursors[9]


async def test_a_filter_applies_to_what_is_replayed_as_well(manager: TopicManager) -> None:
    start = await manager.cursor(NUMBERS)
    await publish_all(manager, range(5))

    assert await take(manager.subscribe(NUMBERS, after=start, where=lambda n: n > 2), 2) == [3, 4]


async def test_map_makes_something_of_each_value_and_its_event(manager: TopicManager) -> None:
    plain = manager.subscribe(NUMBERS, where=lambda number: number > 1)
    stream = plain.map(lambda number, event: (number * 10, event.cursor.seq))
    stream = stream.map(lambda pair, event: (*pair, event.topic))  # type: ignore[arg-type, return-value]
    await stream.start()
    await publish_all(manager, [1, 2])

    assert await take(stream, 1) == [(20, 2, "numbers")]


async def test_map_keeps_where_the_stream_begins(manager: TopicManager) -> None:
    cursors = await publish_all(manager, [1, 2])

    stream = manager.subscribe(NUMBERS, after=cursors[0]).map(lambda number, event: -number)
    assert await take(stream, 1) == [-2]


async def test_a_stream_that_started_can_not_be_mapped(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))

    with pytest.raises(RuntimeError, match="started"):
        stream.map(lambda number, event: number)


async def test_resume_says_anew_where_to_begin(manager: TopicManager) -> None:
    cursors = await publish_all(manager, [1, 2, 3])
    stream = manager.subscribe(NUMBERS, after=cursors[0])
    stream.resume(cursors[1])

    assert await take(stream, 1) == [3]


async def test_a_filter_that_fails_fails_its_own_reader_and_nobody_else(
    manager: TopicManager,
) -> None:
    broken = await started(manager.subscribe(NUMBERS, where=lambda number: 1 // number > 0))
    sound = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, [0, 1])

    with pytest.raises(ZeroDivisionError):
        await take(broken, 1)
    assert await take(sound, 2) == [0, 1]
    assert await take(broken, 1) == [1]


async def test_an_event_of_another_type_is_passed_over(
    manager: TopicManager,
) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    await manager.publish_bytes(NUMBERS.name, b'"from another version"')
    await publish_all(manager, [1])

    assert await take(stream, 1) == [1]


# rights


async def test_without_a_viewer_everything_is_allowed(manager: TopicManager) -> None:
    await manager.subscribe(NUMBERS).start()

    await manager.publish(NUMBERS, 1)


async def test_subscribing_without_the_right_is_forbidden(manager: TopicManager) -> None:
    async with leaving_nothing(manager):
        with viewing(viewer(publish=["*"], subscribe=["other"])):
            stream = manager.subscribe(NUMBERS)
            with pytest.raises(Forbidden):
                await stream.start()
            with pytest.raises(Forbidden):
                await anext(stream)


async def test_the_right_to_a_topic_or_to_the_view_opens_the_view(manager: TopicManager) -> None:
    for right in ("numbers", "numbers.even", "num*"):
        with viewing(viewer(subscribe=[right])):
            await manager.subscribe(NUMBERS, view="numbers.even").start()
    with viewing(viewer(subscribe=["numbers.odd"])), pytest.raises(Forbidden):
        await manager.subscribe(NUMBERS, view="numbers.even").start()


async def test_the_right_to_a_view_does_not_open_the_topic(manager: TopicManager) -> None:
    with viewing(viewer(subscribe=["numbers.even"])), pytest.raises(Forbidden):
        await manager.subscribe(NUMBERS).start()


async def test_the_right_is_that_of_who_asked_wherever_the_stream_is_iterated(
    manager: TopicManager,
) -> None:
    with viewing(viewer(subscribe=["other"])):
        refused = manager.subscribe(NUMBERS)
    with viewing(viewer(subscribe=["numbers"])):
        allowed = manager.subscribe(NUMBERS)

    with viewing(viewer(subscribe=["*"])), pytest.raises(Forbidden):
        await refused.start()
    with viewing(viewer()):
        await allowed.start()


async def test_a_mapped_stream_keeps_the_viewer_who_asked_for_it(manager: TopicManager) -> None:
    with viewing(viewer(subscribe=["other"])):
        stream = manager.subscribe(NUMBERS)

    with pytest.raises(Forbidden):
        await stream.map(lambda number, event: number).start()


async def test_a_mapped_stream_keeps_the_view(manager: TopicManager) -> None:
    with viewing(viewer(subscribe=["numbers.even"])):
        stream = manager.subscribe(NUMBERS, view="numbers.even")
        await stream.map(lambda number, event: number).start()


async def test_publishing_without_the_right_is_forbidden(manager: TopicManager) -> None:
    with viewing(viewer(subscribe=["*"], publish=["other"])), pytest.raises(Forbidden):
        await manager.publish(NUMBERS, 1)
    with viewing(viewer(publish=["numbers"])):
        assert (await manager.publish(NUMBERS, 1)).seq == 1


async def test_a_hook_that_refuses_by_raising_refuses(manager: TopicManager) -> None:
    async def may(principal: Principal, action: str, topic: str) -> bool:
        raise Unauthenticated("Who?")

    with viewing(Viewer(Principal("alice"), may)), pytest.raises(Unauthenticated):
        await manager.subscribe(NUMBERS).start()


# publishing


async def test_publishing_again_under_an_event_id_has_no_effect(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    first = await manager.publish(NUMBERS, 1, event_id="a")

    assert await manager.publish(NUMBERS, 1, event_id="a") == first
    await manager.publish(NUMBERS, 2)
    assert await take(stream, 2) == [1, 2]


async def test_a_value_of_the_wrong_type_is_not_published(manager: TopicManager) -> None:
    with pytest.raises(InternalError, match="int"):
        await manager.publish(Topic[Any]("numbers", int), "one")

    assert (await manager.publish(NUMBERS, 1)).seq == 1


async def test_an_event_has_a_greatest_size() -> None:
    manager = TopicManager(MemoryBroker(), settings=Settings(event_max_bytes=10))
    text = Topic("text", str)

    await manager.publish(text, "12345678")
    with pytest.raises(BadUserInput, match="10 bytes"):
        await manager.publish(text, "123456789")


@pytest.mark.parametrize("event_id", ["", "x" * 401])
async def test_an_event_id_that_is_empty_or_too_long_is_refused(
    manager: TopicManager, event_id: str
) -> None:
    with pytest.raises(BadUserInput, match="event id"):
        await manager.publish(NUMBERS, 1, event_id=event_id)
    await manager.publish(NUMBERS, 1, event_id="x" * 400)


@pytest.mark.parametrize("name", ["", "a b", "a.", "x" * 201])
async def test_a_name_that_breaks_the_rules_is_refused(manager: TopicManager, name: str) -> None:
    with pytest.raises(BadUserInput):
        await manager.publish_bytes(name, b"1")


async def test_members_of_a_family_are_topics_of_their_own(manager: TopicManager) -> None:
    first, second = [await started(manager.subscribe(ROOMS(room=n))) for n in (1, 2)]
    await manager.publish(ROOMS(room=2), 22)
    await manager.publish(ROOMS(room=1), 11)

    assert (await take(first, 1), await take(second, 1)) == ([11], [22])


async def test_a_family_itself_is_neither_published_nor_read(manager: TopicManager) -> None:
    with pytest.raises(BadUserInput, match="room"):
        await manager.publish(ROOMS, 1)
    with pytest.raises(BadUserInput, match="room"):
        manager.subscribe(ROOMS)
    with pytest.raises(BadUserInput, match="room"):
        await manager.cursor(ROOMS)


# publishing from a thread


async def test_a_thread_publishes_and_gets_the_cursor(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    cursor = await asyncio.to_thread(manager.publish_sync, NUMBERS, 7, event_id="a")

    assert await take(stream, 1) == [7]
    assert stream.cursor == cursor
    assert await asyncio.to_thread(manager.publish_sync, NUMBERS, 7, event_id="a") == cursor


async def test_a_thread_is_refused_as_any_other_publisher(manager: TopicManager) -> None:
    await manager.start()
    with pytest.raises(InternalError):
        await asyncio.to_thread(manager.publish_sync, NUMBERS, "one")
    with viewing(viewer()), pytest.raises(Forbidden):
        await asyncio.to_thread(manager.publish_sync, NUMBERS, 1)


async def test_a_thread_with_its_own_event_loop_publishes_too(manager: TopicManager) -> None:
    await manager.start()

    async def elsewhere() -> Cursor:
        return manager.publish_sync(NUMBERS, 1)

    assert (await asyncio.to_thread(asyncio.run, elsewhere())).seq == 1


async def test_another_event_loop_is_sent_to_publish_sync_and_hurts_nobody(
    manager: TopicManager,
) -> None:
    stream = await started(manager.subscribe(NUMBERS))

    def elsewhere() -> None:
        asyncio.run(manager.publish(NUMBERS, 1))

    with pytest.raises(RuntimeError, match="publish_sync"):
        await asyncio.to_thread(elsewhere)
    await publish_all(manager, [2])
    assert await take(stream, 1) == [2]
    await stream.aclose()


async def test_the_loops_own_thread_is_told_to_await(manager: TopicManager) -> None:
    await manager.start()

    with pytest.raises(RuntimeError, match="await"):
        manager.publish_sync(NUMBERS, 1)


async def test_before_the_start_and_after_the_end_a_thread_is_told_so(
    manager: TopicManager,
) -> None:
    with pytest.raises(RuntimeError, match="started"):
        await asyncio.to_thread(manager.publish_sync, NUMBERS, 1)
    await manager.start()
    await manager.close()
    with pytest.raises(RuntimeError, match="started"):
        await asyncio.to_thread(manager.publish_sync, NUMBERS, 1)


def test_a_thread_is_told_that_the_application_died() -> None:
    manager = TopicManager(MemoryBroker())
    asyncio.run(manager.start())

    with pytest.raises(RuntimeError, match="closed"):
        manager.publish_sync(NUMBERS, 1)
    gc.collect()


async def test_a_thread_waits_no_longer_than_it_said() -> None:
    broker = AnsweringLate("start")
    manager = TopicManager(broker)
    starting = asyncio.create_task(manager.start())
    await wait_until(lambda: broker.held)

    with pytest.raises(TimeoutError):
        await asyncio.to_thread(manager.publish_sync, NUMBERS, 1, timeout=0.01)
    broker.answer.set()
    await starting
    await manager.close()


async def test_many_threads_at_once_publish_each_event_once(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    threads = [threading.Thread(target=manager.publish_sync, args=(NUMBERS, n)) for n in range(20)]
    for thread in threads:
        thread.start()

    assert sorted(await take(stream, 20)) == list(range(20))
    for thread in threads:
        await asyncio.to_thread(thread.join)


# start and close


async def test_the_broker_is_started_once_however_many_ask() -> None:
    broker = AnsweringLate("start")
    manager = TopicManager(broker)
    asking = [asyncio.create_task(manager.start()) for _ in range(5)]
    await wait_until(lambda: broker.held)
    broker.answer.set()
    await asyncio.gather(*asking)
    await manager.start()

    assert broker.held == 1
    await manager.close()


async def test_a_broker_out_of_reach_at_the_start_is_seen_at_once_and_tried_again() -> None:
    broker = OutOfReach("start")
    async with leaving_nothing(TopicManager(broker)) as manager:
        with pytest.raises(BrokerUnavailable):
            await manager.start()
        with pytest.raises(BrokerUnavailable):
            await manager.publish(NUMBERS, 1)
        broker.down.clear()
        assert (await manager.publish(NUMBERS, 1)).seq == 1


@pytest.mark.usefixtures("small")
async def test_a_start_waits_for_the_broker_and_logs_each_try(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = OutOfReach("start")
    manager = TopicManager(broker, settings=Settings(broker_wait=3600))
    publishing = asyncio.create_task(manager.publish(NUMBERS, 1))
    await wait_until(lambda: broker.failed > 2)
    assert not publishing.done()
    broker.down.clear()

    assert (await publishing).seq == 1
    assert len(warnings_in(caplog)) == broker.failed
    assert all("No start" in line for line in warnings_in(caplog))
    await manager.close()


@pytest.mark.usefixtures("small")
async def test_a_start_waits_so_long_and_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    broker = OutOfReach("start")
    manager = TopicManager(broker, settings=Settings(broker_wait=0.05))
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(BrokerUnavailable, match="No start"):
        await manager.start()

    longest_delay = 0.002
    assert loop.time() - began >= 0.05 - longest_delay
    assert broker.failed > 2
    assert len(warnings_in(caplog)) == broker.failed - 1


@pytest.mark.usefixtures("small")
async def test_a_start_that_waits_can_be_cancelled_and_tried_again() -> None:
    broker = OutOfReach("start")
    tasks = asyncio.all_tasks()
    manager = TopicManager(broker, settings=Settings(broker_wait=3600))
    starting = asyncio.create_task(manager.start())
    await wait_until(lambda: broker.failed > 1)
    starting.cancel()
    await ended(starting)
    assert asyncio.all_tasks() <= tasks

    broker.down.clear()
    await manager.start()
    await manager.close()


async def test_close_during_the_start_leaves_no_connection_open() -> None:
    class Connecting(AnsweringLate):
        connected = False

        async def start(self, deliver: Deliver, on_possible_gap: OnPossibleGap) -> None:
            await super().start(deliver, on_possible_gap)
            self.connected = True

        async def close(self) -> None:
            await super().close()
            self.connected = False

    broker = Connecting("start")
    manager = TopicManager(broker)
    starting = asyncio.create_task(manager.start())
    await wait_until(lambda: broker.held)
    closing = asyncio.create_task(manager.close())
    await pause(3)
    broker.answer.set()
    await asyncio.wait([starting, closing])

    assert not broker.connected


async def test_check_tells_whether_the_broker_is_there() -> None:
    broker = OutOfReach()
    manager = TopicManager(broker)
    await manager.check()
    broker.down = {"check"}
    with pytest.raises(BrokerUnavailable, match="No check"):
        await manager.check()
    broker.down.clear()
    await manager.check()

    assert broker.calls["start"] == 1
    await manager.close()


async def test_check_of_a_manager_whose_broker_can_not_be_started_fails() -> None:
    manager = TopicManager(OutOfReach("start"))

    with pytest.raises(BrokerUnavailable, match="No start"):
        await manager.check()


async def test_a_cursor_that_can_not_be_asked_for_is_an_error() -> None:
    manager = TopicManager(OutOfReach("head"))

    with pytest.raises(BrokerUnavailable):
        await manager.cursor(NUMBERS)


async def test_close_ends_every_stream(manager: TopicManager) -> None:
    streams = [
        await started(manager.subscribe(topic)) for topic in (NUMBERS, NUMBERS, ROOMS(room=1))
    ]
    waiting = [await reading(stream) for stream in streams]
    await manager.close()

    for read in waiting:
        with pytest.raises(StopAsyncIteration):
            await read
    assert not manager._live_topics


async def test_close_while_a_topic_opens_ends_that_stream_too() -> None:
    broker = AnsweringLate("head")
    manager = TopicManager(broker)
    stream = manager.subscribe(NUMBERS)
    waiting = asyncio.create_task(anext(stream))
    await wait_until(lambda: broker.held)
    await manager.close()
    broker.answer.set()

    with pytest.raises(StopAsyncIteration):
        await waiting
    assert not manager._live_topics


@pytest.mark.usefixtures("small")
async def test_close_stops_catching_up() -> None:
    broker = OutOfReach()
    manager = TopicManager(broker)
    tasks = asyncio.all_tasks()
    stream = await started(manager.subscribe(NUMBERS))
    broker.down = {"read"}
    broker.on_possible_gap(NUMBERS.name)
    await wait_until(lambda: broker.failed)
    await manager.close()

    await wait_until(lambda: asyncio.all_tasks() <= tasks)
    assert [number async for number in stream] == []


async def test_a_topic_that_was_opening_at_the_close_does_not_disturb_the_next_start() -> None:
    broker = LosingItsData()
    manager = TopicManager(broker, settings=Settings(topic_linger=0.001))
    tasks = asyncio.all_tasks()
    broker.hold_one_answer = True
    old = asyncio.create_task(manager.subscribe(NUMBERS).__anext__())
    await wait_until(lambda: manager._started and not broker.hold_one_answer)
    await manager.close()
    await manager.start()
    new = await started(manager.subscribe(NUMBERS))
    broker.answer.set()
    await ended(old)
    await wait_until(lambda: asyncio.all_tasks() <= tasks)

    await publish_all(manager, [1])
    assert await take(new, 1) == [1]
    await manager.close()


async def test_a_closed_manager_starts_again(manager: TopicManager) -> None:
    await manager.start()
    await manager.close()
    await manager.start()
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, [1])

    assert await take(stream, 1) == [1]


def test_a_manager_goes_on_in_a_new_event_loop() -> None:
    manager = TopicManager(MemoryBroker())

    async def one_life(number: int) -> None:
        stream = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [number])
        assert await take(stream, 1) == [number]

    for number in range(3):
        asyncio.run(one_life(number))


def test_an_event_loop_finds_nothing_of_the_one_before() -> None:
    manager = TopicManager(MemoryBroker())

    async def one_life(number: int) -> str:
        stream = await started(manager.subscribe(NUMBERS))
        cursor = await manager.publish(NUMBERS, number, event_id="the same in each life")
        assert await take(stream, 1) == [number]
        return str(cursor)

    async def resume(after: str) -> None:
        with pytest.raises(CursorExpired):
            await started(manager.subscribe(NUMBERS, after=after))

    first, second = asyncio.run(one_life(1)), asyncio.run(one_life(2))
    for cursor in (first, second):
        asyncio.run(resume(cursor))


# what an application does in its own shutdown


async def test_a_closed_manager_publishes_and_leaves_nothing(redis_url: str) -> None:
    manager = TopicManager(settings=Settings(broker_url=redis_url))
    cursor = await manager.cursor(NUMBERS)
    await manager.close()
    tasks = asyncio.all_tasks()

    await asyncio.gather(*(manager.publish(NUMBERS, number) for number in (1, 2)))
    await wait_until(lambda: asyncio.all_tasks() <= tasks)

    await manager.start()
    assert sorted(await take(manager.subscribe(NUMBERS, after=cursor), 2)) == [1, 2]
    await manager.close()


async def test_the_last_of_those_who_share_a_manager_closes_it(manager: TopicManager) -> None:
    async with manager.held_open():
        async with manager.held_open():
            stream = await started(manager.subscribe(NUMBERS))
        await manager.publish(NUMBERS, 1)
        assert await take(stream, 1) == [1]

    with pytest.raises(TopicsClosed):
        await manager.cursor(NUMBERS)


async def test_a_closed_manager_does_not_start_again_by_itself(manager: TopicManager) -> None:
    await manager.publish(NUMBERS, 1)
    await manager.close()
    tasks = asyncio.all_tasks()
    asks: list[Callable[[], Awaitable[Any]]] = [
        *(manager.check, lambda: manager.cursor(NUMBERS), lambda: manager.oldest(NUMBERS)),
        manager.subscribe(NUMBERS).start,
    ]
    for ask in asks:
        with pytest.raises(TopicsClosed):
            await ask()
    await manager.publish(NUMBERS, 2)

    assert not manager._started
    assert asyncio.all_tasks() <= tasks


def test_the_broker_comes_from_the_settings() -> None:
    assert isinstance(TopicManager()._broker, MemoryBroker)
    with pytest.raises(ValueError, match="nowhere"):
        TopicManager(settings=Settings(broker_url="nowhere://"))


async def test_late_deliveries_of_a_topic_that_nobody_listens_to_are_dropped() -> None:
    deliver: list[Callable[[Event], None]] = []

    class Remembering(MemoryBroker):
        async def start(self, deliver_: Deliver, on_possible_gap: OnPossibleGap) -> None:
            deliver.append(deliver_)
            await super().start(deliver_, on_possible_gap)

    async with leaving_nothing(TopicManager(Remembering())) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        await stream.aclose()
        await wait_until(lambda: not manager._live_topics)
        deliver[0](Event("numbers", Cursor(1, 1), b"1"))
        assert not manager._live_topics


# a dropped iterator leaves


def readers_of(manager: TopicManager) -> int:
    return sum(len(live_topic.consumers) for live_topic in manager._live_topics.values())


async def own_generator(manager: TopicManager) -> AsyncIterator[int]:
    async for number in manager.subscribe(NUMBERS):
        yield number


async def leave_a_generator(manager: TopicManager) -> None:
    numbers = own_generator(manager)
    reading = asyncio.ensure_future(anext(numbers))
    await wait_until(lambda: readers_of(manager))
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
    await wait_until(lambda: readers_of(manager))
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
async def test_a_dropped_iterator_leaves_nothing(
    manager: TopicManager, leave: Callable[[TopicManager], Any]
) -> None:
    await leave(manager)
    gc.collect()

    assert readers_of(manager) == 0


async def test_a_thousand_dropped_iterators_leave_without_the_garbage_collector(
    manager: TopicManager,
) -> None:
    gc.disable()
    try:
        for _ in range(1000):
            await break_a_loop(manager)
        assert readers_of(manager) == 0
    finally:
        gc.enable()


async def test_a_publish_wakes_only_who_is_still_there(manager: TopicManager) -> None:
    stays = await started(manager.subscribe(NUMBERS))
    live_topic = manager._live_topics[NUMBERS.name]
    for _ in range(100):
        gone = asyncio.ensure_future(anext(await started(manager.subscribe(NUMBERS))))
        await wait_until(lambda: live_topic._listeners)
        gone.cancel()
        await asyncio.wait([gone])
    del gone
    gc.collect()

    reading = asyncio.ensure_future(anext(stays))
    await wait_until(lambda: live_topic._listeners)
    assert len(live_topic._listeners) == len(live_topic.consumers) == 1
    reading.cancel()
    await asyncio.wait([reading])


async def test_a_topic_closes_after_its_last_iterator_was_dropped() -> None:
    manager = TopicManager(MemoryBroker(), settings=Settings(topic_linger=0))
    await drop_after_the_start(manager)

    await wait_until(lambda: not manager._live_topics)
    await manager.close()


async def test_an_iterator_is_collected_by_another_thread() -> None:
    manager = TopicManager(MemoryBroker(), settings=Settings(topic_linger=0))
    await drop_a_cycle(manager)
    await asyncio.to_thread(gc.collect)

    await wait_until(lambda: not manager._live_topics)
    await manager.close()


async def test_a_waiting_task_that_nothing_else_refers_to_is_not_collected(
    manager: TopicManager,
) -> None:
    got: list[int] = []

    async def read() -> None:
        got.extend(await take(manager.subscribe(NUMBERS), 1))

    # Nothing here keeps the task: asyncio itself holds it weakly.
    asyncio.create_task(read())  # noqa: RUF006
    await wait_until(lambda: readers_of(manager))
    gc.collect()
    await manager.publish(NUMBERS, 1)

    await wait_until(lambda: got == [1])


def test_an_iterator_may_outlive_its_event_loop() -> None:
    manager = TopicManager(MemoryBroker())

    async def begin() -> Any:
        return await started(manager.subscribe(NUMBERS))

    stream = asyncio.run(begin())
    del stream
    gc.collect()


@pytest.mark.parametrize("broker", ["memory://", Settings(), MemoryBroker])
def test_what_is_not_a_broker_is_refused_with_what_to_pass(broker: Any) -> None:
    with pytest.raises(TypeError, match=r"Settings\(broker_url="):
        TopicManager(broker)
