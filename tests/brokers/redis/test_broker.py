"""The broker while Redis can't be reached, refuses commands or is disturbed by others."""

import asyncio
import gc
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from gqlnotify.brokers import presence
from gqlnotify.brokers.positions import Change, Claim, Claimed, Position
from gqlnotify.brokers.presence import Patience, Registration, presence_topic
from gqlnotify.brokers.redis import RedisBroker
from gqlnotify.errors import BrokerUnavailable
from gqlnotify.event import Cursor
from tests.brokers.redis.conftest import Launch, master_and_replica
from tests.brokers.redis.support import (
    ALL,
    TIMEOUT,
    clients,
    listening,
    new_topic,
    published,
    refusal,
    stream_key,
)
from tests.ports import HOST, refusing_port
from tests.redis_servers import Link, RedisServer, redis_server
from tests.waiting import PATIENCE, wait_until

PASSWORD = "pa55word"


# Redis can't be reached


async def test_a_start_without_a_server_fails_at_once() -> None:
    with refusing_port() as port:
        async with asyncio.timeout(TIMEOUT):
            assert str(port) in await refusal(f"redis://{HOST}:{port}")


async def test_a_start_with_a_frozen_server_fails_in_time(launch: Launch) -> None:
    server = launch()
    with Link(server.port) as link:
        link.freeze()
        async with asyncio.timeout(4 * TIMEOUT):
            await refusal(link.url)


@pytest.mark.parametrize("fault", ["stopped", "paused", "frozen"])
async def test_many_publishers_get_a_timely_error_if_redis_can_not_be_reached(
    launch: Launch, fault: str
) -> None:
    server = launch(persistent=True)
    with Link(server.port) as link:
        async with listening(link.url) as ears:
            await asyncio.gather(*(ears.broker.publish("x", b"") for _ in range(40)))
            {"stopped": server.stop, "paused": server.pause, "frozen": link.freeze}[fault]()
            async with asyncio.timeout(4 * TIMEOUT):
                refused = await asyncio.gather(
                    *(ears.broker.publish("x", b"") for _ in range(200)),
                    ears.broker.check(),
                    ears.broker.head("x"),
                    ears.broker.read("x", Cursor(1, 1), 1),
                    return_exceptions=True,
                )
            assert {type(error) for error in refused} == {BrokerUnavailable}
            assert all(str(error) for error in refused)

            {"stopped": server.start, "paused": server.resume, "frozen": link.thaw}[fault]()
            await asyncio.gather(*(ears.broker.publish("x", b"") for _ in range(40)))
            await wait_until(lambda: is_ready(ears.broker))


async def test_publishing_works_at_once_after_a_restart_over_any_connection(
    launch: Launch,
) -> None:
    server = launch(persistent=True)
    async with listening(server.url) as ears:
        await asyncio.gather(*(ears.broker.publish("x", b"") for _ in range(32)))
        for _ in range(3):
            await asyncio.to_thread(server.restart)
            await asyncio.gather(*(ears.broker.publish("x", b"") for _ in range(32)))


async def test_publishing_works_at_once_after_its_connections_were_killed(
    launch: Launch,
) -> None:
    server = launch()
    async with listening(server.url) as ears:
        await asyncio.gather(*(ears.broker.publish("x", b"") for _ in range(32)))
        await asyncio.to_thread(server.ask, "CLIENT", "KILL", "TYPE", "normal")
        await asyncio.gather(*(ears.broker.publish("x", b"") for _ in range(32)))


async def test_a_lost_live_connection_is_counted_once_it_is_restored(launch: Launch) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("gqlnotify_broker_reconnects_total") or 0.0

    server = launch()
    async with listening(server.url) as ears:
        await ears.broker.subscribe("x")
        before = counted()
        await asyncio.to_thread(server.ask, "CLIENT", "KILL", "TYPE", "pubsub")
        await wait_until(lambda: counted() == before + 1)
        await ears.broker.publish("x", b"1")
        await wait_until(lambda: ears.payloads == [b"1"])


async def test_subscribing_waits_for_redis_to_be_back(launch: Launch) -> None:
    server = launch(persistent=True)
    async with listening(server.url) as ears:
        server.stop()
        waiting = asyncio.create_task(ears.broker.subscribe("x"))
        with pytest.raises(BrokerUnavailable):
            await ears.broker.publish("x", b"1")
        assert not waiting.done()
        server.start()
        await asyncio.wait_for(waiting, 5)
        await ears.broker.publish("x", b"2")
        await wait_until(lambda: ears.payloads == [b"2"])


async def test_a_broker_is_not_ready_while_its_live_path_is_down(launch: Launch) -> None:
    server = launch()
    server.ask("ACL", "SETUSER", "deaf", "on", ">x", "~*", "+@all", "resetchannels")
    url = f"redis://deaf:x@{HOST}:{server.port}"
    async with listening(url) as ears:
        with pytest.raises(BrokerUnavailable):
            await ears.broker.check()


