"""What the scripts keep in Redis, what they let go of, and when they begin a new epoch."""

import asyncio

import pytest

from gqlnotify.brokers.redis import broker as redis_broker
from gqlnotify.event import Cursor
from gqlnotify.settings import Bounds
from tests.brokers.redis.conftest import Launch, master_and_replica
from tests.brokers.redis.support import (
    ALL,
    is_expired,
    listening,
    new_topic,
    published,
    stream_key,
)
from tests.redis_servers import RedisServer
from tests.waiting import wait_until

# Redis trims whole blocks of a stream: so many entries.
BLOCK = 100


async def test_every_key_has_an_end_from_its_first_moment(each_redis: RedisServer) -> None:
    topic = new_topic()
    async with listening(each_redis.url, seconds=100) as ears:
        await ears.broker.head(topic)
        assert 0 < each_redis.ask("TTL", stream_key(topic)) <= 2 * 100 + 60
        await ears.broker.publish(topic, b"x", event_id="a")
        for key in (stream_key(topic), stream_key(topic) + ":ids"):
            assert 0 < each_redis.ask("TTL", key) <= 2 * 100 + 60


@pytest.mark.parametrize("place", ["head", "oldest"])
async def test_a_history_without_an_event_ends_soon_and_the_first_event_extends_it(
    each_redis: RedisServer, place: str
) -> None:
    topic = new_topic()
    async with listening(each_redis.url, seconds=100) as ears:
        await getattr(ears.broker, place)(topic)
        for key in (stream_key(topic), stream_key(topic) + ":ids"):
            assert 0 < each_redis.ask("TTL", key) <= 120
        await ears.broker.publish(topic, b"x")
        await getattr(ears.broker, place)(topic)
        for key in (stream_key(topic), stream_key(topic) + ":ids"):
            assert each_redis.ask("TTL", key) > 120


async def test_a_history_without_an_event_lives_on_while_a_process_listens(
    each_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_broker, "_KEEP_SECONDS", 0.05)
    topic = new_topic()
    keys = (stream_key(topic), stream_key(topic) + ":ids")
    async with listening(each_redis.url, seconds=100) as ears:
        start = await ears.broker.head(topic)
        await ears.broker.subscribe(topic)
        await wait_until(lambda: all(each_redis.ask("TTL", key) > 120 for key in keys))
        await ears.broker.unsubscribe(topic)

        assert await ears.broker.head(topic) == start
        assert all(each_redis.ask("TTL", key) > 120 for key in keys)


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


async def test_a_restart_begins_a_new_epoch_and_every_cursor_goes_on(launch: Launch) -> None:
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


async def test_what_a_rewound_server_forgot_is_expired_and_the_rest_goes_on(
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


async def test_what_a_lagging_replica_never_had_is_expired_once_it_is_promoted(
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
async def test_lost_data_begins_a_new_epoch_and_every_old_cursor_is_expired(
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


async def test_a_huge_seq_is_counted_on_exactly(each_redis: RedisServer) -> None:
    topic, epoch, seq = new_topic(), 1_700_000_000_000_000, 3_000_000_000_000
    async with listening(each_redis.url) as ears:
        await ears.broker.head(topic)
        key = stream_key(topic)
        [[_, fields]] = each_redis.ask("XRANGE", key, "-", "+")
        each_redis.ask("DEL", key)
        pairs = [part for pair in fields.items() for part in pair]
        each_redis.ask("XADD", key, f"{epoch}-{seq}", *pairs)

        assert await ears.broker.publish(topic, b"x") == Cursor(epoch, seq + 1)
