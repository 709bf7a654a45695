"""The live path: how it subscribes, and that no subscriber misses an event if it fails."""

import asyncio

import pytest

from gqlnotify.brokers.redis import broker as broker_module
from gqlnotify.brokers.redis import scripts
from gqlnotify.brokers.redis.connection import Line
from gqlnotify.brokers.redis.topology import connect
from gqlnotify.brokers.redis.url import Address
from gqlnotify.errors import CursorExpired
from gqlnotify.event import Cursor
from gqlnotify.settings import SURVEYS
from tests.brokers.redis.conftest import Launch, master_and_replica
from tests.brokers.redis.support import (
    TIMEOUT,
    Numbers,
    calls,
    clients,
    is_expired,
    kill_clients,
    listening,
    new_topic,
    numbers,
    stream_key,
)
from tests.redis_servers import Link, RedisServer
from tests.waiting import PATIENCE, SCALE, wait_until


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics without a keep-alive expire soon, and the keep-alive runs more often."""
    monkeypatch.setattr(broker_module, "_KEEP_SECONDS", 0.05)
    monkeypatch.setattr(scripts, "_GRACE_SECONDS", 0.2)


# how it subscribes


async def test_the_connection_uses_resp3(launch: Launch) -> None:
    server = launch()
    async with listening(server.url) as ears:
        await ears.broker.subscribe("x")
        await ears.broker.publish("x", b"1")

        for pubsub in (True, False):
            assert {client["resp"] for client in clients(server, pubsub=pubsub)} == {"3"}


async def test_a_line_that_is_lost_after_the_close_is_not_made_again(launch: Launch) -> None:
    async with listening(launch().url) as ears:
        session = ears.broker._session
        assert session is not None
        await ears.broker.subscribe("x")
        await ears.broker.close()
        tasks = asyncio.all_tasks()

        session.live.unsettled()

        assert asyncio.all_tasks() == tasks


async def test_any_number_of_topics_needs_one_connection_and_few_commands(launch: Launch) -> None:
    server = launch()
    topics = [f"t{n}" for n in range(2000)]
    async with listening(server.url) as ears:
        await asyncio.gather(*map(ears.broker.subscribe, topics))
        [connection] = clients(server, pubsub=True)
        assert connection["sub"] == "2000"
        assert calls(server, "subscribe") <= 5

        for topic in topics:
            await ears.broker.unsubscribe(topic)
        await wait_until(lambda: server.ask("PUBSUB", "CHANNELS") == [])
        assert calls(server, "unsubscribe") <= 5


async def test_unsubscribing_and_subscribing_in_one_tick_sends_no_command(launch: Launch) -> None:
    server = launch()
    async with listening(server.url) as ears, asyncio.timeout(PATIENCE):
        await ears.broker.subscribe("x")
        await ears.broker.unsubscribe("x")
        await ears.broker.subscribe("x")
        await ears.broker.publish("x", b"1")
        await wait_until(lambda: ears.payloads == [b"1"])

    assert calls(server, "subscribe") == 1
    assert calls(server, "unsubscribe") == 0


@pytest.mark.parametrize("turns", range(1, 6))
async def test_subscribing_again_some_ticks_later_is_confirmed(
    each_redis: RedisServer, turns: int
) -> None:
    topic = new_topic()
    async with listening(each_redis.url) as ears, asyncio.timeout(PATIENCE):
        for _ in range(5):
            await ears.broker.subscribe(topic)
            await ears.broker.unsubscribe(topic)
            for _ in range(turns):
                await asyncio.sleep(0)
        await ears.broker.subscribe(topic)
        await ears.broker.publish(topic, b"1")
        await wait_until(lambda: ears.payloads == [b"1"])


async def test_all_subscribers_of_a_topic_are_confirmed(each_redis: RedisServer) -> None:
    async with listening(each_redis.url) as ears, asyncio.timeout(PATIENCE):
        await asyncio.gather(*(ears.broker.subscribe("x") for _ in range(5)))


async def test_a_confirmation_has_the_topic_looked_at_again(each_redis: RedisServer) -> None:
    topic = new_topic()
    async with listening(each_redis.url) as ears:
        await ears.broker.subscribe(topic)
        assert ears.rechecked == [topic]
        kill_clients(each_redis, pubsub=True)
        await wait_until(lambda: ears.rechecked == [topic, topic])


async def test_a_cancelled_subscribe_leaves_no_channel(launch: Launch) -> None:
    server = launch()
    with Link(server.port) as link:
        async with numbers(link.url) as stream:
            link.freeze()
            joining = asyncio.create_task(stream.reader())
            await wait_until(lambda: stream.manager.live_topics.by_name)
            joining.cancel()
            await asyncio.wait([joining])
            link.thaw()
            await stream.broker.subscribe("other")

            await wait_until(lambda: not stream.manager.live_topics.by_name)
            wanted = {stream_key("other").encode(), stream_key(f"{SURVEYS}requests").encode()}
            await wait_until(lambda: set(server.ask("PUBSUB", "CHANNELS")) == wanted)


# no subscriber misses an event, whatever happens to the connection


@pytest.mark.parametrize("pubsub", [True, False], ids=["pubsub", "commands"])
async def test_killed_connections_cause_no_gap(launch: Launch, pubsub: bool) -> None:
    server = launch()
    async with numbers(server.url) as stream:
        await stream.reader()
        for number in range(200):
            await stream.publish(number)
            if number % 20 == 10:
                kill_clients(server, pubsub=pubsub)

        await stream.everybody_has(range(200))


async def test_a_link_that_is_cut_repeatedly_causes_no_gap(launch: Launch) -> None:
    server = launch()
    with Link(server.port) as link:
        async with numbers(link.url) as stream:
            await stream.reader()
            await stream.reader()
            for number in range(100):
                if number % 10 == 5:
                    link.cut()
                await stream.publish(number)

            await stream.everybody_has(range(100))


async def test_events_published_while_the_connection_is_down_arrive_before_newer_ones(
    launch: Launch,
) -> None:
    server = launch()
    with Link(server.port) as link:
        async with numbers(link.url) as stream, numbers(server.url) as other:
            other.topic = stream.topic
            await stream.reader()
            await other.publish_all(range(5))
            link.refuse()
            link.cut()
            await other.publish_all(range(5, 400))
            link.accept()
            await other.publish_all(range(400, 410))

            await stream.everybody_has(range(410))


async def test_a_frozen_connection_is_noticed_in_time_and_caught_up(launch: Launch) -> None:
    server = launch()
    with Link(server.port) as link:
        async with numbers(link.url) as stream, numbers(server.url) as other:
            other.topic = stream.topic
            await stream.reader()
            await _until_an_event_came(stream)
            link.freeze()
            await other.publish_all(range(1, 20))
            await _until_disconnected(stream)
            link.thaw()

            await stream.everybody_has(range(20))


async def test_a_paused_server_is_noticed_in_time_and_caught_up(launch: Launch) -> None:
    server = launch()
    async with numbers(server.url) as stream:
        await stream.reader()
        await _until_an_event_came(stream)
        server.pause()
        try:
            waiting = asyncio.create_task(stream.publish(1))
            await _until_disconnected(stream)
        finally:
            server.resume()
        await waiting
        await stream.publish_all(range(2, 10))

        await stream.everybody_has(range(10))


async def test_a_server_that_is_only_quiet_is_not_taken_for_lost(launch: Launch) -> None:
    server = launch()
    async with listening(server.url, timeout=0.3) as ears:
        await ears.broker.subscribe("x")
        [connection] = clients(server, pubsub=True)
        pings = calls(server, "ping")
        await wait_until(lambda: calls(server, "ping") >= pings + 10)

        assert [one["id"] for one in clients(server, pubsub=True)] == [connection["id"]]


async def test_a_subscriber_that_redis_hangs_up_on_for_slowness_catches_up(launch: Launch) -> None:
    server = launch("client-output-buffer-limit pubsub 64kb 64kb 1")
    async with numbers(server.url) as stream:
        await stream.reader()
        await stream.publish_all(range(3))
        await stream.everybody_has(range(3))
        [before] = clients(server, pubsub=True)
        # More than the sockets hold, all in one tick of the loop, in which nothing is read.
        _burst(server, stream.topic.name)
        await stream.publish_all(range(3, 6))

        await stream.everybody_has(range(6))
        [after] = clients(server, pubsub=True)
        assert after["id"] != before["id"]


async def test_a_restart_with_all_data_causes_no_gap_and_no_error(launch: Launch) -> None:
    server = launch(persistent=True)
    async with numbers(server.url) as stream:
        early = await stream.reader()
        cursors = await stream.publish_all(range(10))
        await stream.everybody_has(range(10))
        server.restart()
        await stream.publish_all(range(10, 20))
        resuming = await stream.reader(after=cursors[4])

        await wait_until(lambda: resuming.got == list(range(5, 20)))
        await wait_until(lambda: early.got == list(range(20)))
        assert early.expired is resuming.expired is None


async def test_a_restart_without_events_causes_no_gap(launch: Launch) -> None:
    server = launch(persistent=True)
    async with numbers(server.url) as stream:
        await stream.reader()
        server.restart()
        await stream.publish_all(range(5))

        await stream.everybody_has(range(5))


# which subscribers saw events that Redis lost


async def test_subscribers_that_saw_events_lost_by_a_rewound_server_get_cursor_expired(
    launch: Launch,
) -> None:
    server = launch()
    async with numbers(server.url) as stream:
        await stream.reader()
        cursors = await stream.publish_all([1, 2, 3])
        server.ask("SAVE")
        await stream.publish_all([4, 5])
        await stream.everybody_has([1, 2, 3, 4, 5])
        server.kill()
        server.start()
        await stream.publish_all([6, 7])

        await stream.all_are_expired()
        resuming = await stream.reader(after=cursors[2])
        await wait_until(lambda: resuming.got == [6, 7])


async def test_subscribers_that_saw_events_missing_in_a_replica_get_cursor_expired(
    launch: Launch,
) -> None:
    master, replica = master_and_replica(launch)
    with Link(master.port) as link:
        async with numbers(link.url) as stream:
            await stream.reader()
            await stream.publish_all([1, 2, 3])
            master.ask("WAIT", 1, 0)
            replica.ask("REPLICAOF", "NO", "ONE")
            await stream.publish_all([4, 5])
            await stream.everybody_has([1, 2, 3, 4, 5])
            link._behind = replica.port
            link.cut()
            await stream.publish(6)

            await stream.all_are_expired()


@pytest.mark.parametrize("event", [True, False], ids=["by an event", "by the keep-alive"])
@pytest.mark.usefixtures("keeping")
async def test_live_subscribers_get_cursor_expired_when_all_data_is_lost(
    launch: Launch, event: bool
) -> None:
    server = launch()
    async with numbers(server.url) as stream:
        reader = await stream.reader()
        cursors = await stream.publish_all([1, 2])
        await stream.everybody_has([1, 2])
        server.ask("FLUSHALL")
        if event:
            await stream.publish(3)

        await stream.all_are_expired()
        assert reader.got == [1, 2]
        old = stream.manager.subscribe(stream.topic, after=cursors[0])
        with pytest.raises(CursorExpired):
            await old.start()
        stream.readers.clear()
        await stream.reader()
        await stream.publish(4)
        await stream.everybody_has([4])


async def test_live_subscribers_get_cursor_expired_after_a_failover_to_an_empty_server(
    launch: Launch,
) -> None:
    full, empty = launch(), launch()
    with Link(full.port) as link:
        async with numbers(link.url) as stream:
            await stream.reader()
            await stream.publish_all([1, 2])
            await stream.everybody_has([1, 2])
            link._behind = empty.port
            link.cut()

            await stream.all_are_expired()


@pytest.mark.usefixtures("keeping")
async def test_the_keep_alive_extends_the_life_of_a_topic_with_subscribers(
    launch: Launch,
) -> None:
    server = launch()
    async with numbers(server.url, topic="heard", seconds=0.2) as stream:
        await stream.reader()
        await stream.publish(1)
        await stream.everybody_has([1])
        # A topic expires after twice its age and the grace, 0.6 s: the unused one is the clock.
        for _ in range(2):
            await stream.manager.publish(stream.topic.__class__("unheard", int), 0)
            await wait_until(lambda: not server.ask("EXISTS", stream_key("unheard")))
        assert server.ask("EXISTS", stream_key("heard"))
        await stream.publish(2)

        await stream.everybody_has([1, 2])


@pytest.mark.usefixtures("keeping")
async def test_the_keep_alive_looks_once_at_a_topic_without_an_event(launch: Launch) -> None:
    server = launch()
    async with listening(server.url) as ears:
        await ears.broker.subscribe("quiet")
        await ears.broker.head("quiet")
        await wait_until(lambda: ears.rechecked.count("quiet") == 2)  # one was the confirmation
        extended = calls(server, "pexpire")
        await wait_until(lambda: calls(server, "pexpire") >= extended + 10)

        assert ears.rechecked.count("quiet") == 2
        assert not server.ask("EXISTS", stream_key("quiet"))


@pytest.mark.usefixtures("keeping")
async def test_a_topic_that_is_listened_to_for_long_is_not_outrun_by_newer_ones(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_BEGIN_SECONDS", 0.1)
    server = launch()
    async with numbers(server.url) as stream:
        start = await stream.manager.cursor(stream.topic)
        await stream.reader()
        await wait_until(lambda: server.ask("EXISTS", stream_key(stream.topic.name)))
        server.ask("DEL", "gqlnotify:begun")
        await stream.reader(after=start)
        kill_clients(server, pubsub=True)
        await stream.publish_all([1, 2])

        await stream.everybody_has([1, 2])


async def test_cursors_of_a_topic_without_an_event_become_one_position(launch: Launch) -> None:
    server = launch()
    async with numbers(server.url) as stream, numbers(server.url) as other:
        before = await stream.manager.cursor(stream.topic)
        await stream.reader()
        after = [await other.manager.cursor(stream.topic) for _ in range(20)]
        for cursor in [before, *after]:
            await stream.reader(after=cursor)
        evaluated = calls(server, "evalsha")
        await stream.publish(1)
        await stream.everybody_has([1])
        await stream.publish_all([2, 3])
        await stream.everybody_has([1, 2, 3])

        # Three events, and one look into the history for all 22 readers.
        assert calls(server, "evalsha") - evaluated < 10


async def test_a_cursor_of_a_topic_without_an_event_does_not_suffer_from_lost_data(
    launch: Launch,
) -> None:
    server = launch()
    async with numbers(server.url) as stream:
        early = await stream.reader()
        old = await stream.manager.cursor(stream.topic)
        server.ask("FLUSHALL")
        new = await stream.manager.cursor(stream.topic)
        with pytest.raises(CursorExpired):
            await stream.manager.subscribe(stream.topic, after=old).start()
        late = await stream.reader(after=new)
        await stream.publish_all([1, 2])

        await wait_until(lambda: early.expired is not None)
        await wait_until(lambda: late.got == [1, 2] or late.expired)
        assert late.expired is None


async def test_events_published_while_the_connection_is_down_reach_an_empty_topic(
    launch: Launch,
) -> None:
    server = launch()
    with Link(server.port) as link:
        async with numbers(link.url) as stream, numbers(server.url) as other:
            await stream.reader()
            link.refuse()
            link.cut()
            await other.manager.publish(stream.topic, 1)
            link.accept()

            await stream.everybody_has([1])
            await other.manager.publish(stream.topic, 2)
            await stream.everybody_has([1, 2])


async def test_an_expired_topic_continues_without_a_gap(launch: Launch) -> None:
    server = launch()
    async with numbers(server.url, seconds=1.0 * SCALE) as stream:
        reader = await stream.reader()
        cursors = await stream.publish_all([1, 2])
        await stream.everybody_has([1, 2])
        first = Cursor.parse(cursors[0])
        await wait_until(lambda: is_expired(stream.broker, stream.topic.name, first))
        await stream.publish(3)
        await stream.everybody_has([1, 2, 3])
        kill_clients(server, pubsub=True)
        await stream.publish(4)
        await stream.everybody_has([1, 2, 3, 4])
        assert reader.expired is None


# its end


async def test_a_connection_that_is_lost_while_sending_is_replaced(each_redis: RedisServer) -> None:
    servers, channel = connect(Address.parse(each_redis.url), TIMEOUT), new_topic()
    owner = _LosingItsLineOnce()
    owner.line = Line(servers, "the only one", owner, TIMEOUT)
    owner.line.add(channel)
    await wait_until(lambda: channel in owner.heard_of)
    each_redis.ask("PUBLISH", channel, "1")
    try:
        await wait_until(lambda: "late" in owner.heard_of)
    finally:
        await _end(owner.line)
        await servers.aclose()


async def test_a_broker_can_be_closed_right_after_unsubscribing(each_redis: RedisServer) -> None:
    for _ in range(10):
        async with listening(each_redis.url) as ears:
            await ears.broker.subscribe("x")
            await ears.broker.unsubscribe("x")


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_is_lost_while_it_closes_is_closed(
    each_redis: RedisServer, turns: int
) -> None:
    servers = connect(Address.parse(each_redis.url), TIMEOUT)
    owner = _LosingItsLine(turns)
    owner.line = Line(servers, "the only one", owner, TIMEOUT)
    owner.line.add("x")
    await asyncio.wait_for(owner.is_confirmed.wait(), PATIENCE)
    each_redis.ask("PUBLISH", "x", "1")
    await wait_until(lambda: owner.closing is not None)
    assert owner.closing is not None
    _, pending = await asyncio.wait([owner.closing], timeout=PATIENCE)
    await _end(owner.line)
    await servers.aclose()

    assert not pending


class _LosingItsLine:
    """Closes the line some ticks after its connection was lost."""

    line: Line
    closing: "asyncio.Task[None] | None" = None

    def __init__(self, turns: int) -> None:
        self.is_confirmed = asyncio.Event()
        self._turns = turns

    def confirmed(self, _channel: str) -> None:
        self.is_confirmed.set()

    def received(self, _channel: str, _data: bytes) -> None:
        self.closing = asyncio.create_task(self._close())
        raise ConnectionResetError

    def unsettled(self) -> None:
        pass

    async def _close(self) -> None:
        for _ in range(self._turns):
            await asyncio.sleep(0)
        await self.line.aclose()


class _LosingItsLineOnce:
    """Subscribes to another channel in the tick in which the connection is lost."""

    line: Line

    def __init__(self) -> None:
        self.heard_of = list[str]()

    def confirmed(self, channel: str) -> None:
        self.heard_of.append(channel)

    def received(self, _channel: str, _data: bytes) -> None:
        self.line.add("late")
        raise ConnectionResetError

    def unsettled(self) -> None:
        pass


async def _end(line: Line) -> None:
    """End a line that may have missed that it was closed."""
    while not line._running.done():
        line._running.cancel()
        await asyncio.wait([line._running], timeout=0.1)


async def _until_an_event_came(stream: Numbers) -> None:
    await stream.publish(0)
    await stream.everybody_has([0])


async def _until_disconnected(stream: Numbers) -> None:
    """Wait until a silent server was noticed: at its deadline, and not earlier."""
    session = stream.broker._session
    assert session is not None
    clock = asyncio.get_running_loop().time
    since = clock()
    await wait_until(lambda: not session.live.connected)
    assert TIMEOUT / 3 <= clock() - since <= 4 * TIMEOUT


def _burst(server: RedisServer, topic: str) -> None:
    for _ in range(16):
        server.ask("PUBLISH", stream_key(topic), b"x" * 1_000_000)
