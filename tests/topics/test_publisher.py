"""Publishing from another process, against a real Redis."""

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from gqlnotify import Cursor, Publisher, Settings, Topic, TopicManager
from gqlnotify.errors import BadUserInput, BrokerUnavailable, InternalError
from gqlnotify.settings import Bounds
from gqlnotify.topics.publisher import Entry
from tests.redis_servers import RedisServer, connect, redis_cluster, redis_server
from tests.waiting import PATIENCE

TOO_MANY_FOR_ONE_BATCH = 1203


@dataclass(frozen=True)
class Price:
    metal: str
    cents: int


Send = Callable[[Publisher, Sequence[Entry]], Awaitable[list[Cursor]]]


async def send_async(publisher: Publisher, entries: Sequence[Entry]) -> list[Cursor]:
    return await publisher.publish_many(entries)


async def send_sync(publisher: Publisher, entries: Sequence[Entry]) -> list[Cursor]:
    return await asyncio.to_thread(publisher.publish_many_sync, entries)


@pytest.fixture(params=[send_async, send_sync], ids=["async", "sync"])
def send(request: pytest.FixtureRequest) -> Send:
    chosen: Send = request.param
    return chosen


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis without other clients, so that its statistics are meaningful."""
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    with redis_cluster() as cluster:
        yield cluster.url


@pytest.fixture
def name() -> str:
    return f"prices.{uuid4().hex}"


@asynccontextmanager
async def publishing(url: str, **settings: Any) -> AsyncIterator[Publisher]:
    async with Publisher(url, settings=Settings(**settings)) as publisher:
        yield publisher


@asynccontextmanager
async def listening(url: str, **settings: Any) -> AsyncIterator[TopicManager]:
    manager = TopicManager(settings=Settings(broker_url=url, **settings))
    try:
        await manager.start()
        yield manager
    finally:
        await manager.close()


async def history(url: str, topic: Topic[Any], count: int, after: str) -> list[Any]:
    async with listening(url) as manager, asyncio.timeout(PATIENCE):
        stream = manager.subscribe(topic, after=after)
        return [await anext(stream) for _ in range(count)]


def before(first: Cursor) -> str:
    return str(Cursor(first.epoch, first.seq - 1))


# Published events are received


async def test_a_value_of_a_typed_topic_arrives_at_a_server_unchanged(
    redis_url: str, name: str, send: Send
) -> None:
    topic = Topic(name, Price)
    async with listening(redis_url) as manager, publishing(redis_url) as publisher:
        stream = manager.subscribe(topic)
        await stream.start()
        [cursor] = await send(publisher, [(topic, Price("gold", 7))])
        async with asyncio.timeout(PATIENCE):
            assert await anext(stream) == Price("gold", 7)
        assert stream.cursor == cursor
        await stream.aclose()


@pytest.mark.parametrize(
    "value",
    [{"price": 7, "of": ["Gold", "Gałązka 🌿"]}, [], "text", 1.5, True, None, {"deep": {"er": 1}}],
)
async def test_a_topic_name_without_a_type_takes_any_json(
    redis_url: str, name: str, send: Send, value: Any
) -> None:
    async with publishing(redis_url) as publisher:
        [cursor] = await send(publisher, [(name, value)])

    assert await history(redis_url, Topic(name, Any), 1, before(cursor)) == [value]


async def test_one_event_at_a_time_both_ways(redis_url: str, name: str) -> None:
    topic = Topic(name, Price)
    async with publishing(redis_url) as publisher:
        first = await publisher.publish(topic, Price("gold", 1))
        second = await asyncio.to_thread(publisher.publish_sync, topic, Price("gold", 2))
        third = await publisher.publish(name, {"metal": "gold", "cents": 3})

    assert (second, third) == (first.next(), first.next().next())
    got = await history(redis_url, topic, 3, before(first))
    assert [price.cents for price in got] == [1, 2, 3]


def test_a_publisher_needs_no_event_loop(redis_url: str, name: str) -> None:
    with Publisher(redis_url) as publisher:
        first = publisher.publish_sync(name, 1)
        assert publisher.publish_sync(name, 2) == first.next()


def test_the_environment_names_the_broker(
    redis_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GQLNOTIFY_BROKER_URL", redis_url)
    with Publisher() as publisher:
        assert publisher.publish_sync(name, 1).seq > 0


async def test_a_topic_with_parameters_is_published_with_its_own_name(
    redis_url: str, name: str, send: Send
) -> None:
    family = Topic(f"{name}.<metal>", Price)
    async with publishing(redis_url) as publisher:
        [cursor] = await send(publisher, [(family(metal="gold"), Price("gold", 7))])

    member = Topic(f"{name}.gold", Price)
    assert await history(redis_url, member, 1, before(cursor)) == [Price("gold", 7)]


# Event ids


async def test_a_repeated_event_id_has_no_effect_and_returns_the_first_cursor(
    redis_url: str, name: str, send: Send
) -> None:
    async with publishing(redis_url) as publisher:
        [first] = await send(publisher, [(name, "once", "id")])
        again = await send(publisher, [(name, "twice", "id"), (name, "other", "id2")])

    assert again == [first, first.next()]
    assert await history(redis_url, Topic(name, Any), 2, before(first)) == ["once", "other"]


async def test_an_event_id_repeated_within_a_batch_has_no_effect(
    redis_url: str, name: str, send: Send
) -> None:
    async with publishing(redis_url) as publisher:
        cursors = await send(publisher, [(name, 1, "a"), (name, 2, "b"), (name, 3, "a")])

    assert cursors == [cursors[0], cursors[0].next(), cursors[0]]


async def test_the_same_event_id_in_another_topic_is_another_id(
    redis_url: str, name: str, send: Send
) -> None:
    async with publishing(redis_url) as publisher:
        await send(publisher, [(name, 1, "id"), (f"{name}.other", 2, "id")])

    async with publishing(redis_url) as publisher:
        first, second = await send(publisher, [(f"{name}.other", 3), (name, 4)])
    assert (first.seq, second.seq) == (2, 2)


# Batches


async def test_many_entries_keep_their_order_in_every_topic(
    redis_url: str, name: str, send: Send
) -> None:
    names = [f"{name}.{n}" for n in range(3)]
    entries = [(names[n % 3], n) for n in range(TOO_MANY_FOR_ONE_BATCH)]
    async with publishing(redis_url) as publisher:
        cursors = await send(publisher, entries)

    assert len(cursors) == TOO_MANY_FOR_ONE_BATCH
    for n, topic in enumerate(names):
        expected = list(range(n, TOO_MANY_FOR_ONE_BATCH, 3))
        assert [cursor.seq for cursor in cursors[n::3]] == list(range(1, len(expected) + 1))
        got = await history(redis_url, Topic(topic, int), len(expected), before(cursors[n]))
        assert got == expected


async def test_a_batch_takes_one_command_an_entry_and_one_round_trip(
    server: RedisServer, name: str, send: Send
) -> None:
    async with publishing(server.url) as publisher:
        # Connected, and the server knows the script.
        await send(publisher, [(name, 0)])
        with connect(server.url) as watching:
            watching.config_resetstat()
            await send(publisher, [(name, n) for n in range(TOO_MANY_FOR_ONE_BATCH)])
            calls = watching.info("commandstats")
            writes = watching.info("stats")["total_writes_processed"]

    # The first command of a batch contains the script.
    batches = calls["cmdstat_eval"]["calls"]
    assert batches < 5
    assert batches + calls["cmdstat_evalsha"]["calls"] == TOO_MANY_FOR_ONE_BATCH
    # A long answer needs several writes, and the answers to this connection are counted too.
    assert writes < TOO_MANY_FOR_ONE_BATCH / 10


async def test_the_script_is_sent_again_to_a_server_that_lost_it(
    server: RedisServer, name: str, send: Send
) -> None:
    async with publishing(server.url) as publisher:
        [first] = await send(publisher, [(name, 0)])
        server.ask("SCRIPT", "FLUSH")
        cursors = await send(publisher, [(name, n) for n in range(1, 700)])

    assert cursors == [Cursor(first.epoch, first.seq + n) for n in range(1, 700)]
    assert await history(server.url, Topic(name, int), 700, before(first)) == list(range(700))


async def test_an_empty_batch_sends_no_command(send: Send) -> None:
    async with publishing("redis://127.0.0.1:1") as publisher:
        assert await send(publisher, []) == []


# Refusals


OPEN = Topic("prices.<metal>", Price)

BAD_ENTRIES: dict[str, Entry] = {
    "wrong type": (Topic("prices", Price), 7),
    "NaN": ("prices", float("nan")),
    "endless": ("prices", {"most": float("inf")}),
    "not JSON": ("prices", object()),
    "a key that is no text": ("prices", {(1, 2): 3}),
    "half a character": ("prices", "\ud800"),
    "bad name": ("prices..gold", 1),
    "no name": ("", 1),
    "open parameter": (OPEN, Price("gold", 7)),
    "reserved": ("gqlnotify.revocations", {"subject": "ann"}),
    "too large": ("prices", "x" * 2000),
    "empty id": ("prices", 1, ""),
    "long id": ("prices", 1, "x" * 401),
}


@pytest.mark.parametrize("bad", BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
async def test_a_bad_entry_is_refused_and_nothing_of_its_batch_is_published(
    redis_url: str, name: str, send: Send, bad: Entry
) -> None:
    async with publishing(redis_url, event_max_bytes=1000) as publisher:
        with pytest.raises((BadUserInput, InternalError)):
            await send(publisher, [(name, "good"), bad])
        [cursor] = await send(publisher, [(name, "first")])

    assert cursor.seq == 1


async def test_a_value_that_refers_to_itself_is_refused(
    redis_url: str, name: str, send: Send
) -> None:
    endless: list[Any] = []
    endless.append(endless)
    async with publishing(redis_url) as publisher:
        with pytest.raises(InternalError):
            await send(publisher, [(name, endless)])


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("memory://", "GQLNOTIFY_BROKER_URL"),
        ("carrier-pigeon://", "redis://"),
        ("http://localhost", "redis://"),
    ],
)
def test_a_broker_that_no_other_process_can_reach_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Publisher(url)


def test_without_a_broker_the_error_names_the_missing_setting() -> None:
    with pytest.raises(ValueError, match="GQLNOTIFY_BROKER_URL"):
        Publisher(settings=Settings(broker_url="memory://"))


# Failures of Redis


@pytest.mark.processes
async def test_while_redis_is_down_nothing_is_published_silently(name: str, send: Send) -> None:
    with redis_server(persistent=True) as server:
        async with publishing(server.url, broker_timeout=1) as publisher:
            [first] = await send(publisher, [(name, 1)])
            server.stop()
            with pytest.raises(BrokerUnavailable):
                await send(publisher, [(name, 2)])
            server.start()
            [second] = await send(publisher, [(name, 3)])
        got = await history(server.url, Topic(name, int), 1, str(first))

    assert (first.seq, second.seq) == (1, 2)
    assert got == [3]


@pytest.mark.processes
async def test_a_silent_redis_is_waited_for_no_longer_than_broker_timeout(
    name: str, send: Send
) -> None:
    with redis_server() as server:
        async with publishing(server.url, broker_timeout=0.3) as publisher:
            await send(publisher, [(name, 1)])
            server.pause()
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(BrokerUnavailable):
                    await send(publisher, [(name, 2)])
            server.resume()


# Threads and event loops


def test_threads_share_a_publisher(redis_url: str, name: str) -> None:
    def many(thread: int) -> list[Cursor]:
        return [publisher.publish_sync(name, [thread, n]) for n in range(50)]

    with Publisher(redis_url) as publisher, ThreadPoolExecutor(8) as threads:
        cursors = list(threads.map(many, range(8)))

    assert sorted(c.seq for own in cursors for c in own) == list(range(1, 401))
    for own in cursors:
        assert own == sorted(own, key=lambda cursor: cursor.seq)


def test_consecutive_event_loops_can_use_a_publisher(redis_url: str, name: str) -> None:
    publisher = Publisher(redis_url)

    async def publish() -> Cursor:
        async with publisher:
            return await publisher.publish(name, 1)

    first = asyncio.run(publish())
    assert asyncio.run(publish()) == first.next()


# A connection that is open at the end of its loop can't be closed any more: Python warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_connections_left_open_in_a_loop_that_ended_are_not_used_again(
    redis_url: str, name: str
) -> None:
    publisher = Publisher(redis_url)
    first = asyncio.run(publisher.publish(name, 1))
    assert asyncio.run(publisher.publish(name, 2)) == first.next()
    del publisher
    gc.collect()


async def test_a_closed_publisher_connects_again(redis_url: str, name: str, send: Send) -> None:
    publisher = Publisher(redis_url)
    [first] = await send(publisher, [(name, 1)])
    await publisher.aclose()
    [second] = await send(publisher, [(name, 2)])
    await publisher.aclose()

    assert second == first.next()


async def test_tasks_share_a_publisher(redis_url: str, name: str) -> None:
    async with publishing(redis_url) as publisher:
        cursors = await asyncio.gather(*(publisher.publish(name, n) for n in range(50)))

    assert sorted(cursor.seq for cursor in cursors) == list(range(1, 51))


# Settings


async def test_the_bounds_of_each_topic_apply_to_what_is_published(
    redis_url: str, name: str, send: Send
) -> None:
    small, large = f"{name}.small", f"{name}.large"
    bounds = {f"{name}.small*": Bounds(length=10)}
    async with publishing(redis_url, history_per_topic=bounds) as publisher:
        await send(publisher, [(topic, n) for topic in (small, large) for n in range(600)])
    with connect(redis_url) as client:
        kept, all_of_them = (client.xlen(f"gqlnotify:{{{topic}}}") for topic in (small, large))

    # Redis trims in blocks of a hundred entries.
    assert kept <= 110 + 1
    assert all_of_them >= 600


async def test_the_prefix_in_the_settings_keeps_applications_apart(
    redis_url: str, name: str, send: Send
) -> None:
    async with publishing(redis_url, broker_prefix="another") as publisher:
        await send(publisher, [(name, 1)])
    with connect(redis_url) as client:
        keys = [key.decode() for key in client.scan_iter(f"*{name}*")]

    assert sorted(keys) == [f"another:{{{name}}}", f"another:{{{name}}}:ids"]


# A cluster


async def test_on_a_cluster_all_topics_of_a_batch_arrive_each_in_its_order(
    cluster_url: str, name: str, send: Send
) -> None:
    topics = [Topic(f"{name}.{n}", Price) for n in range(7)]
    entries = [(topics[n % 7], Price("gold", n)) for n in range(700)]
    async with publishing(cluster_url) as publisher, listening(cluster_url) as manager:
        streams = [manager.subscribe(topic) for topic in topics]
        for stream in streams:
            await stream.start()
        cursors = await send(publisher, entries)
        for n, stream in enumerate(streams):
            async with asyncio.timeout(PATIENCE):
                got = [await anext(stream) for _ in range(100)]
            assert got == [Price("gold", cents) for cents in range(n, 700, 7)]
            assert stream.cursor == cursors[693 + n]
            await stream.aclose()


async def test_on_a_cluster_an_event_id_repeated_has_no_effect(
    cluster_url: str, name: str, send: Send
) -> None:
    async with publishing(cluster_url) as publisher:
        [first] = await send(publisher, [(name, 1, "id")])
        assert await send(publisher, [(name, 2, "id"), (name, 3)]) == [first, first.next()]


# Imports


def loaded(statement: str, *modules: str) -> list[str]:
    """Return which of `modules` a fresh process has loaded after `statement`."""
    program = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return [module for module in modules if module in json.loads(done.stdout)]


@pytest.mark.processes
def test_publishing_imports_no_server() -> None:
    servers = ("fastapi", "starlette", "strawberry", "graphql", "uvicorn")
    assert loaded("from gqlnotify import Publisher", *servers, "redis") == ["redis"]


@pytest.mark.processes
def test_without_redis_its_driver_is_not_imported() -> None:
    kept = "gqlnotify.topics.manager"
    assert loaded("from gqlnotify import TopicManager", "redis", kept) == [kept]


def test_a_lone_surrogate_is_no_event_id(redis_url: str) -> None:
    with Publisher(redis_url) as publisher, pytest.raises(BadUserInput, match="half"):
        publisher.publish_sync("t", 1, event_id="\ud800")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:sec/ret@localhost:6379",
        "redis://:sec#ret@localhost",
        "redis://:sec?ret@localhost",
        "redis+cluster://:sec/ret@localhost:6379",
        "redis+sentinel://:sec#ret@localhost/tasks",
    ],
)
def test_an_error_does_not_contain_an_unescaped_password(url: str) -> None:
    with pytest.raises(ValueError, match="%2F") as refused:
        Publisher(url)
    assert "sec" not in str(refused.value)
    assert "ret@" not in str(refused.value)
