"""What the scripts store in Redis, what they delete, and when they start a new epoch."""

import asyncio

import pytest

from gqlnotify import Topic
from gqlnotify.brokers.redis import Message, Sender, scripts
from gqlnotify.event import Cursor
from gqlnotify.settings import HELLOS, Bounds, Retention
from tests.brokers.redis.conftest import Launch, master_and_replica
from tests.brokers.redis.support import (
    ALL,
    TIMEOUT,
    is_expired,
    listening,
    new_topic,
    numbers,
    published,
    stream_key,
)
from tests.redis_servers import RedisServer
from tests.waiting import wait_until

# Redis trims whole blocks of a stream: so many entries.
BLOCK = 100

# What the scripts know about when topics began.
BEGUN = "gqlnotify:begun"
WEEK = 7 * 24 * 3600


async def test_every_key_has_an_end_from_its_first_moment(each_redis: RedisServer) -> None:
    topic = new_topic()
    async with listening(each_redis.url, seconds=100) as ears:
        await ears.broker.head(topic)
        assert 0 < each_redis.ask("TTL", BEGUN) <= WEEK
        await ears.broker.publish(topic, b"x", event_id="a")
        for key in (stream_key(topic), stream_key(topic) + ":ids"):
            assert 0 < each_redis.ask("TTL", key) <= 2 * 100 + 60


async def test_each_event_makes_its_topic_live_on(each_redis: RedisServer) -> None:
    topic = new_topic()
    async with listening(each_redis.url, seconds=100) as ears:
        await ears.broker.publish(topic, b"x", event_id="a")
        for key in (stream_key(topic), stream_key(topic) + ":ids"):
            each_redis.ask("PEXPIRE", key, 5000)
        await ears.broker.publish(topic, b"x", event_id="b")
        for key in (stream_key(topic), stream_key(topic) + ":ids"):
            assert each_redis.ask("TTL", key) > 5


async def test_the_history_is_bounded_by_length(each_redis: RedisServer) -> None:
    topic = new_topic()
    async with listening(each_redis.url, length=50) as ears:
        await asyncio.gather(*(ears.broker.publish(topic, b"x") for _ in range(1000)))

    assert 50 <= each_redis.ask("XLEN", stream_key(topic)) <= 50 + BLOCK + 1


async def test_the_history_is_bounded_by_age(each_redis: RedisServer) -> None:
    topic = new_topic()
    async with listening(each_redis.url, seconds=0.1) as ears:
        for event in await published(ears.broker, topic, [b"x"] * 250):
            last = event.cursor
        await wait_until(lambda: is_expired(ears.broker, topic, Cursor(last.epoch, last.seq - 1)))

        async def is_trimmed() -> bool:
            await ears.broker.publish(topic, b"y")
            return int(each_redis.ask("XLEN", stream_key(topic))) < 150

        await wait_until(is_trimmed)


async def test_a_topic_has_the_bounds_of_its_pattern(each_redis: RedisServer) -> None:
    name = new_topic()
    small, large = f"{name}.small", f"{name}.large"
    bounds = {"*.small": Bounds(length=10, seconds=100)}
    async with listening(each_redis.url, length=400, seconds=1000, per_topic=bounds) as ears:
        await published(ears.broker, small, [b"x"] * 400)
        await published(ears.broker, large, [b"x"] * 400)

    assert each_redis.ask("XLEN", stream_key(small)) <= 10 + BLOCK + 1
    assert each_redis.ask("XLEN", stream_key(large)) == 401
    assert each_redis.ask("TTL", stream_key(small)) <= 260
    assert each_redis.ask("TTL", stream_key(large)) > 1060


async def test_event_ids_are_forgotten_with_their_events(each_redis: RedisServer) -> None:
    topic = new_topic()
    async with listening(each_redis.url, length=50) as ears:
        for number in range(1000):
            await ears.broker.publish(topic, b"x", event_id=str(number))

    assert each_redis.ask("ZCARD", stream_key(topic) + ":ids") <= 50 + BLOCK + 1


async def test_an_event_id_of_the_last_epoch_is_still_known(launch: Launch) -> None:
    server, topic = launch(persistent=True), new_topic()
    async with listening(server.url) as ears:
        first = await ears.broker.publish(topic, b"x", event_id="a")
        await ears.broker.publish(topic, b"y", event_id="b")
    server.restart()
    async with listening(server.url) as ears:
        assert await ears.broker.publish(topic, b"x", event_id="a") == first
        third = await ears.broker.publish(topic, b"z", event_id="c")
        assert third.epoch > first.epoch
        assert await ears.broker.publish(topic, b"x", event_id="a") == first


