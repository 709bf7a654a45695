"""A subscription gets each event after its start once and in order, if it has the right."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqlnotify import Principal, TopicManager
from gqlnotify.auth import Viewer, viewing
from gqlnotify.brokers import MemoryBroker
from gqlnotify.errors import (
    BadUserInput,
    Forbidden,
    Unauthenticated,
)
from tests.bad_brokers import (
    UnreliableBroker,
    pause,
)
from tests.streams import (
    NUMBERS,
    PERFECT,
    Tally,
    leaving_nothing,
    publish_all,
    reading,
    started,
    take,
    take_until,
    viewer,
)
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("no_linger")


# each event once and in order


async def test_every_subscriber_gets_every_event_once_and_in_order(manager: TopicManager) -> None:
    async with leaving_nothing(manager):
        streams = [await started(manager.subscribe(NUMBERS)) for _ in range(5)]
        reads = [asyncio.create_task(take_until(stream, 499)) for stream in streams]
        await publish_all(manager, range(500))

        assert await asyncio.gather(*reads) == [list(range(500))] * 5
        for stream in streams:
            await stream.aclose()


async def test_a_subscription_starts_with_the_first_event_after_its_start(
    manager: TopicManager,
) -> None:
    await publish_all(manager, [1, 2])
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, [3])

    assert await take(stream, 1) == [3]


fates_of_an_event = st.lists(st.integers(min_value=0, max_value=12), max_size=3)


@given(
    fates=st.lists(fates_of_an_event, min_size=1, max_size=40),
    answer_turns=st.integers(0, 5),
    pauses=st.lists(st.integers(0, 6), min_size=1, max_size=6),
)
@pytest.mark.usefixtures("small_buffers")
def test_every_subscriber_gets_all_in_order_though_the_live_path_drops_repeats_and_reorders(
    fates: list[list[int]], answer_turns: int, pauses: list[int]
) -> None:
    last = len(fates)

    async def scenario() -> None:
        broker = UnreliableBroker(fates, answer_turns=answer_turns)
        async with leaving_nothing(TopicManager(broker)) as manager:
            streams = [await started(manager.subscribe(NUMBERS)) for _ in range(3)]
            reads = [asyncio.create_task(take_until(stream, last)) for stream in streams]
            for number in range(last + 1):
                await manager.publish(NUMBERS, number)
                await pause(pauses[number % len(pauses)])
            for got in await asyncio.gather(*reads):
                assert Tally.of(got, range(last + 1)) == PERFECT
            for stream in streams:
                await stream.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.usefixtures("small_buffers")
async def test_subscribers_that_resume_many_times_lose_and_repeat_nothing(seed: int) -> None:
    chance = random.Random(seed)
    count = 300
    fates = [
        [chance.randrange(15) for _ in range(chance.choice([0, 1, 1, 2]))] for _ in range(count)
    ]
    broker = UnreliableBroker(fates, answer_turns=chance.randrange(4))

    async def resume_until_the_end(manager: TopicManager, after: str) -> list[int]:
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
        subscribers = [asyncio.create_task(resume_until_the_end(manager, start)) for _ in range(8)]
        for number in range(count + 1):
            await manager.publish(NUMBERS, number)
            await pause(chance.randrange(4))
        async with asyncio.timeout(PATIENCE):
            for got in await asyncio.gather(*subscribers):
                assert Tally.of(got, range(count + 1)) == PERFECT


@pytest.mark.usefixtures("small_buffers")
async def test_resuming_after_any_cursor_while_others_publish_loses_and_repeats_nothing() -> None:
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
        for live_topic in list(manager.live_topics.by_name.values()):
            for subscriber in list(live_topic.subscribers):
                subscriber.close()


async def test_a_cursor_read_before_the_state_misses_no_later_event(
    manager: TopicManager,
) -> None:
    await publish_all(manager, [1])
    cursor = await manager.cursor(NUMBERS)
    await publish_all(manager, [2, 3])
    stream = manager.subscribe(NUMBERS, after=cursor)

    assert await take(stream, 2) == [2, 3]


async def test_the_cursor_of_an_unused_topic_misses_no_event(
    manager: TopicManager,
) -> None:
    cursor = await manager.cursor(NUMBERS)
    await publish_all(manager, [1])

    assert await take(manager.subscribe(NUMBERS, after=cursor), 1) == [1]


async def test_an_event_has_the_cursor_that_publish_returned(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    assert stream.cursor is None
    for cursor in await publish_all(manager, range(3)):
        await take(stream, 1)
        assert str(stream.cursor) == cursor


@pytest.mark.parametrize("after", ["", "soon", "1-2-3", "$"])
async def test_an_invalid_cursor_is_bad_input(manager: TopicManager, after: str) -> None:
    async with leaving_nothing(manager):
        with pytest.raises(BadUserInput):
            await manager.subscribe(NUMBERS, after=after).start()


async def test_resume_replaces_the_cursor_to_start_after(manager: TopicManager) -> None:
    cursors = await publish_all(manager, [1, 2, 3])
    stream = manager.subscribe(NUMBERS, after=cursors[0])
    stream.resume(cursors[1])

    assert await take(stream, 1) == [3]


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


async def test_the_right_to_a_topic_or_to_the_view_allows_the_view(manager: TopicManager) -> None:
    for right in ("numbers", "numbers.even", "num*"):
        with viewing(viewer(subscribe=[right])):
            await manager.subscribe(NUMBERS, view="numbers.even").start()
    with viewing(viewer(subscribe=["numbers.odd"])), pytest.raises(Forbidden):
        await manager.subscribe(NUMBERS, view="numbers.even").start()


async def test_the_right_to_a_view_does_not_allow_the_topic(manager: TopicManager) -> None:
    with viewing(viewer(subscribe=["numbers.even"])), pytest.raises(Forbidden):
        await manager.subscribe(NUMBERS).start()


async def test_the_viewer_who_subscribed_needs_the_right_wherever_the_stream_is_iterated(
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


async def test_a_mapped_subscription_keeps_the_viewer_who_subscribed(manager: TopicManager) -> None:
    with viewing(viewer(subscribe=["other"])):
        stream = manager.subscribe(NUMBERS)

    with pytest.raises(Forbidden):
        await stream.map(lambda number, event: number).start()


async def test_a_mapped_subscription_keeps_the_view(manager: TopicManager) -> None:
    with viewing(viewer(subscribe=["numbers.even"])):
        stream = manager.subscribe(NUMBERS, view="numbers.even")
        await stream.map(lambda number, event: number).start()


async def test_a_hook_can_refuse_by_raising_an_error(manager: TopicManager) -> None:
    async def may(principal: Principal, action: str, topic: str) -> bool:
        raise Unauthenticated("Who?")

    with viewing(Viewer(Principal("alice"), may)), pytest.raises(Unauthenticated):
        await manager.subscribe(NUMBERS).start()


async def test_aclose_ends_a_waiting_read() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        waiting = await reading(stream)
        await stream.aclose()

        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_a_closed_subscription_has_ended() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        await stream.aclose()
        await stream.aclose()

        assert [number async for number in stream] == []
        await stream.start()


async def test_a_subscription_can_be_closed_before_its_start() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        stream = manager.subscribe(NUMBERS)
        await stream.aclose()

        assert [number async for number in stream] == []
        assert not manager.live_topics.by_name


async def test_a_cancelled_read_loses_nothing() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        waiting = await reading(stream)
        waiting.cancel()
        await asyncio.wait([waiting])
        await publish_all(manager, [1])

        assert await take(stream, 1) == [1]
        await stream.aclose()


async def test_a_read_cancelled_when_its_event_arrives_loses_nothing() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker())) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        waiting = await reading(stream)
        await publish_all(manager, [1])
        waiting.cancel()
        await asyncio.wait([waiting])

        assert waiting.cancelled()
        assert await take(stream, 1) == [1]
        await stream.aclose()
