"""One address that leads to different servers: failovers, demoted masters, changed rights."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from gqlnotify import Publisher, Settings, Topic
from gqlnotify.brokers.redis import RedisBroker, connection
from gqlnotify.errors import BrokerUnavailable
from tests.brokers.redis.conftest import Launch, master_and_replica
from tests.brokers.redis.support import (
    TIMEOUT,
    clients,
    kill_clients,
    listening,
    new_topic,
    numbers,
)
from tests.ports import HOST
from tests.redis_servers import Link, RedisServer, connect, wait_for
from tests.waiting import wait_until


@dataclass
class Pair:
    """A master and its replica behind one address, which leads to the master."""

    master: RedisServer
    replica: RedisServer
    link: Link

    def fail_over(self) -> None:
        """Swap the roles. The connections to the old master stay open, as managed services do."""
        self._promote()
        self.master.ask("REPLICAOF", HOST, str(self.replica.port))
        self.link.lead_to(self.replica.port)
        wait_for(lambda: self.master.ask("ROLE")[3] == b"connected", "the old master follows")

    def _promote(self) -> None:
        wait_for(
            lambda: self.replica.ask("ROLE")[4] >= self.master.ask("ROLE")[1],
            "the replica has it all",
        )
        self.replica.ask("REPLICAOF", "NO", "ONE")

    def part(self) -> None:
        """Promote the replica. The old master accepts no more writes and gets none."""
        self._promote()
        self.master.ask("REPLICAOF", HOST, "1")
        self.link.lead_to(self.replica.port)


@pytest.fixture
def pair(launch: Launch) -> Iterator[Pair]:
    master, replica = master_and_replica(launch)
    with Link(master.port) as link:
        yield Pair(master, replica, link)
    # It may refuse the check of its keys afterwards.
    master.ask("REPLICAOF", "NO", "ONE")


async def test_the_first_publish_after_a_failover_reaches_the_new_master(pair: Pair) -> None:
    async with listening(pair.link.url) as ears:
        await asyncio.gather(*(ears.broker.publish("x", b"") for _ in range(32)))
        await asyncio.to_thread(pair.fail_over)

        cursors = await asyncio.gather(*(ears.broker.publish("x", b"") for _ in range(32)))

        assert sorted(cursor.seq for cursor in cursors) == list(range(33, 65))


async def test_subscribers_follow_to_the_new_master_without_a_gap(pair: Pair) -> None:
    async with numbers(pair.link.url) as stream:
        await stream.reader()
        await stream.publish_all(range(5))
        # Events at the new master do not reach connections to the old one.
        await asyncio.to_thread(pair.part)
        await stream.publish_all(range(5, 10))

        await stream.everybody_has(range(10))
        assert clients(pair.replica, pubsub=True)


@pytest.mark.parametrize("state", ["READONLY", "MASTERDOWN"])
async def test_publishers_without_a_server_follow_at_once(pair: Pair, state: str) -> None:
    topic = Topic(new_topic(), int)
    settings = Settings(broker_url=pair.link.url, broker_timeout=TIMEOUT)
    if state == "MASTERDOWN":
        pair.master.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
    async with Publisher(settings=settings) as publisher:
        await publisher.publish(topic, 1)
        await asyncio.to_thread(publisher.publish_sync, topic, 2)
        await asyncio.to_thread(pair.part)

        assert [c.seq for c in await publisher.publish_many([(topic, 3), (topic, 4)])] == [3, 4]
        assert (await asyncio.to_thread(publisher.publish_sync, topic, 5)).seq == 5


async def test_a_server_that_stays_read_only_gets_few_connections(pair: Pair) -> None:
    async with listening(pair.replica.url) as ears:
        with counting(pair.replica) as connected:
            for _ in range(50):
                with pytest.raises(BrokerUnavailable, match=r"(?i)read.?only"):
                    await ears.broker.publish("x", b"")

            assert connected() <= 5


async def test_after_a_failover_the_rights_of_the_new_server_apply(launch: Launch) -> None:
    strict, generous = launch(), launch()
    strict.ask("ACL", "SETUSER", "app", "on", ">x", "~*", "&*", "+@all", "-evalsha", "-eval")
    generous.ask("ACL", "SETUSER", "app", "on", ">x", "~*", "&*", "+@all")
    with Link(strict.port) as link:
        async with listening(f"redis://app:x@{HOST}:{link.port}") as ears:
            link.lead_to(generous.port)
            with pytest.raises(BrokerUnavailable):
                await ears.broker.publish("x", b"1")
            assert (await ears.broker.publish("x", b"2")).seq == 1


async def test_a_changed_password_does_not_flood_redis_with_attempts(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_RETRY_SECONDS", (0.01, 60))
    server = launch()
    server.ask("ACL", "SETUSER", "app", "on", ">old", "~*", "&*", "+@all")
    async with listening(f"redis://app:old@{HOST}:{server.port}") as ears:
        await ears.broker.subscribe("x")
        server.ask("ACL", "SETUSER", "app", "resetpass", ">new")
        # Waits of 5 to 10 ms, doubled each time: the sixth attempt is 155 ms later at the earliest.
        began = asyncio.get_running_loop().time()
        with counting(server) as connected:
            kill_clients(server, pubsub=True)
            await wait_until(lambda: connected() >= 8)

        assert asyncio.get_running_loop().time() - began >= 0.15


async def test_commands_fail_at_once_while_the_password_is_refused_and_work_again_afterwards(
    launch: Launch,
) -> None:
    server = launch()
    server.ask("ACL", "SETUSER", "app", "on", ">old", "~*", "&*", "+@all")
    async with listening(f"redis://app:old@{HOST}:{server.port}") as ears:
        server.ask("ACL", "SETUSER", "app", "resetpass", ">new")
        kill_clients(server, pubsub=False)
        with counting(server) as connected:
            for _ in range(10):
                topics = [ears.broker.head(f"x{n}") for n in range(100)]
                refused = await asyncio.gather(*topics, return_exceptions=True)
                assert {type(error) for error in refused} == {BrokerUnavailable}
            # The first commands come together, before the server has refused one of them.
            assert connected() <= 100

        server.ask("ACL", "SETUSER", "app", ">old")
        await wait_until(lambda: can_publish(ears.broker))


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_publisher_rarely_retries_a_refused_password_and_names_the_cause(
    launch: Launch, kind: str
) -> None:
    server = launch()
    server.ask("ACL", "SETUSER", "app", "on", ">right", "~*", "&*", "+@all")
    url = f"redis://app:wrong@{HOST}:{server.port}"

    async def publish(publisher: Publisher) -> None:
        if kind == "sync":
            await asyncio.to_thread(publisher.publish_sync, "x", 1)
        else:
            await publisher.publish("x", 1)

    async def published(publisher: Publisher) -> bool:
        try:
            await publish(publisher)
        except BrokerUnavailable:
            return False
        return True

    async with Publisher(url) as publisher:
        with counting(server) as connected:
            for _ in range(100):
                with pytest.raises(BrokerUnavailable) as refused:
                    await publish(publisher)
                assert "password" in refused.value.reason
            assert connected() <= 20

        server.ask("ACL", "SETUSER", "app", ">wrong")
        await wait_until(lambda: published(publisher))


async def can_publish(broker: RedisBroker) -> bool:
    try:
        await broker.publish("x", b"1")
    except BrokerUnavailable:
        return False
    return True


@contextmanager
def counting(server: RedisServer) -> Iterator[Callable[[], int]]:
    """Count the connections that the server gets from now on, without those of the test."""
    with connect(server.url) as client:

        def received() -> int:
            return int(client.info("stats")["total_connections_received"])

        before = received()
        yield lambda: received() - before