async def is_ready(broker: RedisBroker) -> bool:
    try:
        await broker.check()
    except BrokerUnavailable:
        return False
    return True


# refused


@pytest.mark.parametrize(
    ("login", "reason"),
    [("", "authenticat"), (":wrong-one@", "invalid username-password")],
)
async def test_an_error_reports_a_wrong_password_without_repeating_it(
    launch: Launch, login: str, reason: str
) -> None:
    server = launch(password=PASSWORD)

    said = await refusal(f"redis://{login}{HOST}:{server.port}")

    assert reason in said
    assert "wrong-one" not in said


async def test_no_error_and_no_log_repeats_the_password(
    launch: Launch, caplog: pytest.LogCaptureFixture
) -> None:
    server = launch(password=PASSWORD)
    async with listening(server.url) as ears:
        await ears.broker.subscribe("x")
        server.stop()
        with pytest.raises(BrokerUnavailable) as refused:
            await ears.broker.publish("x", b"1")
        await wait_until(lambda: "No live connection" in caplog.text)

        assert PASSWORD not in refused.value.reason + caplog.text + repr(ears.broker)


async def test_a_right_that_is_lacking_is_named(launch: Launch) -> None:
    server = launch()
    server.ask("ACL", "SETUSER", "reader", "on", ">x", "~*", "&*", "+@all", "-eval", "-evalsha")
    async with listening(f"redis://reader:x@{HOST}:{server.port}") as ears:
        with pytest.raises(BrokerUnavailable, match=r"(?i)no permissions.*evalsha"):
            await ears.broker.publish("x", b"1")


async def test_a_user_with_exactly_the_rights_that_are_needed_can_do_everything(
    launch: Launch,
) -> None:
    server = launch()
    rights = (
        "ping subscribe unsubscribe publish evalsha eval pexpire pttl hello client"
        " time info del xadd xinfo|stream xrange xrevrange xtrim"
        " zadd zrange zremrangebyrank zremrangebyscore zscore"
        " set get hset hget hdel hexists hgetall zrem zcard zrangebyscore"
    )
    commands = [f"+{command}" for command in rights.split()]
    server.ask("ACL", "SETUSER", "least", "on", ">x", "~gqlnotify:*", "&gqlnotify:*", *commands)
    async with listening(f"redis://least:x@{HOST}:{server.port}") as ears:
        await ears.broker.subscribe("x")
        start = await ears.broker.head("x")
        await ears.broker.publish("x", b"1", event_id="a")
        await wait_until(lambda: ears.payloads == [b"1"])
        assert await ears.broker.read("x", start, ALL) == ears.delivered
        await ears.broker.unsubscribe("x")
        registration, patience = Registration(presence_topic("x"), "p"), Patience(0, 60)
        for connections in (1, 0):
            change = presence.Change("alice", connections, b"1")
            await ears.broker.presence.update(registration, 1, [change], patience)
        await ears.broker.presence.beat([registration], patience)
        await ears.broker.presence.remove(registration, patience)
        assert (
            await ears.broker.presence.present(registration.presence_topic, ALL)
        ).cursor.seq == 3


async def test_a_full_redis_is_reported_and_used_again_once_it_has_room(launch: Launch) -> None:
    server = launch("maxmemory-policy noeviction")
    async with listening(server.url) as ears:
        first = await ears.broker.publish("x", b"1")
        server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BrokerUnavailable, match="maxmemory"):
            await ears.broker.publish("x", b"2")
        server.ask("CONFIG", "SET", "maxmemory", "0")

        assert await ears.broker.publish("x", b"3") == first.next()


@pytest.mark.parametrize("suffix", ["", ":ids"])
async def test_a_foreign_key_with_our_name_is_reported_and_not_changed(
    each_redis: RedisServer, suffix: str
) -> None:
    topic = new_topic()
    async with listening(each_redis.url) as ears:
        if suffix:
            await ears.broker.publish(topic, b"1")
        each_redis.ask("SET", stream_key(topic) + suffix, "mine", "EX", 60)
        with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
            await ears.broker.publish(topic, b"1", event_id="a")
        if not suffix:
            for asking in (ears.broker.head(topic), ears.broker.read(topic, Cursor(1, 0), 1)):
                with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
                    await asking

    assert each_redis.ask("GET", stream_key(topic) + suffix) == b"mine"


async def test_a_read_only_replica_is_reported(launch: Launch) -> None:
    _, replica = master_and_replica(launch)
    async with listening(replica.url) as ears:
        with pytest.raises(BrokerUnavailable, match=r"(?i)read.?only"):
            await ears.broker.publish("x", b"1")


