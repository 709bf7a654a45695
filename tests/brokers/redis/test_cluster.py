"""On a cluster: sharded Pub/Sub, one connection to each node, and slots that move."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gqlnotify.brokers import Broker
from gqlnotify.brokers.redis import RedisBroker
from gqlnotify.brokers.redis import broker as redis_broker
from gqlnotify.errors import BrokerUnavailable
from tests.brokers.contract import BrokerContract
from tests.brokers.presence_contract import PresenceContract
from tests.brokers.redis.support import (
    ALL,
    clients,
    listening,
    new_topic,
    numbers,
    published,
    stream_key,
)
from tests.ports import HOST
from tests.redis_servers import PATIENCE, Cluster, RedisServer, redis_cluster, wait_for
from tests.waiting import wait_until


class TestRedisBrokerOnACluster(BrokerContract, PresenceContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, each_cluster: Cluster) -> None:
        self._url = each_cluster.url

    async def make(self, *, length: int, seconds: float) -> Broker:
        return RedisBroker(self._url, length=length, seconds=seconds)


def home(cluster: Cluster, topic: str) -> RedisServer:
    return cluster.node_of(cluster.slot_of(stream_key(topic)))


def topic_on(cluster: Cluster, node: RedisServer) -> str:
    while True:
        topic = new_topic()
        if home(cluster, topic) is node:
            return topic


def another(cluster: Cluster, node: RedisServer) -> RedisServer:
    return next(other for other in cluster.nodes if other is not node)


@contextmanager
def moving(cluster: Cluster, topic: str) -> Iterator[tuple[int, RedisServer, RedisServer]]:
    """A slot that migrates to another node; its keys are still at the old one."""
    slot, source = cluster.slot_of(stream_key(topic)), home(cluster, topic)
    target = another(cluster, source)
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))
    try:
        yield slot, source, target
    finally:
        cluster.move_slot(slot, target)


def move_keys(slot: int, source: RedisServer, target: RedisServer) -> None:
    keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100)
    if keys:
        source.ask("MIGRATE", HOST, target.port, "", 0, int(PATIENCE * 1000), "KEYS", *keys)


# where things are


async def test_each_topic_is_subscribed_at_the_node_of_its_slot(
    each_cluster: Cluster,
) -> None:
    topics = [new_topic() for _ in range(60)]
    homes = {topic: home(each_cluster, topic) for topic in topics}
    async with listening(each_cluster.url) as ears:
        await asyncio.gather(*map(ears.broker.subscribe, topics))
        for node in each_cluster.nodes:
            own = {stream_key(topic).encode() for topic in topics if homes[topic] is node}
            assert set(node.ask("PUBSUB", "SHARDCHANNELS")) == own
            assert node.ask("PUBSUB", "CHANNELS") == []
            [line] = clients(node, pubsub=True)
            assert line["resp"] == "3"
        for topic in topics:
            await published(ears.broker, topic, [b"1", b"2"])
        await wait_until(lambda: len(ears.delivered) == 120)

        assert Counter(event.topic for event in ears.delivered) == Counter(topics * 2)


async def test_a_node_without_our_topics_gets_no_connection(each_cluster: Cluster) -> None:
    node = each_cluster.nodes[1]
    async with listening(each_cluster.url) as ears:
        await ears.broker.subscribe(topic_on(each_cluster, node))

        assert [len(clients(one, pubsub=True)) for one in each_cluster.nodes] == [0, 1, 0]


# topics without an event


@pytest.mark.parametrize("place", ["head", "oldest"])
async def test_a_history_without_an_event_ends_soon_and_the_first_event_extends_it(
    each_cluster: Cluster, place: str
) -> None:
    topic = new_topic()
    server, keys = home(each_cluster, topic), (stream_key(topic), stream_key(topic) + ":ids")
    async with listening(each_cluster.url, seconds=100) as ears:
        await getattr(ears.broker, place)(topic)
        for key in keys:
            assert 0 < server.ask("TTL", key) <= 120
        await ears.broker.publish(topic, b"x")
        await getattr(ears.broker, place)(topic)
        for key in keys:
            assert server.ask("TTL", key) > 120


async def test_an_empty_history_is_kept_while_a_process_subscribes_to_it(
    each_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_broker, "_KEEP_SECONDS", 0.05)
    topic = new_topic()
    server, keys = home(each_cluster, topic), (stream_key(topic), stream_key(topic) + ":ids")
    async with listening(each_cluster.url, seconds=100) as ears:
        start = await ears.broker.head(topic)
        await ears.broker.subscribe(topic)
        await wait_until(lambda: all(server.ask("TTL", key) > 120 for key in keys))
        await ears.broker.unsubscribe(topic)

        assert await ears.broker.head(topic) == start
        assert all(server.ask("TTL", key) > 120 for key in keys)


# slots that move


async def test_a_slot_that_moves_causes_no_gap(each_cluster: Cluster) -> None:
    async with numbers(each_cluster.url) as stream:
        await stream.reader()
        topic = stream.topic.name
        slot, number = each_cluster.slot_of(stream_key(topic)), 0
        for _ in range(2 * len(each_cluster.nodes)):
            target = another(each_cluster, home(each_cluster, topic))
            move = asyncio.create_task(asyncio.to_thread(each_cluster.move_slot, slot, target))
            while not move.done():
                await stream.publish(number)
                number += 1
            await move

        await stream.publish(number)
        await stream.everybody_has(range(number + 1), seconds=5)
        # The node may have another topic of the process too: that for asking all processes.
        await wait_until(
            lambda: (
                stream_key(topic).encode()
                in home(each_cluster, topic).ask("PUBSUB", "SHARDCHANNELS")
            )
        )


async def test_an_event_is_delivered_live_once_the_slot_has_moved(each_cluster: Cluster) -> None:
    topic = new_topic()
    async with listening(each_cluster.url) as ears:
        await ears.broker.subscribe(topic)
        target = another(each_cluster, home(each_cluster, topic))
        each_cluster.move_slot(each_cluster.slot_of(stream_key(topic)), target)
        await wait_until(lambda: len(ears.rechecked) > 1)
        await ears.broker.publish(topic, b"1")

        await wait_until(lambda: ears.payloads == [b"1"])


async def test_a_client_that_does_not_know_of_a_moved_slot_subscribes_and_publishes(
    each_cluster: Cluster,
) -> None:
    topic, other = new_topic(), new_topic()
    async with listening(each_cluster.url) as ears:
        target = another(each_cluster, home(each_cluster, topic))
        each_cluster.move_slot(each_cluster.slot_of(stream_key(topic)), target)
        await ears.broker.subscribe(topic)
        await ears.broker.publish(topic, b"1")
        await wait_until(lambda: ears.payloads == [b"1"])
        moved = another(each_cluster, home(each_cluster, other))
        each_cluster.move_slot(each_cluster.slot_of(stream_key(other)), moved)

        assert (await ears.broker.publish(other, b"1")).seq == 1


async def test_nodes_that_disagree_for_a_while_lose_no_subscription(each_cluster: Cluster) -> None:
    topic = new_topic()
    async with listening(each_cluster.url) as ears:
        await ears.broker.subscribe(topic)
        with moving(each_cluster, topic) as (slot, source, target):
            refused = _refusals(source)
            # The source gives the slot away before the other nodes know of it, and answers MOVED.
            source.ask("CLUSTER", "SETSLOT", slot, "NODE", target.ask("CLUSTER", "MYID"))
            await wait_until(lambda: _refusals(source) > refused)
            # A fixed time: the nodes must disagree for longer than a client retries at once.
            await asyncio.sleep(0.5)
            for node in (target, *(n for n in each_cluster.nodes if n not in (source, target))):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.ask("CLUSTER", "MYID"))
        await wait_until(
            lambda: target.ask("PUBSUB", "SHARDCHANNELS") == [stream_key(topic).encode()]
        )


@pytest.mark.parametrize("with_ids", [False, True], ids=["without ids", "with ids"])
@pytest.mark.parametrize("moved", [False, True], ids=["keys here", "keys moved"])
async def test_a_slot_that_stays_on_its_way_can_be_published_to_and_read(
    each_cluster: Cluster, with_ids: bool, moved: bool
) -> None:
    topic = new_topic()
    async with listening(each_cluster.url) as ears:
        start = await ears.broker.publish(topic, b"0", event_id="0" if with_ids else None)
        with moving(each_cluster, topic) as way:
            if moved:
                move_keys(*way)
            await ears.broker.publish(topic, b"1")
            assert [e.payload for e in await ears.broker.read(topic, start, ALL)] == [b"1"]
            await ears.broker.head(topic)


async def test_publishing_to_a_migrating_slot_succeeds_or_raises(
    each_cluster: Cluster,
) -> None:
    topic = new_topic()
    async with listening(each_cluster.url) as ears:
        start = await ears.broker.publish(topic, b"0", event_id="0")
        with moving(each_cluster, topic) as way:
            move_keys(*way)
            answers = await asyncio.gather(
                *(ears.broker.publish(topic, b"%d" % n) for n in range(100)),
                return_exceptions=True,
            )
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        assert {type(error) for error in failed} <= {BrokerUnavailable}
        kept = {event.cursor for event in await ears.broker.read(topic, start, ALL)}
        assert {answer for answer in answers if not isinstance(answer, BaseException)} <= kept


def _refusals(node: RedisServer) -> int:
    """Return how often the node answered MOVED."""
    errors = node.ask("INFO", "errorstats")
    return int(errors.get("errorstat_MOVED", {"count": 0})["count"])


# nodes that stop and start


async def test_a_node_that_restarts_causes_no_gap(redis_program: Path) -> None:
    with redis_cluster(redis_program) as cluster:
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "appendonly", "yes", "appendfsync", "always")
            node.ask("CONFIG", "REWRITE")
        node = cluster.nodes[1]
        here, elsewhere = topic_on(cluster, node), topic_on(cluster, cluster.nodes[0])
        async with (
            numbers(cluster.url, topic=here) as stream,
            numbers(cluster.url, topic=elsewhere) as other,
        ):
            for one in (stream, other):
                await one.reader()
                await one.publish_all(range(5))
            node.stop()
            await other.publish_all(range(5, 10))
            node.start()
            await asyncio.to_thread(
                wait_for, lambda: b"cluster_state:ok" in node.ask("CLUSTER", "INFO"), "it is back"
            )
            await other.publish_all(range(10, 15))
            await stream.publish_all(range(5, 15))

            await stream.everybody_has(range(15))
            await other.everybody_has(range(15))
