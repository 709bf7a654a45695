"""One test for each promise of `gqlnotify.brokers.base`, without a look inside a broker.

A broker's own test module says `class TestThatBroker(BrokerContract)` and how to make one.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from gqlnotify.brokers import Broker
from gqlnotify.errors import CursorExpired
from gqlnotify.event import Cursor, Event
from tests.waiting import wait_until

LENGTH = 20
# A broker may trim in blocks: this many events beyond its length must make it forget the oldest.
SLACK = 1000
SECONDS = 0.2
ALL = 1_000_000


class BrokerContract(ABC):
    @abstractmethod
    async def make(self, *, length: int, seconds: float) -> Broker:
        """Return a broker, not started, that keeps `length` events a topic for `seconds`."""

    @pytest.fixture
    def delivered(self) -> list[Event]:
        return []

    @pytest.fixture
    async def broker(self, delivered: list[Event]) -> AsyncIterator[Broker]:
        broker = await self.make(length=LENGTH, seconds=3600)
        await broker.start(delivered.append, lambda _topic: None)
        yield broker
        await broker.close()

    @pytest.fixture
    async def forgetful(self, delivered: list[Event]) -> AsyncIterator[Broker]:
        broker = await self.make(length=LENGTH, seconds=SECONDS)
        await broker.start(delivered.append, lambda _topic: None)
        yield broker
        await broker.close()

    @pytest.fixture
    def topic(self) -> str:
        return _new_topic()

    # publish

    async def test_the_first_event_has_seq_1_and_each_later_one_the_next_number(
        self, broker: Broker, topic: str
    ) -> None:
        cursors = [await broker.publish(topic, b"x") for _ in range(5)]

        assert [cursor.seq for cursor in cursors] == [1, 2, 3, 4, 5]
        assert len({cursor.epoch for cursor in cursors}) == 1

    async def test_concurrent_publishers_get_distinct_contiguous_cursors(
        self, broker: Broker, topic: str
    ) -> None:
        payloads = [b"%d" % n for n in range(LENGTH)]
        cursors = await asyncio.gather(*(broker.publish(topic, payload) for payload in payloads))

        assert sorted(cursor.seq for cursor in cursors) == list(range(1, LENGTH + 1))
        kept = await broker.read(topic, Cursor(cursors[0].epoch, 0), ALL)
        assert {(e.cursor, e.payload) for e in kept} == set(zip(cursors, payloads, strict=True))

    async def test_a_repeated_event_id_appends_nothing_and_returns_the_first_cursor(
        self, broker: Broker, topic: str
    ) -> None:
        start = await broker.head(topic)
        first = await broker.publish(topic, b"first", event_id="a")
        between = await broker.publish(topic, b"between", event_id="b")

        assert await broker.publish(topic, b"again", event_id="a") == first
        assert await broker.head(topic) == between
        assert [e.payload for e in await broker.read(topic, start, ALL)] == [b"first", b"between"]

    async def test_of_concurrent_publishers_with_one_event_id_one_appends(
        self, broker: Broker, topic: str
    ) -> None:
        cursors = await asyncio.gather(
            *(broker.publish(topic, b"x", event_id="same") for _ in range(10))
        )

        assert len(set(cursors)) == 1
        assert (await broker.head(topic)).seq == 1

    async def test_an_event_id_is_remembered_only_for_its_own_topic(
        self, broker: Broker, topic: str
    ) -> None:
        other = _new_topic()
        await broker.publish(topic, b"here", event_id="a")
        elsewhere = await broker.publish(other, b"there", event_id="a")

        kept = await broker.read(other, Cursor(elsewhere.epoch, 0), ALL)
        assert kept == [Event(other, elsewhere, b"there", "a")]

    async def test_events_without_an_id_are_never_taken_for_repeats(
        self, broker: Broker, topic: str
    ) -> None:
        first = await broker.publish(topic, b"x")

        assert await broker.publish(topic, b"x") == first.next()

    @pytest.mark.parametrize(
        "payload",
        [b"", bytes(range(256)), b"\r\n$3\r\nfoo\r\n", b"\xff" * (128 * 1024)],
        ids=["empty", "all bytes", "protocol text", "128 KiB"],
    )
    async def test_a_payload_arrives_unchanged_live_and_from_the_history(
        self, broker: Broker, topic: str, delivered: list[Event], payload: bytes
    ) -> None:
        start = await broker.head(topic)
        await broker.subscribe(topic)
        await broker.publish(topic, payload)

        await wait_until(lambda: delivered)
        assert delivered[0].payload == payload
        assert [e.payload for e in await broker.read(topic, start, ALL)] == [payload]

    async def test_a_topic_name_and_an_event_id_are_opaque(
        self, broker: Broker, delivered: list[Event]
    ) -> None:
        topic, event_id = f"{_new_topic()}.a:b@c+d-e_{'f' * 100}", "{id} *\r\n\0 é\U0001f600"
        start = await broker.head(topic)
        await broker.subscribe(topic)
        cursor = await broker.publish(topic, b"x", event_id=event_id)

        expected = Event(topic, cursor, b"x", event_id)
        await wait_until(lambda: delivered == [expected])
        assert await broker.read(topic, start, ALL) == [expected]
        assert await broker.publish(topic, b"x", event_id=event_id) == cursor

    # head

    @pytest.mark.parametrize("ask", ["head", "oldest"])
    async def test_a_topic_without_an_event_is_at_seq_0_with_nothing_after_it(
        self, broker: Broker, topic: str, ask: str
    ) -> None:
        cursor = await getattr(broker, ask)(topic)

        assert cursor.seq == 0
        assert list(await broker.read(topic, cursor, ALL)) == []

    async def test_each_cursor_of_a_topic_without_an_event_brings_all_that_is_published_later(
        self, broker: Broker, topic: str
    ) -> None:
        cursors = [await broker.head(topic), await broker.oldest(topic), await broker.head(topic)]
        for cursor in cursors:
            assert list(await broker.read(topic, cursor, ALL)) == []
        events = await _publish(broker, topic, 3)

        for cursor in cursors:
            assert await broker.read(topic, cursor, ALL) == events
            assert await broker.read(topic, cursor, 2) == events[:2]
        assert cursors == sorted(cursors)
        assert events[0].cursor > cursors[-1]

    async def test_a_cursor_of_a_topic_without_an_event_expires_with_the_first_one(
        self, broker: Broker, topic: str
    ) -> None:
        start = await broker.head(topic)
        await _publish(broker, topic, LENGTH + SLACK)

        with pytest.raises(CursorExpired):
            await broker.read(topic, start, ALL)

    async def test_head_is_the_cursor_of_the_newest_event(self, broker: Broker, topic: str) -> None:
        await broker.publish(topic, b"1")
        newest = await broker.publish(topic, b"2")

        assert await broker.head(topic) == newest

    async def test_events_published_after_head_can_be_read_after_it(
        self, broker: Broker, topic: str
    ) -> None:
        empty = await broker.head(topic)
        first = await broker.publish(topic, b"1")
        assert await broker.read(topic, empty, ALL) == [Event(topic, first, b"1")]

        head = await broker.head(topic)
        second = await broker.publish(topic, b"2")
        assert await broker.read(topic, head, ALL) == [Event(topic, second, b"2")]

    async def test_concurrent_calls_of_head_return_the_same_cursor(
        self, broker: Broker, topic: str
    ) -> None:
        heads = await asyncio.gather(*(broker.head(topic) for _ in range(10)))
        events = await _publish(broker, topic, 1)

        assert [await broker.read(topic, head, ALL) for head in heads] == [events] * 10

    # read

    async def test_the_history_can_be_replayed_from_any_of_its_cursors(
        self, broker: Broker, topic: str
    ) -> None:
        events = await _publish(broker, topic, LENGTH)

        for after in range(LENGTH + 1):
            cursor = Cursor(events[0].cursor.epoch, after)
            assert await broker.read(topic, cursor, ALL) == events[after:]

    async def test_a_page_ends_at_its_limit_and_the_next_continues_there(
        self, broker: Broker, topic: str
    ) -> None:
        events = await _publish(broker, topic, LENGTH)

        for limit in (1, 3, LENGTH - 1, LENGTH, LENGTH + 1):
            position, pages = Cursor(events[0].cursor.epoch, 0), list[Event]()
            while page := await broker.read(topic, position, limit):
                assert len(page) <= limit
                pages += page
                position = page[-1].cursor
            assert pages == events

    async def test_every_reader_sees_the_same_order(self, broker: Broker, topic: str) -> None:
        start = await broker.head(topic)
        await asyncio.gather(*(broker.publish(topic, b"%d" % n) for n in range(LENGTH)))

        readings = await asyncio.gather(*(broker.read(topic, start, ALL) for _ in range(5)))
        assert [e.cursor.seq for e in readings[0]] == list(range(1, LENGTH + 1))
        assert all(reading == readings[0] for reading in readings)

    async def test_no_event_comes_after_the_head(self, broker: Broker, topic: str) -> None:
        await _publish(broker, topic, 3)

        assert list(await broker.read(topic, await broker.head(topic), ALL)) == []

    async def test_a_cursor_of_the_future_is_expired(self, broker: Broker, topic: str) -> None:
        head = (await _publish(broker, topic, 3))[-1].cursor

        with pytest.raises(CursorExpired):
            await broker.read(topic, head.next(), ALL)

    @pytest.mark.parametrize("distance", [-1, 1])
    async def test_a_cursor_of_another_epoch_is_expired(
        self, broker: Broker, topic: str, distance: int
    ) -> None:
        first, *_, last = await _publish(broker, topic, 3)

        for seq in (first.cursor.seq, last.cursor.seq):
            with pytest.raises(CursorExpired):
                await broker.read(topic, Cursor(first.cursor.epoch + distance, seq), ALL)

    async def test_a_cursor_from_a_future_without_events_is_expired(
        self, broker: Broker, topic: str
    ) -> None:
        future = 9_999_999_999_999_999
        for _ in range(2):
            with pytest.raises(CursorExpired):
                await broker.read(topic, Cursor(future, 0), ALL)
            head = await broker.publish(topic, b"x")
        with pytest.raises(CursorExpired):
            await broker.read(topic, Cursor(head.epoch + 1, 0), ALL)

    async def test_a_cursor_of_a_topic_without_a_history_is_expired(
        self, broker: Broker, topic: str
    ) -> None:
        with pytest.raises(CursorExpired):
            await broker.read(topic, Cursor(1, 0), ALL)

    async def test_topics_are_separate(self, broker: Broker, delivered: list[Event]) -> None:
        here, there = _new_topic(), _new_topic()
        await broker.subscribe(here)
        start = await broker.head(here)
        await broker.publish(there, b"there")
        cursor = await broker.publish(here, b"here")

        assert cursor.seq == 1
        assert await broker.read(here, start, ALL) == [Event(here, cursor, b"here")]
        await wait_until(lambda: delivered)
        assert delivered == [Event(here, cursor, b"here")]

    async def test_a_cursor_of_one_topic_does_not_pass_for_anothers(self, broker: Broker) -> None:
        # Created at the same moment, and of the same length: only their epochs differ.
        topics = [_new_topic() for _ in range(10)]
        heads = await asyncio.gather(*(broker.publish(topic, b"x") for topic in topics))

        for topic, own in zip(topics, heads, strict=True):
            for head in heads:
                if head is not own:
                    with pytest.raises(CursorExpired):
                        await broker.read(topic, head, ALL)

    # check

    async def test_a_check_of_a_working_broker_passes_and_delivers_nothing(
        self, broker: Broker, topic: str, delivered: list[Event]
    ) -> None:
        await broker.subscribe(topic)
        await asyncio.gather(*(broker.check() for _ in range(5)))
        cursor = await broker.publish(topic, b"x")

        await wait_until(lambda: delivered)
        assert delivered == [Event(topic, cursor, b"x")]

    # bounds

    async def test_the_newest_events_are_kept_and_the_oldest_forgotten(
        self, broker: Broker, topic: str
    ) -> None:
        events = await _publish(broker, topic, LENGTH + SLACK)

        after = events[-LENGTH - 1].cursor
        assert await broker.read(topic, after, ALL) == events[-LENGTH:]
        with pytest.raises(CursorExpired):
            await broker.read(topic, Cursor(after.epoch, 0), ALL)

    async def test_all_remembered_events_come_after_the_oldest_cursor(
        self, broker: Broker, topic: str
    ) -> None:
        assert await broker.read(topic, await broker.oldest(topic), ALL) == []
        events = await _publish(broker, topic, 3)
        assert await broker.read(topic, await broker.oldest(topic), ALL) == events
        events += await _publish(broker, topic, LENGTH + SLACK)
        kept = await broker.read(topic, await broker.oldest(topic), ALL)
        assert LENGTH <= len(kept) < len(events)
        assert kept == events[-len(kept) :]

    async def test_the_oldest_cursor_advances_as_events_expire(
        self, forgetful: Broker, topic: str
    ) -> None:
        await forgetful.subscribe(topic)
        await forgetful.publish(topic, b"old")
        for _ in range(2):
            await _until_an_idle_topic_has_ended(forgetful)
        oldest = await forgetful.oldest(topic)
        assert oldest == await forgetful.head(topic)
        await forgetful.publish(topic, b"new")
        assert [e.payload for e in await forgetful.read(topic, oldest, ALL)] == [b"new"]

    async def test_a_page_never_has_a_gap(self, broker: Broker, topic: str) -> None:
        events = await _publish(broker, topic, LENGTH + SLACK)

        expired = 0
        for after in range(len(events)):
            try:
                page = await broker.read(topic, Cursor(events[0].cursor.epoch, after), 3)
            except CursorExpired:
                expired += 1
                assert expired == after + 1, "An older cursor was served, a newer one was not"
            else:
                assert page == events[after : after + 3]
        assert 0 < expired <= SLACK

    async def test_an_event_id_is_forgotten_with_its_event(
        self, broker: Broker, topic: str
    ) -> None:
        await broker.publish(topic, b"x", event_id="a")
        await _publish(broker, topic, LENGTH + SLACK)
        head = await broker.head(topic)

        assert await broker.publish(topic, b"x", event_id="a") == head.next()

    async def test_the_history_of_an_idle_topic_ends_with_its_time(
        self, forgetful: Broker, topic: str
    ) -> None:
        start = await forgetful.head(topic)
        await forgetful.publish(topic, b"x")
        assert not await _is_expired(forgetful, topic, start)

        await wait_until(lambda: _is_expired(forgetful, topic, start))

    async def test_an_idle_topic_with_subscribers_is_kept(
        self, forgetful: Broker, topic: str
    ) -> None:
        await forgetful.subscribe(topic)
        head = await forgetful.publish(topic, b"x")
        for _ in range(2):
            await _until_an_idle_topic_has_ended(forgetful)

        assert await forgetful.head(topic) == head
        assert await forgetful.publish(topic, b"y") == head.next()

    async def test_an_idle_empty_topic_with_subscribers_is_kept(
        self, forgetful: Broker, topic: str
    ) -> None:
        await forgetful.subscribe(topic)
        head = await forgetful.head(topic)
        for _ in range(2):
            await _until_an_idle_topic_has_ended(forgetful)

        cursor = await forgetful.publish(topic, b"x")
        assert cursor.seq == 1
        assert await forgetful.read(topic, head, ALL) == [Event(topic, cursor, b"x")]

    # the live path

    async def test_events_published_after_subscribe_are_delivered_as_in_the_history(
        self, broker: Broker, topic: str, delivered: list[Event]
    ) -> None:
        await broker.subscribe(topic)
        start = await broker.head(topic)
        await broker.publish(topic, b"1", event_id="a")
        await broker.publish(topic, b"2")

        await wait_until(lambda: len(delivered) == 2)
        assert delivered == list(await broker.read(topic, start, ALL))

    async def test_events_of_other_topics_are_not_delivered(
        self, broker: Broker, topic: str, delivered: list[Event]
    ) -> None:
        heard = _new_topic()
        await broker.subscribe(heard)
        await broker.publish(topic, b"unheard")
        await broker.publish(heard, b"heard")

        await wait_until(lambda: delivered)
        assert [e.topic for e in delivered] == [heard]

    async def test_subscribing_twice_delivers_once(
        self, broker: Broker, topic: str, delivered: list[Event]
    ) -> None:
        await broker.subscribe(topic)
        await broker.subscribe(topic)
        await _publish(broker, topic, 3)

        await wait_until(lambda: len(delivered) >= 3)
        assert [e.cursor.seq for e in delivered] == [1, 2, 3]

    async def test_unsubscribe_stops_the_delivery(
        self, broker: Broker, topic: str, delivered: list[Event]
    ) -> None:
        other = _new_topic()
        await broker.subscribe(topic)
        await broker.subscribe(other)
        await broker.unsubscribe(topic)
        await broker.publish(topic, b"x")
        await broker.publish(other, b"y")

        await wait_until(lambda: delivered)
        assert [e.topic for e in delivered] == [other]

    async def test_unsubscribing_without_a_subscription_is_no_error(
        self, broker: Broker, topic: str
    ) -> None:
        await broker.unsubscribe(topic)
        await broker.publish(topic, b"x")
        await broker.unsubscribe(topic)

    async def test_subscribing_again_delivers_again(
        self, broker: Broker, topic: str, delivered: list[Event]
    ) -> None:
        await broker.subscribe(topic)
        await broker.unsubscribe(topic)
        await broker.publish(topic, b"missed")
        await broker.subscribe(topic)
        await broker.publish(topic, b"heard")

        await wait_until(lambda: delivered and delivered[-1].payload == b"heard")

    async def test_a_subscription_ends_neither_the_history_nor_its_count(
        self, broker: Broker, topic: str
    ) -> None:
        start = await broker.head(topic)
        await broker.publish(topic, b"1")
        await broker.subscribe(topic)
        await broker.publish(topic, b"2")
        await broker.unsubscribe(topic)
        await broker.publish(topic, b"3")

        assert [e.payload for e in await broker.read(topic, start, ALL)] == [b"1", b"2", b"3"]

    # start and close

    async def test_a_closed_broker_may_be_started_again(
        self, broker: Broker, topic: str, delivered: list[Event]
    ) -> None:
        await broker.subscribe(topic)
        await broker.close()
        later = list[Event]()
        await broker.start(later.append, lambda _topic: None)
        await broker.subscribe(topic)
        cursor = await broker.publish(topic, b"x")

        await wait_until(lambda: later == [Event(topic, cursor, b"x")])
        assert delivered == []

    async def test_a_closed_broker_has_forgotten_what_was_subscribed(
        self, broker: Broker, topic: str
    ) -> None:
        await broker.subscribe(topic)
        await broker.close()
        later, other = list[Event](), _new_topic()
        await broker.start(later.append, lambda _topic: None)
        await broker.subscribe(other)
        await broker.publish(topic, b"x")
        await broker.publish(other, b"y")

        await wait_until(lambda: later)
        assert [e.topic for e in later] == [other]

    async def test_a_broker_can_be_closed_before_its_start(self) -> None:
        await (await self.make(length=1, seconds=1)).close()


def _new_topic() -> str:
    return f"contract.{uuid4().hex}"


async def _publish(broker: Broker, topic: str, count: int) -> list[Event]:
    payloads = [b"%d" % n for n in range(count)]
    return [Event(topic, await broker.publish(topic, payload), payload) for payload in payloads]


async def _is_expired(broker: Broker, topic: str, cursor: Cursor) -> bool:
    try:
        await broker.read(topic, cursor, ALL)
    except CursorExpired:
        return True
    return False


async def _until_an_idle_topic_has_ended(broker: Broker) -> None:
    clock = _new_topic()
    start = await broker.head(clock)
    await broker.publish(clock, b"tick")
    await wait_until(lambda: _is_expired(broker, clock, start))
