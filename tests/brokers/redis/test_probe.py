"""A broker is ready if an event that it publishes arrives."""

import asyncio
from contextlib import suppress

import pytest

from gqlnotify.brokers.redis import RedisBroker, probe
from gqlnotify.errors import BrokerUnavailable
from tests.brokers.redis.conftest import Launch, master_and_replica
from tests.brokers.redis.support import ALL, calls, listening
from tests.ports import HOST
from tests.redis_servers import Cluster, Link, RedisServer
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_FRESH_SECONDS", 0)


async def test_a_server_that_publishes_and_delivers_is_ready(each_redis: RedisServer) -> None:
    async with listening(each_redis.url) as ears:
        for _ in range(3):
            await ears.broker.check()

        assert ears.delivered == []


async def test_a_cluster_is_ready(each_cluster: Cluster) -> None:
    async with listening(each_cluster.url) as ears:
        await ears.broker.check()


async def test_concurrent_checks_and_those_soon_after_share_one_event(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_FRESH_SECONDS", 60)
    server = launch()
    async with listening(server.url) as ears:
        await asyncio.gather(*(ears.broker.check() for _ in range(20)))
        await ears.broker.check()

    assert calls(server, "publish") == 1


@pytest.mark.parametrize(
    ("rights", "reason"),
    [
        ("~* &* +@all -evalsha -eval", "evalsha"),
        ("~other:* &* +@all", "NOPERM|permission"),
        ("~* resetchannels +@all", "did not arrive|permission|live connection"),
        ("~* &* +@all -xadd", "permission|can't run"),
    ],
    ids=["no scripts", "no keys", "no channels", "no XADD"],
)
async def test_a_user_without_the_needed_rights_is_not_ready(
    launch: Launch, rights: str, reason: str
) -> None:
    server = launch()
    server.ask("ACL", "SETUSER", "app", "on", ">x", *rights.split())
    async with listening(f"redis://app:x@{HOST}:{server.port}") as ears:
        with pytest.raises(BrokerUnavailable, match=f"(?i){reason}"):
            await ears.broker.check()


async def test_a_replica_is_not_ready(launch: Launch) -> None:
    _, replica = master_and_replica(launch)
    async with listening(replica.url) as ears:
        with pytest.raises(BrokerUnavailable, match=r"(?i)read.?only"):
            await ears.broker.check()


async def test_a_full_server_is_not_ready_until_there_is_room(launch: Launch) -> None:
    server = launch()
    async with listening(server.url) as ears:
        await ears.broker.check()
        server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BrokerUnavailable, match="maxmemory"):
            await ears.broker.check()
        server.ask("CONFIG", "SET", "maxmemory", "0")
        await ears.broker.check()


async def test_a_server_that_can_not_save_is_not_ready(launch: Launch) -> None:
    server = launch("save 3600 1")
    async with listening(server.url) as ears:
        await ears.broker.check()
        (server.directory / "dump.rdb").mkdir()
        server.ask("BGSAVE")
        await wait_until(
            lambda: server.ask("INFO", "persistence")["rdb_last_bgsave_status"] == "err"
        )
        with pytest.raises(BrokerUnavailable, match=r"(?i)misconf|RDB snapshots"):
            await ears.broker.check()


async def test_a_live_connection_without_events_is_replaced(launch: Launch) -> None:
    here, there = launch(), launch()
    with Link(here.port) as link:
        async with listening(link.url) as ears:
            await ears.broker.check()
            # Commands go to the new server, and the live connection stays at the old one.
            link.lead_to(there.port)
            here.ask("CLIENT", "KILL", "TYPE", "normal")
            await wait_until(lambda: says(ears.broker, "did not arrive"))
            await wait_until(lambda: says(ears.broker, ""))


async def says(broker: RedisBroker, reason: str) -> bool:
    """Return whether the broker's check raises this error, or none if it is ready."""
    try:
        await broker.check()
    except BrokerUnavailable as error:
        return bool(reason) and reason in error.reason
    return not reason


async def test_a_full_server_takes_no_new_topics_and_no_event_ids(launch: Launch) -> None:
    server = launch()
    async with listening(server.url) as ears:
        await ears.broker.publish("known", b"x", event_id="first")
        limit = server.ask("INFO", "memory")["used_memory"] + 500_000
        server.ask("CONFIG", "SET", "maxmemory", limit)
        refused = 0
        for number in range(600):
            try:
                await ears.broker.publish(f"x{number}", b"y" * 2000, event_id="e" * 300)
                await ears.broker.publish("known", b"y" * 2000, event_id=f"{number:300}")
            except BrokerUnavailable:
                refused += 1
            with suppress(BrokerUnavailable):
                await ears.broker.head(f"new{number}")
        assert refused > 100
        assert server.ask("INFO", "memory")["used_memory"] < limit + 100_000
        keys = {key.decode() for key in server.ask("KEYS", "*")} - {"gqlnotify:begun"}
        streams = {key for key in keys if not key.endswith(":ids")}
        assert keys == streams | {f"{key}:ids" for key in streams}, "a topic is half written"

        # Existing events can still be read and followed.
        oldest = await ears.broker.oldest("known")
        assert await ears.broker.read("known", oldest, ALL)