async def test_a_restart_starts_a_new_epoch_and_keeps_every_cursor_valid(launch: Launch) -> None:
    server, topic = launch(persistent=True), new_topic()
    async with listening(server.url) as ears:
        old = await published(ears.broker, topic, [b"1", b"2", b"3"])
    server.restart()
    async with listening(server.url) as ears:
        new = await published(ears.broker, topic, [b"4", b"5"])

        assert [event.cursor.seq for event in new] == [4, 5]
        assert new[0].cursor.epoch == new[1].cursor.epoch > old[0].cursor.epoch
        whole = [*old, *new]
        for at, event in enumerate(whole):
            assert await ears.broker.read(topic, event.cursor, ALL) == whole[at + 1 :]


async def test_events_that_a_rewound_server_lost_are_expired_and_the_others_are_not(
    launch: Launch,
) -> None:
    server, topic = launch(), new_topic()
    async with listening(server.url) as ears:
        kept = await published(ears.broker, topic, [b"1", b"2", b"3"])
        server.ask("SAVE")
        lost = await published(ears.broker, topic, [b"4", b"5"])
    server.kill()
    server.start()
    async with listening(server.url) as ears:
        for event in lost:
            assert await is_expired(ears.broker, topic, event.cursor)
        new = await published(ears.broker, topic, [b"four", b"five", b"six"])

        for event in lost:
            assert await is_expired(ears.broker, topic, event.cursor)
        for at, event in enumerate(kept, start=1):
            assert await ears.broker.read(topic, event.cursor, ALL) == [*kept[at:], *new]


async def test_events_that_a_promoted_replica_never_had_are_expired(
    launch: Launch,
) -> None:
    master, replica, topic = *master_and_replica(launch), new_topic()
    async with listening(master.url) as ears:
        kept = await published(ears.broker, topic, [b"1", b"2", b"3"])
        master.ask("WAIT", 1, 0)
        replica.ask("REPLICAOF", "NO", "ONE")
        lost = await published(ears.broker, topic, [b"4", b"5"])
    async with listening(replica.url) as ears:
        new = await published(ears.broker, topic, [b"four", b"five"])

        for event in lost:
            assert await is_expired(ears.broker, topic, event.cursor)
        assert await ears.broker.read(topic, kept[-1].cursor, ALL) == new


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB", "DEL"])
async def test_lost_data_starts_a_new_epoch_and_expires_every_old_cursor(
    launch: Launch, command: str
) -> None:
    server, topic = launch(), new_topic()
    async with listening(server.url) as ears:
        old = await published(ears.broker, topic, [b"1", b"2"])
        server.ask(*([command, stream_key(topic)] if command == "DEL" else [command]))
        assert await is_expired(ears.broker, topic, old[-1].cursor)
        [new] = await published(ears.broker, topic, [b"new"])

        assert new.cursor.seq == 1
        assert new.cursor.epoch > old[0].cursor.epoch
        for cursor in (Cursor(old[0].cursor.epoch, 0), *(event.cursor for event in old)):
            assert await is_expired(ears.broker, topic, cursor)


async def test_event_ids_do_not_outlive_a_history_that_was_lost(each_redis: RedisServer) -> None:
    topic = new_topic()
    async with listening(each_redis.url) as ears:
        await ears.broker.publish(topic, b"x")
        await ears.broker.publish(topic, b"x", event_id="a")
        each_redis.ask("DEL", stream_key(topic))

        assert (await ears.broker.publish(topic, b"x", event_id="a")).seq == 1


async def test_the_scripts_are_loaded_again_where_they_were_forgotten(
    each_redis: RedisServer,
) -> None:
    topic = new_topic()
    async with listening(each_redis.url) as ears:
        first = await ears.broker.publish(topic, b"1")
        each_redis.ask("SCRIPT", "FLUSH")
        cursors = await asyncio.gather(*(ears.broker.publish(topic, b"x") for _ in range(40)))

        assert sorted(cursor.seq for cursor in cursors) == list(range(2, 42))
        each_redis.ask("SCRIPT", "FLUSH")
        assert len(await ears.broker.read(topic, first, ALL)) == 40
        each_redis.ask("SCRIPT", "FLUSH")
        assert (await ears.broker.head(topic)).seq == 41


