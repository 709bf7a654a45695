"""A lagging subscriber gets the latest event of each key, and how many were skipped."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqlnotify import Settings, Subscription, Topic, TopicManager
from gqlnotify.brokers import MemoryBroker
from gqlnotify.brokers.redis import RedisBroker
from gqlnotify.errors import CursorExpired, EventUnreadable
from gqlnotify.topics import live_topic
from gqlnotify.topics.conflation import SKIPPED, Skipped, conflate
from tests.bad_brokers import LosingItsData
from tests.streams import (
    started,
    take,
)
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("no_linger")


@dataclass
class Price:
    symbol: str | None
    value: int


def symbol_of(price: Price) -> str | None:
    return price.symbol


PRICES = Topic("prices", Price, latest_by=symbol_of)

KEYS = st.lists(st.sampled_from(["a", "b", "c", None, SKIPPED]))


# Which of the waiting events are kept


@given(KEYS)
def test_conflation_keeps_the_latest_of_each_key_in_order_and_counts_the_rest(
    keys: list[Hashable | Skipped],
) -> None:
    waiting = list(enumerate(keys))
    left = list(conflate(waiting, lambda event: event[1]))

    stays = [
        event
        for event in waiting
        if event[1] in {None, SKIPPED} or event[1] not in keys[event[0] + 1 :]
    ]
    assert [event for event, _ in left] == stays
    assert len(left) + sum(number for _, number in left) == len(waiting)


@given(KEYS)
def test_each_kept_event_counts_the_events_skipped_since_the_previous_one(
    keys: list[Hashable | Skipped],
) -> None:
    before = 0
    for (place, key), number in conflate(list(enumerate(keys)), lambda event: event[1]):
        if key is SKIPPED:
            assert number == 0
            continue
        told = [k for k in keys[before:place] if k is not SKIPPED]
        assert number == len(told)
        before = place + 1


def test_the_key_of_a_single_waiting_event_is_not_computed() -> None:
    def fail(_event: int) -> None:
        raise AssertionError

    assert list(conflate([1], fail)) == [(1, 0)]
    assert list(conflate([], fail)) == []


def test_a_topic_with_parameters_keeps_latest_by() -> None:
    family = Topic("prices.<market>", Price, latest_by=symbol_of)

    assert family(market="x").latest_by is symbol_of


# A subscriber outside a group


async def publish(manager: TopicManager, *symbols: str | None, topic: Any = PRICES) -> list[str]:
    """Publish one price each; its value is its number."""
    return [
        str(await manager.publish(topic, Price(symbol, number)))
        for number, symbol in enumerate(symbols)
    ]


async def read(stream: Subscription[Price], last: int) -> list[tuple[int, int]]:
    """Return the values up to `last`, each with the number of events skipped before it."""
    got = list[tuple[int, int]]()
    async with asyncio.timeout(PATIENCE):
        while not got or got[-1][0] != last:
            got.append(((await anext(stream)).value, stream.conflated))
    await stream.aclose()
    return got


async def test_a_lagging_subscriber_gets_the_latest_of_each_key(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(PRICES))
    await publish(manager, "a", "b", "a", "a", "c", None, "b", None)

    assert await read(stream, last=7) == [(3, 3), (4, 0), (5, 0), (6, 0), (7, 0)]


async def test_a_subscriber_that_keeps_up_gets_every_event(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(PRICES))
    for number in range(5):
        await manager.publish(PRICES, Price("a", number))
        assert (await take(stream, 1), stream.conflated) == ([Price("a", number)], 0)
    await stream.aclose()


async def test_without_latest_by_a_lagging_subscriber_gets_every_event(
    manager: TopicManager,
) -> None:
    stream = await started(manager.subscribe(Topic("prices", Price)))
    await publish(manager, "a", "a", "a")

    assert await read(stream, last=2) == [(0, 0), (1, 0), (2, 0)]


async def test_resuming_after_any_cursor_brings_the_latest_of_each_missed_key(
    manager: TopicManager,
) -> None:
    symbols = list("abacabadabacaba")
    cursors = await publish(manager, *symbols)
    for place, cursor in enumerate(cursors[:-1]):
        missed = range(place + 1, len(symbols))
        latest = [n for n in missed if symbols[n] not in symbols[n + 1 :]]
        got = await read(manager.subscribe(PRICES, after=cursor), last=len(symbols) - 1)
        assert [value for value, _ in got] == latest
        assert sum(number for _, number in got) == len(missed) - len(latest)


async def test_no_skipped_event_is_missing_after_the_cursor_of_a_kept_one(
    manager: TopicManager,
) -> None:
    """A client that leaves repeatedly while it reads its conflated backlog."""
    first, *_ = await publish(manager, *"xabacabcab")
    latest = dict[str | None, int]()
    cursor, got = first, 0
    while got != 9:
        stream = manager.subscribe(PRICES, after=cursor)
        [price] = await take(stream, 1)
        latest[price.symbol] = got = price.value
        cursor = str(stream.cursor)
        await stream.aclose()
    assert latest == {"c": 7, "a": 8, "b": 9}


async def test_a_filtered_event_replaces_no_other(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(PRICES, where=lambda price: price.value % 2 == 0))
    await publish(manager, "a", "a", "a", "a", "b", "a", None)

    # 2 and not 0, though 3 and 5 are newer: the filter drops both, so they are not counted.
    assert await read(stream, last=6) == [(2, 1), (4, 0), (6, 0)]


@pytest.mark.usefixtures("small_buffers")
async def test_a_subscriber_beyond_the_buffer_gets_the_latest_of_each_page(
    manager: TopicManager,
) -> None:
    first, *_ = await publish(manager, *["a", "b"] * 50)
    got = await read(manager.subscribe(PRICES, after=first), last=99)

    assert len(got) <= 2 * (1 + 99 // live_topic.PAGE_SIZE)
    assert [value for value, _ in got][-2:] == [98, 99]
    assert len(got) + sum(number for _, number in got) == 99


@pytest.mark.usefixtures("small_buffers")
async def test_pages_without_an_event_that_passes_the_filter_are_skipped(
    manager: TopicManager,
) -> None:
    first, *_ = await publish(manager, *["a"] * 100)
    stream = manager.subscribe(PRICES, after=first, where=lambda price: price.value == 99)

    assert await read(stream, last=99) == [(99, 0)]


async def test_a_slow_subscriber_gets_every_one_of_many_keys(
    manager: TopicManager,
) -> None:
    """If only the newest event counted, the subscriber would get the same key forever."""
    stream = await started(manager.subscribe(PRICES))
    seen = set[str | None]()
    for _ in range(5):
        await publish(manager, *"abcde")
        [price] = await take(stream, 1)
        seen.add(price.symbol)
    await stream.aclose()

    assert seen == set("abcde")


async def test_map_and_an_own_generator_see_how_many_events_were_skipped(
    manager: TopicManager,
) -> None:
    stream = manager.subscribe(PRICES).map(lambda price, event: (price.value, event.cursor.seq))
    await stream.start()
    await publish(manager, "a", "a", "a")

    assert await take(stream, 1) == [(2, 3)]
    assert stream.conflated == 2
    await stream.aclose()


async def test_a_lost_history_is_reported_and_not_conflated() -> None:
    manager = TopicManager(MemoryBroker(length=10), settings=Settings(topic_linger=0))
    first, *_ = await publish(manager, *["a"] * 100)
    with pytest.raises(CursorExpired):
        await started(manager.subscribe(PRICES, after=first))
    await manager.close()


async def test_a_gap_of_a_lagging_subscriber_is_reported() -> None:
    broker = LosingItsData()
    manager = TopicManager(broker, settings=Settings(topic_linger=0))
    stream = await started(manager.subscribe(PRICES))
    await publish(manager, "a", "a")
    assert await take(stream, 1) == [Price("a", 1)]
    broker._histories.clear()
    await publish(manager, "a", "a")
    with pytest.raises(CursorExpired):
        await take(stream, 1)
    await manager.close()


async def test_an_unreadable_payload_is_reported_in_order(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(PRICES))
    stream.yields_errors = True
    await publish(manager, "a", "a")
    await manager.publish(Topic("prices", str), "no price")
    await publish(manager, "b")

    assert (await take(stream, 1), stream.conflated) == ([Price("a", 1)], 1)
    [unreadable] = await take(stream, 1)
    assert isinstance(unreadable, EventUnreadable)
    assert await take(stream, 1) == [Price("b", 0)]
    await stream.aclose()


@pytest.mark.parametrize("broken", [lambda price: [price.symbol], lambda price: price.nothing])
async def test_an_invalid_key_ends_the_subscription_of_a_lagging_subscriber(
    manager: TopicManager, broken: Any
) -> None:
    stream = await started(manager.subscribe(Topic("prices", Price, latest_by=broken)))
    await publish(manager, "a", "a")
    with pytest.raises((TypeError, AttributeError)):
        await take(stream, 1)
    await stream.aclose()


async def test_redis_conflates_in_the_same_way(redis_url: str) -> None:
    manager = TopicManager(RedisBroker(redis_url, length=1000, seconds=60))
    topic = Topic(f"prices-{uuid4()}", Price, latest_by=symbol_of)
    first, *_ = await publish(manager, *["a", "b", "c"] * 200, topic=topic)
    got = await read(manager.subscribe(topic, after=first), last=599)
    await manager.close()

    assert [value for value, _ in got][-3:] == [597, 598, 599]
    assert len(got) <= 3 * (1 + 599 // live_topic.PAGE_SIZE)
    assert len(got) + sum(number for _, number in got) == 599
