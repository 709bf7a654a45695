"""Positions of clients: saved in time, found again, and never lost."""

import asyncio
import gc
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from uuid import uuid4

import pytest
from typing_extensions import override

from gqlnotify import Settings, Topic, TopicManager
from gqlnotify.brokers import MemoryBroker
from gqlnotify.brokers.memory_positions import MemoryPositions
from gqlnotify.brokers.positions import Answer, Change, Claim, Position, Saved
from gqlnotify.brokers.redis import RedisBroker
from gqlnotify.errors import BrokerUnavailable, CursorExpired
from gqlnotify.topics.resumption import Resumption
from gqlnotify.topics.subscriber import Subscriber
from tests.redis_servers import RedisServer, redis_server
from tests.waiting import PATIENCE, wait_until

TOPIC: Topic[str] = Topic("words", str)


class Store(MemoryPositions):
    """Positions in memory that can be out of reach or forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.down = self.saves_nothing = False
        self.refusals = 0
        self.fault: Exception | None = None
        self.claimed = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.server, self.memory = "one", "of all positions"
        self.saves: list[Sequence[Change]] = []

    @override
    async def save(self, changes: Sequence[Change], seconds: float) -> Saved:
        if self.down or self.saves_nothing:
            self.refusals += 1
            raise BrokerUnavailable("down")
        self.saves.append(changes)
        saved = await super().save(changes, seconds)
        return Saved(saved.missing, await self.memories())

    @override
    async def claim(self, claims: Sequence[Claim], seconds: float) -> Answer:
        if self.down:
            self.refusals += 1
            raise BrokerUnavailable("down")
        if self.fault is not None:
            raise self.fault
        self.claimed += 1
        await self.answers.wait()
        answer = await super().claim(claims, seconds)
        return Answer(answer.claimed, await self.memories())

    @override
    async def memories(self) -> Mapping[str, str]:
        return {self.server: self.memory}

    def forget(self) -> None:
        self._holders.clear()
        self.memory += ", lost again"


class Client:
    """One operation of one client, on one connection."""

    def __init__(self, topics: TopicManager, id_: str = "id", subject: str = "alice") -> None:
        self.announced = 0
        self.resumption = Resumption(subject, id_, "the document", self._announce)
        self.subscriber = Subscriber(topics, TOPIC.concrete())
        self._topics = topics

    async def connect(self) -> "Client":
        await self.subscriber.open()
        await self._topics.resumptions.find(self.resumption, self.subscriber)
        self._topics.resumptions.begin(self.resumption, self.subscriber)
        return self

    async def armed(self) -> None:
        await wait_until(lambda: self.announced)

    async def texts(self, count: int) -> list[tuple[bytes, bool]]:
        """Take events, with whether they are marked as repeats."""
        taken = []
        for _ in range(count):
            event = await self.subscriber.next()
            assert event is not None
            self.subscriber.note_sent()
            taken.append((event.payload, self.subscriber.may_repeat(event)))
        return taken

    def cut(self) -> None:
        """End the connection."""
        self.resumption.end()
        self.subscriber.close()

    def _announce(self, _resumption: Resumption) -> None:
        self.announced += 1


def settings(**options: object) -> Settings:
    return Settings(broker_url="memory://", ack_interval=0.01, topic_linger=0, **options)  # type: ignore[arg-type]


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def topics(store: Store) -> AsyncIterator[TopicManager]:
    broker = MemoryBroker()
    broker.positions = store
    topics = TopicManager(broker, settings=settings())
    async with topics.held_open():
        yield topics


async def test_a_client_is_told_of_its_position_only_once_it_is_saved(
    topics: TopicManager, store: Store
) -> None:
    store.down = True
    client = Client(topics)
    connecting = asyncio.create_task(client.connect())
    await wait_until(lambda: store.refusals)
    assert client.announced == 0

    store.down = False
    await connecting
    assert client.announced == 1
    assert client.resumption.key in store._holders


async def test_a_connection_that_was_cut_at_once_leaves_its_start(topics: TopicManager) -> None:
    first = await Client(topics).connect()
    first.resumption.end()
    await topics.publish(TOPIC, "missed")

    second = await Client(topics).connect()
    assert await second.texts(1) == [(b'"missed"', False)]


async def test_a_client_that_comes_back_during_an_outage_waits_and_resumes(
    topics: TopicManager, store: Store
) -> None:
    first = await Client(topics).connect()
    await first.armed()
    first.resumption.end()
    await topics.resumptions.flush()
    await topics.publish(TOPIC, "missed")

    store.down = True
    second = Client(topics)
    connecting = asyncio.create_task(second.connect())
    await wait_until(lambda: store.refusals)
    assert not connecting.done()
    store.down = False
    await connecting
    assert await second.texts(1) == [(b'"missed"', False)]


async def test_a_client_that_comes_while_the_broker_looks_for_another_begins_too(
    topics: TopicManager, store: Store
) -> None:
    store.answers.clear()
    one, two = (Client(topics, id_) for id_ in ("one", "two"))
    first = asyncio.create_task(one.connect())
    await wait_until(lambda: store.claimed)
    second = asyncio.create_task(two.connect())
    await wait_until(lambda: two.resumption.key)
    store.answers.set()

    await asyncio.wait_for(asyncio.gather(first, second), PATIENCE)
    for client in (one, two):
        await client.armed()


async def test_only_what_may_have_been_sent_is_marked(topics: TopicManager) -> None:
    first = await Client(topics).connect()
    await first.armed()
    for text in ("kept", "unsure"):
        await topics.publish(TOPIC, text)
    await first.texts(1)
    first.resumption.acknowledge(first.subscriber.position)
    await first.texts(1)
    first.resumption.end()
    await topics.publish(TOPIC, "new")

    second = await Client(topics).connect()
    assert await second.texts(2) == [(b'"unsure"', True), (b'"new"', False)]


async def test_after_a_process_was_killed_all_that_it_may_have_sent_is_marked(
    topics: TopicManager,
) -> None:
    first = await Client(topics).connect()
    await first.armed()
    await topics.publish(TOPIC, "unsure")

    # The first one never says how far it has got.
    second = await Client(topics).connect()
    await topics.publish(TOPIC, "new")
    assert await second.texts(2) == [(b'"unsure"', True), (b'"new"', False)]


async def test_a_server_that_lost_its_memory_gets_all_positions_again(
    topics: TopicManager, store: Store
) -> None:
    running = await Client(topics, "running").connect()
    ended = await Client(topics, "ended").connect()
    for client in (running, ended):
        await client.armed()
    ended.resumption.end()
    await topics.resumptions.flush()

    store.forget()
    await topics.publish(TOPIC, "missed")
    await (await Client(topics, "another").connect()).armed()
    await topics.resumptions.flush()

    for id_ in ("running", "ended"):
        back = await Client(topics, id_).connect()
        # Another process may have sent it before the loss.
        assert await back.texts(1) == [(b'"missed"', True)]


async def test_a_connection_that_ends_before_its_lost_position_is_saved_again_keeps_it(
    topics: TopicManager, store: Store
) -> None:
    client = await Client(topics).connect()
    await client.armed()
    await topics.resumptions.flush()

    store.forget()
    store.saves_nothing = True
    client.resumption.save_again()
    client.cut()
    await wait_until(lambda: store.refusals)
    store.saves_nothing = False
    await topics.resumptions.flush()
    await topics.publish(TOPIC, "missed")

    back = await Client(topics).connect()
    assert [text for text, _ in await back.texts(1)] == [b'"missed"']


async def test_a_client_comes_back_to_a_process_that_could_not_save_its_position(
    topics: TopicManager, store: Store
) -> None:
    client = await Client(topics).connect()
    await client.armed()
    await topics.resumptions.flush()
    store.forget()
    store.saves_nothing = True
    client.resumption.acknowledge(client.subscriber.position)
    client.cut()
    await wait_until(lambda: store.refusals > 1)
    await topics.publish(TOPIC, "missed")

    back = await Client(topics).connect()
    assert await back.texts(1) == [(b'"missed"', True)]
    store.saves_nothing = False
    back.cut()
    await topics.resumptions.flush()
    await topics.publish(TOPIC, "missed too")
    again = await Client(topics).connect()
    assert [text for text, _ in await again.texts(2)] == [b'"missed"', b'"missed too"']


async def test_a_client_that_completes_while_its_position_is_claimed_leaves_none(
    topics: TopicManager, store: Store
) -> None:
    store.answers.clear()
    client = Client(topics)
    connecting = asyncio.create_task(client.connect())
    await wait_until(lambda: store.claimed)
    client.resumption.drop()
    connecting.cancel()
    store.answers.set()
    await topics.resumptions.flush()
    await topics.publish(TOPIC, "missed")

    back = await Client(topics).connect()
    assert back.subscriber.position == await topics.cursor(TOPIC)


async def test_saves_that_reach_other_servers_of_a_cluster_save_nothing_again(
    topics: TopicManager, store: Store
) -> None:
    clients = [await Client(topics, str(n)).connect() for n in range(3)]
    for store.server in ("one", "two", "one", "two"):
        clients[0].resumption.acknowledge(clients[0].subscriber.position)
        await topics.resumptions.flush()
    # Only the first save that reached a server could not know that it had lost nothing.
    store.saves.clear()
    for store.server in ("one", "two"):
        clients[0].resumption.acknowledge(clients[0].subscriber.position)
        await topics.resumptions.flush()
    assert [len(changes) for changes in store.saves] == [1, 1]


async def test_a_client_whose_position_was_claimed_by_another_is_asked_whether_it_is_there(
    topics: TopicManager,
) -> None:
    first = await Client(topics).connect()
    await first.armed()
    await Client(topics).connect()

    await wait_until(lambda: first.announced == 2)


async def test_the_end_of_a_connection_proves_no_life(topics: TopicManager) -> None:
    # Another process may have claimed the position before this one notices the end.
    client = await Client(topics).connect()
    await client.armed()
    client.resumption.acknowledge(client.subscriber.position)
    client.resumption.end()

    assert not client.resumption.change().proves_life


async def test_a_client_that_may_not_know_that_its_position_has_expired_is_told_again(
    topics: TopicManager,
) -> None:
    first = await Client(topics).connect()
    await first.armed()
    first.cut()
    for n in range(1001):
        await topics.publish(TOPIC, str(n))

    for _ in range(2):
        unsure = await Client(topics).connect()
        assert unsure.subscriber.expired
        unsure.cut()
    told = await Client(topics).connect()
    told.resumption.acknowledge(told.subscriber.position)
    told.cut()
    await topics.publish(TOPIC, "missed")
    last = await Client(topics).connect()
    assert await last.texts(1) == [(b'"missed"', False)]


async def test_an_ended_position_does_not_keep_its_connection_in_memory(
    topics: TopicManager,
) -> None:
    client = await Client(topics).connect()
    await client.armed()
    resumption, connection = client.resumption, weakref.ref(client)
    client.cut()
    await topics.resumptions.flush()

    del client
    gc.collect()
    assert connection() is None
    assert resumption.change().position is not None


def test_a_position_does_not_keep_its_document_and_variables_in_memory() -> None:
    variables = {"text": "x" * 100_000}
    tracemalloc.start()
    try:
        kept = [Resumption.of("alice", str(uuid4()), [variables], print) for _ in range(20)]
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert all(kept)


async def test_closing_does_not_leave_a_client_waiting_for_its_position(store: Store) -> None:
    broker = MemoryBroker()
    broker.positions = store
    topics = TopicManager(broker, settings=settings())
    await topics.start()
    store.down = True
    connecting = asyncio.create_task(Client(topics).connect())
    await wait_until(lambda: store.refusals)

    await topics.close()
    await asyncio.wait_for(connecting, PATIENCE)


async def test_a_connection_may_end_after_its_topics_were_closed(store: Store) -> None:
    broker = MemoryBroker()
    broker.positions = store
    topics = TopicManager(broker, settings=settings())
    await topics.start()
    client = await Client(topics).connect()
    await client.armed()
    await topics.close()
    saves = len(store.saves)

    client.cut()
    await asyncio.sleep(0)
    assert len(store.saves) == saves


async def test_a_fault_of_the_broker_fails_one_operation_and_not_all_later_ones(
    topics: TopicManager, store: Store
) -> None:
    store.fault = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        await Client(topics).connect()

    store.fault = None
    await (await Client(topics).connect()).armed()


async def test_more_changes_than_fit_into_one_save_outlive_an_outage(
    topics: TopicManager, store: Store
) -> None:
    store.saves_nothing = True
    clients = [await Client(topics, str(n)).connect() for n in range(450)]
    for client in clients:
        client.resumption.acknowledge(client.subscriber.position)
    await wait_until(lambda: store.refusals)

    store.saves_nothing = False
    await wait_until(lambda: sum(map(len, store.saves)) == len(clients))


async def test_an_operation_that_is_over_has_no_position(topics: TopicManager) -> None:
    first = await Client(topics).connect()
    await first.armed()
    first.resumption.drop()
    await topics.publish(TOPIC, "missed")

    second = await Client(topics).connect()
    await topics.publish(TOPIC, "live")
    assert await second.texts(1) == [(b'"live"', False)]


async def test_positions_of_running_operations_are_kept_longer_than_their_time(
    store: Store,
) -> None:
    broker = MemoryBroker()
    broker.positions = store
    topics = TopicManager(broker, settings=settings(auto_resume_seconds=0.3))
    async with topics.held_open():
        client = await Client(topics).connect()
        await client.armed()

        await wait_until(lambda: len(store.saves) >= 4)
        [change] = store.saves[-1]
        assert change.position == Position(client.resumption.acknowledged)


async def test_a_subject_keeps_a_limited_number_of_ended_positions(store: Store) -> None:
    broker = MemoryBroker()
    broker.positions = store
    topics = TopicManager(broker, settings=settings())
    async with topics.held_open():
        for n in range(1002):
            client = await Client(topics, str(n)).connect()
            client.resumption.end()
        await (await Client(topics, "0", "bob").connect()).armed()
        await topics.resumptions.flush()

        assert len(store._holders) == 1000 + 1


async def test_many_changes_are_saved_together(topics: TopicManager, store: Store) -> None:
    clients = [await Client(topics, str(n)).connect() for n in range(50)]
    for client in clients:
        await client.armed()
    store.saves.clear()
    await topics.publish(TOPIC, "word")
    for client in clients:
        await client.texts(1)
        client.resumption.acknowledge(client.subscriber.position)
    await topics.resumptions.flush()

    assert [len(changes) for changes in store.saves] == [50]


@pytest.mark.processes
async def test_another_process_finds_what_this_one_has_saved(own_redis: RedisServer) -> None:
    one, other = (TopicManager(RedisBroker(own_redis.url), settings=settings()) for _ in range(2))
    async with one.held_open(), other.held_open():
        first = await Client(one).connect()
        await first.armed()
        for text in ("kept", "unsure"):
            await one.publish(TOPIC, text)
        await first.texts(1)
        first.resumption.acknowledge(first.subscriber.position)
        await first.texts(1)
        first.resumption.end()
        await one.resumptions.flush()
        await one.publish(TOPIC, "new")

        second = await Client(other).connect()
        assert await second.texts(2) == [(b'"unsure"', True), (b'"new"', False)]


@pytest.mark.processes
async def test_closing_saves_the_last_positions(own_redis: RedisServer) -> None:
    one, other = (
        TopicManager(RedisBroker(own_redis.url), settings=settings(auto_resume_seconds=60))
        for _ in range(2)
    )
    async with other.held_open():
        async with one.held_open():
            first = await Client(one).connect()
            await first.armed()
            await one.publish(TOPIC, "sent")
            await first.texts(1)
            first.resumption.end()
        await other.publish(TOPIC, "new")

        second = await Client(other).connect()
        assert await second.texts(2) == [(b'"sent"', True), (b'"new"', False)]


@pytest.mark.processes
async def test_a_restart_of_redis_loses_nothing_in_silence(own_redis: RedisServer) -> None:
    topics = TopicManager(RedisBroker(own_redis.url), settings=settings())
    async with topics.held_open():
        first = await Client(topics).connect()
        await first.armed()
        own_redis.restart()
        await wait_until(partial(_is_published, topics, "missed"))
        await (await Client(topics, "another").connect()).armed()
        await topics.resumptions.flush()

        second = await Client(topics).connect()
        with suppress(CursorExpired):
            assert second.subscriber.expired or await second.texts(1) == [(b'"missed"', True)]


async def _is_published(topics: TopicManager, text: str) -> bool:
    try:
        await topics.publish(TOPIC, text, event_id=text)
    except BrokerUnavailable:
        return False
    return True


@pytest.mark.processes
async def test_positions_outlive_that_redis_is_flushed(own_redis: RedisServer) -> None:
    topics = TopicManager(RedisBroker(own_redis.url), settings=settings())
    async with topics.held_open():
        first = await Client(topics).connect()
        await first.armed()
        first.resumption.end()
        await topics.resumptions.flush()
        own_redis.ask("FLUSHALL")
        await topics.publish(TOPIC, "missed")

        second = await Client(topics).connect()
        with suppress(CursorExpired):
            assert second.subscriber.expired or await second.texts(1)


@pytest.mark.processes
async def test_a_client_whose_position_redis_has_lost_waits_until_its_process_saves_it_again(
    own_redis: RedisServer,
) -> None:
    one, other = (TopicManager(RedisBroker(own_redis.url), settings=settings()) for _ in range(2))
    async with one.held_open(), other.held_open():
        first = await Client(one).connect()
        await first.armed()
        other.resumptions.watch()
        await other.resumptions.flush()
        first.cut()
        await one.resumptions.flush()
        own_redis.ask("FLUSHALL")
        await one.publish(TOPIC, "missed")

        second = await Client(other).connect()
        assert second.subscriber.expired or await second.texts(1) == [(b'"missed"', True)]
