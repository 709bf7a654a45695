"""The in-process broker."""

import asyncio

import pytest

from gqlnotify import Settings
from gqlnotify.brokers import Broker, MemoryBroker, from_settings
from gqlnotify.errors import CursorExpired
from gqlnotify.event import Cursor, Event
from gqlnotify.settings import Bounds
from tests.brokers.contract import ALL, BrokerContract
from tests.brokers.positions_contract import PositionsContract
from tests.brokers.presence_contract import PresenceContract
from tests.waiting import wait_until

A_WHILE = 0.05


class TestMemoryBroker(BrokerContract, PositionsContract, PresenceContract):
    async def make(self, *, length: int, seconds: float) -> Broker:
        return MemoryBroker(length=length, seconds=seconds)


async def test_the_memory_broker_keeps_exactly_its_length() -> None:
    broker = MemoryBroker(length=3)
    cursors = [await broker.publish("t", b"%d" % n) for n in range(10)]

    kept = await broker.read("t", cursors[-4], ALL)
    assert [e.payload for e in kept] == [b"7", b"8", b"9"]


async def test_a_topic_that_matches_a_pattern_has_its_bounds() -> None:
    broker = MemoryBroker(length=3, per_topic={"long.*": Bounds(length=5)})
    for topic, length in (("long.x", 5), ("other", 3)):
        start = await broker.head(topic)
        cursors = [await broker.publish(topic, b"%d" % n) for n in range(10)]

        assert len(await broker.read(topic, cursors[-length - 1], ALL)) == length
        with pytest.raises(CursorExpired):
            await broker.read(topic, cursors[-length - 2], ALL)
        with pytest.raises(CursorExpired):
            await broker.read(topic, start, ALL)


async def test_a_topic_that_fits_a_pattern_is_forgotten_after_its_own_time() -> None:
    broker = MemoryBroker(per_topic={"short": Bounds(seconds=A_WHILE)})
    lasting = await broker.publish("lasting", b"x")
    await broker.publish("short", b"x")

    async def short_one_has_gone() -> bool:
        await broker.publish("busy", b"x")
        return "short" not in broker._histories

    await wait_until(short_one_has_gone)
    assert await broker.head("lasting") == lasting


async def test_the_check_of_the_memory_broker_always_passes() -> None:
    await MemoryBroker().check()


async def test_an_old_event_expires_though_newer_ones_keep_the_topic_in_use() -> None:
    broker = MemoryBroker(seconds=A_WHILE)
    start = await broker.head("t")
    await broker.publish("t", b"old")

    async def old_one_has_gone() -> bool:
        newest = await broker.publish("t", b"new")
        return newest.seq - len(broker._histories["t"].events) > start.seq

    await wait_until(old_one_has_gone)
    assert (await broker.head("t")).epoch == start.epoch


async def test_the_history_survives_closing_as_long_as_the_broker_does() -> None:
    broker = MemoryBroker()
    start = await broker.head("t")
    cursor = await broker.publish("t", b"x")
    await broker.close()

    assert await broker.read("t", start, ALL) == [Event("t", cursor, b"x")]


async def test_the_memory_broker_can_publish_before_its_start() -> None:
    broker = MemoryBroker()
    await broker.subscribe("t")

    assert (await broker.publish("t", b"x")).seq == 1


async def test_unused_topics_free_their_memory() -> None:
    broker = MemoryBroker(seconds=A_WHILE)
    for n in range(1000):
        await broker.publish(f"once.{n}", b"x")

    async def forgotten() -> bool:
        await broker.publish("busy", b"x")
        return len(broker._histories) == 1

    await wait_until(forgotten)


async def test_a_forgotten_topic_starts_a_later_epoch() -> None:
    broker = MemoryBroker(seconds=A_WHILE)
    first = await broker.publish("t", b"x")
    # A call to the broker would use the topic, and so keep it.
    deadline = asyncio.get_running_loop().time() + 2 * A_WHILE
    await wait_until(lambda: asyncio.get_running_loop().time() > deadline)

    second = await broker.publish("t", b"y")
    assert second.seq == 1
    assert second.epoch > first.epoch


async def test_a_topic_is_kept_for_a_while_after_its_last_subscriber_left() -> None:
    broker = MemoryBroker(seconds=A_WHILE)
    await broker.subscribe("t")
    head = await broker.publish("t", b"x")
    deadline = asyncio.get_running_loop().time() + 2 * A_WHILE
    await wait_until(lambda: asyncio.get_running_loop().time() > deadline)
    await broker.unsubscribe("t")

    assert await broker.head("t") == head


async def test_a_clock_that_stands_still_makes_no_epoch_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gqlnotify.clock.time.time", lambda: 1.0)
    broker = MemoryBroker()

    assert [await broker.head(t) for t in "abc"] == [Cursor(1000 + n, 0) for n in range(3)]


def test_the_settings_name_the_broker_and_its_bounds() -> None:
    other = {"prices.*": Bounds(length=3), "slow": Bounds(seconds=9)}
    broker = from_settings(Settings(history_length=7, history_seconds=8, history_per_topic=other))

    assert isinstance(broker, MemoryBroker)
    assert broker._retention.of("tasks") == Bounds(length=7, seconds=8)
    assert broker._retention.of("prices.gold") == Bounds(length=3, seconds=8)
    assert broker._retention.of("slow") == Bounds(length=7, seconds=9)


def test_an_unknown_scheme_is_named_in_the_refusal() -> None:
    with pytest.raises(ValueError, match="'carrier-pigeon'"):
        from_settings(Settings(broker_url="carrier-pigeon://coop"))