async def test_no_part_of_a_batch_waits_for_the_script(launch: Launch) -> None:
    server, several = launch(), [new_topic(), new_topic()]
    retention = Retention(1000, 3600, {})
    sender = Sender(server.url, retention=retention, timeout=TIMEOUT, prefix="gqlnotify")
    cursors = await sender.send([Message(topic, b"x", None) for topic in several * 100])
    await sender.aclose()

    assert [cursor.seq for cursor in cursors[::2]] == list(range(1, 101))
    assert "errorstat_NOSCRIPT" not in server.ask("INFO", "errorstats")


async def test_a_huge_seq_is_counted_on_exactly(each_redis: RedisServer) -> None:
    topic, epoch, seq = new_topic(), 1_700_000_000_000_000, 3_000_000_000_000
    async with listening(each_redis.url) as ears:
        await ears.broker.publish(topic, b"x")
        key = stream_key(topic)
        [[_, fields], _] = each_redis.ask("XRANGE", key, "-", "+")
        each_redis.ask("DEL", key)
        pairs = [part for pair in fields.items() for part in pair]
        each_redis.ask("XADD", key, f"{epoch}-{seq}", *pairs)

        assert await ears.broker.publish(topic, b"x") == Cursor(epoch, seq + 1)


# topics without an event


async def test_cursors_of_empty_topics_need_one_key_for_all_of_them(
    launch: Launch,
) -> None:
    server = launch()
    async with numbers(server.url) as stream:
        topics = [Topic(new_topic(), int) for _ in range(1000)]
        streams = [stream.manager.subscribe(topic) for topic in topics]
        for topic, one in zip(topics, streams, strict=True):
            await stream.manager.oldest(topic)
            await one.start()
        for one in streams:
            await one.aclose()

        keys = [key for key in server.ask("KEYS", "*") if HELLOS.encode() not in key]
        assert keys == [BEGUN.encode()]


async def test_a_full_server_returns_the_cursor_of_a_topic_without_events(launch: Launch) -> None:
    server, topic = launch(), new_topic()
    async with listening(server.url) as ears:
        await ears.broker.head(new_topic())
        server.ask("CONFIG", "SET", "maxmemory", "1")
        start = await ears.broker.head(topic)
        server.ask("CONFIG", "SET", "maxmemory", "0")
        [event] = await published(ears.broker, topic, [b"1"])

        assert await ears.broker.read(topic, start, ALL) == [event]


async def test_the_cursor_of_an_empty_topic_survives_a_week_without_new_topics(
    launch: Launch,
) -> None:
    server = launch()
    async with listening(server.url) as ears:
        await ears.broker.head(new_topic())
        server.ask("EXPIRE", BEGUN, 100)
        await ears.broker.head(new_topic())

        assert server.ask("TTL", BEGUN) > WEEK - 100


@pytest.mark.parametrize("ask", ["head", "oldest"])
async def test_a_subscriber_that_left_before_the_first_event_gets_it_at_another_process(
    each_redis: RedisServer, ask: str
) -> None:
    topic = new_topic()
    async with listening(each_redis.url) as ears:
        start = await getattr(ears.broker, ask)(topic)
    retention = Retention(1000, 3600, {})
    sender = Sender(each_redis.url, retention=retention, timeout=TIMEOUT, prefix="gqlnotify")
    cursors = await sender.send([Message(topic, b"1", None), Message(topic, b"2", "an id")])
    await sender.aclose()
    async with listening(each_redis.url) as ears:
        events = await ears.broker.read(topic, start, ALL)

        assert [event.cursor for event in events] == cursors
        assert await ears.broker.read(topic, start, 1) == events[:1]


@pytest.mark.parametrize("lost", ["all data", "the topic", "when topics began", "topic and when"])
@pytest.mark.parametrize("again", [False, True], ids=["for good", "and published again"])
async def test_no_event_that_was_lost_with_its_topic_is_passed_over(
    launch: Launch, lost: str, again: bool
) -> None:
    server, topic = launch(), new_topic()
    keys = (stream_key(topic), stream_key(topic) + ":ids")
    command = {
        "all data": ("FLUSHALL",),
        "the topic": ("DEL", *keys),
        "when topics began": ("DEL", BEGUN),
        "topic and when": ("DEL", *keys, BEGUN),
    }[lost]
    async with listening(server.url) as ears:
        start = await ears.broker.head(topic)
        [first] = await published(ears.broker, topic, [b"1"])
        server.ask(*command)
        kept = [first] if lost == "when topics began" else []
        if again:
            kept += await published(ears.broker, topic, [b"2"])
        if lost == "when topics began":
            assert await ears.broker.read(topic, start, ALL) == kept
        else:
            assert await is_expired(ears.broker, topic, start)
            assert await is_expired(ears.broker, topic, Cursor(first.cursor.epoch, 0))

        late = await ears.broker.head(topic)
        later = await published(ears.broker, topic, [b"3"])
        assert await ears.broker.read(topic, late, ALL) == later


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("event", [True, False], ids=["an event", "no event"])
async def test_a_restart_keeps_the_cursor_of_a_topic_without_an_event_if_it_keeps_the_data(
    launch: Launch, persistent: bool, event: bool
) -> None:
    server, topic = launch(persistent=persistent), new_topic()
    async with listening(server.url) as ears:
        start = await ears.broker.head(topic)
        events = await published(ears.broker, topic, [b"1"] if event else [])
    server.restart()
    async with listening(server.url) as ears:
        if not persistent:
            assert await is_expired(ears.broker, topic, start)
        events += await published(ears.broker, topic, [b"2"])

        if persistent:
            assert await ears.broker.read(topic, start, ALL) == events
        else:
            assert await is_expired(ears.broker, topic, start)