async def test_a_loading_server_is_reported(launch: Launch) -> None:
    server = launch("loading-process-events-interval-bytes 1024", "enable-debug-command local")
    async with listening(server.url) as ears:
        await asyncio.gather(*(ears.broker.publish(str(n), b"x" * 1000) for n in range(200)))

    async def says_so() -> bool:
        try:
            async with listening(server.url):
                return False
        except BrokerUnavailable as error:
            return "loading" in error.reason

    server.ask("CONFIG", "SET", "key-load-delay", "5000")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(server.ask, "DEBUG", "RELOAD"))
        await wait_until(says_so)


# cancelled and closed


Asking = Callable[[RedisBroker, str], Awaitable[object]]


@pytest.mark.parametrize(
    "asking",
    [
        lambda broker, topic: broker.publish(topic, b"x" * 50_000),
        lambda broker, topic: broker.read(topic, Cursor(1, 0), ALL),
        lambda broker, topic: broker.head(topic),
        lambda broker, topic: broker.check(),
    ],
    ids=["publish", "read", "head", "check"],
)
async def test_a_cancelled_command_leaves_no_answer_to_the_next_one(
    each_redis: RedisServer, asking: Asking
) -> None:
    topic, own = new_topic(), new_topic()
    async with listening(each_redis.url) as ears:
        start = await ears.broker.head(own)
        for turns in range(25):
            task = asyncio.ensure_future(asking(ears.broker, topic))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
            cursor = await ears.broker.publish(own, b"%d" % turns)
            assert cursor == Cursor(cursor.epoch, turns + 1)
            assert await ears.broker.head(own) == cursor
        kept = await ears.broker.read(own, start, ALL)
        assert [event.payload for event in kept] == [b"%d" % turns for turns in range(25)]


async def test_a_cancelled_wait_for_a_connection_passes_it_to_the_next_one(launch: Launch) -> None:
    server = launch()
    async with listening(server.url, timeout=1) as ears:
        server.pause()
        waiting = [asyncio.create_task(ears.broker.publish("x", b"")) for _ in range(100)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        server.resume()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(ears.broker.publish("x", b"") for _ in range(100)))


async def test_a_closed_broker_leaves_nothing(each_redis: RedisServer) -> None:
    tasks, sockets = asyncio.all_tasks(), _open_files()
    for _ in range(20):
        async with listening(each_redis.url) as ears:
            await ears.broker.subscribe("x")
            await asyncio.gather(*(ears.broker.publish("x", b"") for _ in range(5)))

    await wait_until(lambda: asyncio.all_tasks() <= tasks)
    gc.collect()
    await wait_until(lambda: _open_files() <= sockets)
    await wait_until(lambda: not clients(each_redis, pubsub=True))


async def test_a_refused_broker_leaves_nothing(launch: Launch) -> None:
    server = launch(password=PASSWORD)
    tasks, sockets = asyncio.all_tasks(), _open_files()
    for _ in range(5):
        await refusal(f"redis://{HOST}:{server.port}")

    await wait_until(lambda: asyncio.all_tasks() <= tasks)
    gc.collect()
    await wait_until(lambda: _open_files() <= sockets)


@pytest.mark.parametrize("fault", ["stopped", "paused"])
async def test_a_broker_can_be_closed_while_redis_can_not_be_reached(
    launch: Launch, fault: str
) -> None:
    server = launch()
    tasks = asyncio.all_tasks()
    broker = RedisBroker(server.url, timeout=TIMEOUT)
    await broker.start(lambda _event: None, lambda _topic: None)
    await broker.subscribe("x")
    {"stopped": server.stop, "paused": server.pause}[fault]()
    busy = [asyncio.create_task(broker.publish("x", b"")) for _ in range(50)]
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await broker.close()
        await asyncio.gather(*busy, return_exceptions=True)

    await wait_until(lambda: asyncio.all_tasks() <= tasks)


def test_a_closed_broker_works_in_another_event_loop(each_redis: RedisServer) -> None:
    broker, topic = RedisBroker(each_redis.url, timeout=TIMEOUT), new_topic()

    async def use() -> int:
        got = list[object]()
        await broker.start(got.append, lambda _topic: None)
        await broker.subscribe(topic)
        cursor = await broker.publish(topic, b"x")
        await wait_until(lambda: got)
        await broker.close()
        return cursor.seq

    assert [asyncio.run(use()) for _ in range(3)] == [1, 2, 3]


async def test_a_closed_broker_raises_an_error_that_says_so() -> None:
    broker = RedisBroker("redis://localhost")
    for asking in (broker.publish("x", b""), broker.head("x"), broker.subscribe("x")):
        with pytest.raises(BrokerUnavailable, match="not open"):
            await asking