@pytest.mark.parametrize("event", [True, False], ids=["an event", "no event"])
async def test_a_promoted_replica_knows_the_cursor_of_a_topic_without_an_event(
    launch: Launch, event: bool
) -> None:
    master, replica, topic = *master_and_replica(launch), new_topic()
    async with listening(master.url) as ears:
        start = await ears.broker.head(topic)
        events = await published(ears.broker, topic, [b"1"] if event else [])
        # Without a write there is nothing to wait for.
        await wait_until(lambda: replica.ask("EXISTS", BEGUN))
        master.ask("WAIT", 1, 0)
    replica.ask("REPLICAOF", "NO", "ONE")
    async with listening(replica.url) as ears:
        events += await published(ears.broker, topic, [b"2"])

        assert await ears.broker.read(topic, start, ALL) == events


async def test_a_topic_that_ended_and_began_again_has_only_the_later_cursors(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "_GRACE_SECONDS", 0.1)
    server, topic = launch(), new_topic()
    async with listening(server.url, seconds=0.05) as ears:
        early = await ears.broker.head(topic)
        await ears.broker.publish(topic, b"old")
        await wait_until(lambda: not server.ask("EXISTS", stream_key(topic)))
        assert await is_expired(ears.broker, topic, early)
        late = await ears.broker.head(topic)
        assert await ears.broker.read(topic, late, ALL) == []
    async with listening(server.url, seconds=100) as ears:
        [new] = await published(ears.broker, topic, [b"new"])

        assert await ears.broker.read(topic, late, ALL) == [new]
        assert await is_expired(ears.broker, topic, early)


async def test_the_cursor_of_a_topic_without_an_event_expires_with_its_first_event(
    each_redis: RedisServer,
) -> None:
    topic = new_topic()
    async with listening(each_redis.url, seconds=0.1) as ears:
        start = await ears.broker.head(topic)
        await ears.broker.publish(topic, b"old")
        await wait_until(lambda: is_expired(ears.broker, topic, start))
        await ears.broker.publish(topic, b"new")

        assert await is_expired(ears.broker, topic, start)


async def test_the_cursor_of_a_topic_without_an_event_is_outrun_by_so_many_newer_topics(
    launch: Launch,
) -> None:
    server, topic, quiet = launch(), new_topic(), new_topic()
    async with listening(server.url) as ears:
        start, other = await ears.broker.head(topic), await ears.broker.head(quiet)
        events = await published(ears.broker, topic, [b"1"])
        newer = [part for n in range(100_000) for part in (events[0].cursor.epoch + n, f"x{n}")]
        server.ask("ZADD", BEGUN, *newer)
        events += await published(ears.broker, topic, [b"2"])
        await ears.broker.publish(new_topic(), b"x")

        assert server.ask("ZCARD", BEGUN) == 100_000
        assert await ears.broker.read(topic, start, ALL) == events
        assert await is_expired(ears.broker, quiet, other)
        fresh = await ears.broker.head(quiet)
        assert await ears.broker.read(quiet, fresh, ALL) == []


async def test_a_clock_that_was_set_back_puts_no_cursor_before_what_was_published(
    launch: Launch,
) -> None:
    server, topic = launch(), new_topic()
    async with listening(server.url) as ears:
        future = (await ears.broker.head(topic)).epoch + 1_000_000_000
        server.ask("ZADD", BEGUN, future, stream_key(topic))
        start = await ears.broker.head(topic)
        assert start.epoch > future
        events = await published(ears.broker, topic, [b"1"])

        assert await ears.broker.read(topic, start, ALL) == events
        assert await is_expired(ears.broker, topic, Cursor(future, 0))