# disturbed by others


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"hello",
        b"\n",
        b"1-1\n",
        b"1-1 x\npayload",
        b"a-b 0\npayload",
        b"1 0\npayload",
        b"1-1 1\n\xff",
        b"-1--1 0\npayload",
        b"\xff" * 100,
    ],
)
async def test_a_foreign_message_is_logged_and_ignored(
    each_redis: RedisServer, caplog: pytest.LogCaptureFixture, message: bytes
) -> None:
    topic = new_topic()
    async with listening(each_redis.url) as ears:
        await ears.broker.subscribe(topic)
        with caplog.at_level(logging.WARNING, "gqlnotify.brokers"):
            each_redis.ask("PUBLISH", stream_key(topic), message)
            await ears.broker.publish(topic, b"ours")
            await wait_until(lambda: ears.payloads == [b"ours"])

        assert topic in caplog.text
        assert "live connection" not in caplog.text


async def test_two_prefixes_do_not_see_each_other(each_redis: RedisServer) -> None:
    topic = new_topic()
    async with (
        listening(each_redis.url, prefix="one") as one,
        listening(each_redis.url, prefix="one:two") as two,
    ):
        await one.broker.subscribe(topic)
        await two.broker.subscribe(topic)
        first = await one.broker.publish(topic, b"1", event_id="a")
        second = await two.broker.publish(topic, b"2", event_id="a")
        await wait_until(lambda: one.delivered and two.delivered)

        assert first.seq == second.seq == 1
        assert (one.payloads, two.payloads) == ([b"1"], [b"2"])


@pytest.mark.parametrize("topic", ["x:ids", "a:b@c+d-e_f", "ids", "1", "x" * 200])
async def test_no_name_of_a_topic_is_special(each_redis: RedisServer, topic: str) -> None:
    topics = [topic, f"{topic}.x", topic.removesuffix(":ids") + ".y"]
    async with listening(each_redis.url, prefix=new_topic()) as ears:
        for name in topics:
            await ears.broker.subscribe(name)
            await published(ears.broker, name, [b"1", b"2"])
        await wait_until(lambda: len(ears.delivered) == 2 * len(topics))

        assert [event.topic for event in ears.delivered] == [n for n in topics for _ in range(2)]


# other ways to the server


async def test_a_unix_socket_can_be_used(launch: Launch) -> None:
    server = launch(unix=True, password=PASSWORD)
    async with listening(server.url) as ears:
        await ears.broker.subscribe("x")
        await ears.broker.publish("x", b"1")
        await wait_until(lambda: ears.payloads == [b"1"])


@pytest.mark.processes
async def test_tls_connects_only_to_servers_that_the_url_trusts() -> None:
    with redis_server(tls=True, password=PASSWORD) as server:
        async with listening(server.url) as ears:
            await ears.broker.subscribe("x")
            await ears.broker.publish("x", b"1")
            await wait_until(lambda: ears.payloads == [b"1"])
        assert "certificate" in (await refusal(server.url.split("?")[0])).lower()


async def test_the_database_of_the_url_is_used(each_redis: RedisServer) -> None:
    topic = new_topic()
    async with listening(f"{each_redis.url}/3") as ears:
        await ears.broker.subscribe(topic)
        await ears.broker.publish(topic, b"1")
        await wait_until(lambda: ears.payloads == [b"1"])

    assert not each_redis.ask("EXISTS", stream_key(topic))


def _open_files() -> int:
    return len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))


async def test_a_server_that_may_have_older_positions_does_not_say_what_was_sent(
    launch: Launch,
) -> None:
    server = launch(persistent=True)
    broker = RedisBroker(server.url)
    await broker.start(lambda _event: None, lambda _topic: None)
    first, second = Cursor(1, 3), Cursor(1, 5)
    await broker.positions.save(
        [Change("key", "first", Position(first, second), proves_life=True)], 60
    )
    # As after a failover: the last save may be missing, and more may have been sent since this one.
    server.restart()

    claimed: list[Claimed | None] = []

    async def claims() -> bool:
        with suppress(BrokerUnavailable):
            answer = await broker.positions.claim([Claim("key", "second", second)], 60)
            claimed.extend(answer.claimed)
        return bool(claimed)

    await wait_until(claims)
    assert claimed == [Claimed(Position(first), "first")]
    await broker.close()


async def test_a_beat_for_many_topics_leaves_room_for_other_commands(
    each_redis: RedisServer,
) -> None:
    async with listening(each_redis.url) as ears:
        session = ears.broker._session
        assert session is not None
        registrations = [Registration(presence_topic(f"rooms.{number}")) for number in range(200)]
        beating = asyncio.create_task(ears.broker.presence.beat(registrations, Patience(1, 1)))
        was_full = False
        while not beating.done():
            await asyncio.sleep(0)
            was_full |= session.permits.locked()

        assert await beating == [True] * len(registrations)
        assert not was_full
