"""A peer that does not read: the output that waits for it is bounded, and so is the wait."""

import asyncio

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode

from gqlnotify.topics import live_topic
from gqlnotify.websocket import connection as connection_module
from gqlnotify.websocket.writer import FULL_BYTES
from tests.e2e.service import Service, ready, served, text_of, texts
from tests.server.support import BIG, let_tasks_run, stall
from tests.waiting import wait_until

pytestmark = pytest.mark.processes


# A peer that does not read


async def test_the_output_that_waits_for_a_peer_is_bounded(each: Service) -> None:
    await publish_to_a_stalled_peer(each, BIG, 100)


async def test_the_output_of_small_events_that_waits_for_a_peer_is_bounded(each: Service) -> None:
    await publish_to_a_stalled_peer(each, 12 * 1024, 900)


async def publish_to_a_stalled_peer(service: Service, size: int, count: int) -> None:
    """Publish one event at a time to a peer that does not read and to one that does."""
    async with service.socket(buffer=1024) as stalled, service.socket() as reader:
        await ready(stalled, "a", "1")
        await ready(reader, "a", "1")
        slow, *_ = service.taps.connections
        most = 0
        expected = [f"{n} " + "x" * size for n in range(count)]
        for text in expected:
            await service.publish("a", text)
            assert await texts(reader, 1) == [text]
            held = sum(map(len, getattr(slow, "_frames", ())))
            most = max(most, held + slow.transport.get_write_buffer_size())
        assert 0 < most <= FULL_BYTES + 2 * (size + 1024)
        # When it reads again, it gets everything once and in order.
        assert await texts(stalled, count) == expected


async def test_a_peer_that_vanishes_before_its_answer_leaves_nothing(
    base: type[WebSocketsSansIOProtocol],
) -> None:
    async with served(base, topic_linger=0) as service:
        tasks = asyncio.all_tasks()
        async with service.socket(buffer=1024) as socket:
            await stall(service, socket)
            await socket.send({"type": "ping"})
            await let_tasks_run()
            socket.abort()
            await wait_until(lambda: not service.topics.readers)
            await wait_until(lambda: asyncio.all_tasks() <= tasks)


async def test_a_slow_peer_gets_a_burst_of_large_events_completely(each: Service) -> None:
    async with each.socket(buffer=1024) as stalled, each.socket() as reader:
        await ready(stalled, "a", "1", "2")
        await ready(reader, "a", "1")
        expected = [f"{n} " + "x" * BIG for n in range(50)]
        await each.publish("a", *expected)
        assert await texts(reader, 50) == expected
        messages = [frame.message for frame in await stalled.frames(100)]
        for id_ in ("1", "2"):
            mine = [m["payload"]["data"]["notes"]["text"] for m in messages if m["id"] == id_]
            assert mine == expected
        # The operations are members again, and get the next event together with the others.
        await each.publish("a", "after")
        assert await texts(stalled, 2) == ["after"] * 2


async def test_a_peer_that_caught_up_shares_the_writes_again(direct: Service) -> None:
    async with direct.socket(buffer=1024) as socket:
        await ready(socket, "a", "1")
        await direct.publish("a", *("x" * BIG for _ in range(60)))
        await socket.frames(60)
        await socket.settled()
        before = len(direct.taps.writes)
        await direct.publish("a", *map(str, range(50)))
        await socket.frames(50)
        assert len(direct.taps.writes) - before == 1


async def test_a_fast_generator_waits_for_its_reader(each: Service) -> None:
    async with each.socket(buffer=1024) as socket:
        await socket.init()
        await socket.subscribe("1", "subscription { flood(size: 20000) }")
        await wait_until(lambda: not each.taps.only.writable.is_set())
        for _ in range(100):
            await asyncio.sleep(0)
        assert each.taps.held <= 2 * FULL_BYTES + 20_100
        await socket.frames(1000)


async def test_a_peer_that_lags_beyond_the_history_gets_cursor_expired(
    base: type[WebSocketsSansIOProtocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_topic, "BUFFER_SIZE", 8)
    async with served(base, history_length=10) as service, service.socket(buffer=1024) as socket:
        await ready(socket, "a", "1", "2")
        expected = [f"{n} " + "x" * BIG for n in range(150)]
        for text in expected:
            await service.publish("a", text)
            await let_tasks_run()
        got: dict[str, list[str]] = {"1": [], "2": []}
        ended: set[str] = set()
        while len(ended) < 2:
            message = (await socket.frame()).message
            assert message["id"] not in ended, "nothing may come behind an error"
            if message["type"] == "error":
                assert message["payload"][0]["extensions"]["code"] == "CURSOR_EXPIRED"
                ended.add(message["id"])
            else:
                got[message["id"]].append(message["payload"]["data"]["notes"]["text"])
        for mine in got.values():
            assert mine == expected[: len(mine)]
            assert 0 < len(mine) < len(expected)
        await socket.settled()


async def test_a_lagging_peer_that_leaves_leaves_nothing(
    base: type[WebSocketsSansIOProtocol],
) -> None:
    async with served(base, topic_linger=0) as service:
        before = asyncio.all_tasks()
        async with service.socket(buffer=1024) as gone, service.socket(buffer=1024) as done:
            await ready(gone, "a", "1", "2")
            await ready(done, "a", "1")
            await service.publish("a", *("x" * BIG for _ in range(100)))
            await wait_until(lambda: not any(c.writable.is_set() for c in service.taps.connections))
            gone.abort()
            await done.send({"id": "1", "type": "complete"})
            await done.subscribe("1", "subscription { count(to: 1) }")
            frames = [await done.frame()]
            while frames[-1].message["type"] != "complete":
                frames.append(await done.frame())
            assert frames[-2].message["payload"] == {"data": {"count": 0}}
            assert all(text_of(frame) == "x" * BIG for frame in frames[:-2])
            await done.settled()
            await wait_until(lambda: not service.topics.readers)
        await wait_until(lambda: asyncio.all_tasks() <= before)


async def test_a_close_does_not_wait_long_for_a_peer_that_does_not_read(
    base: type[WebSocketsSansIOProtocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CLOSE_SECONDS", 0.3)
    async with served(base, topic_linger=0) as service, service.socket(buffer=1024) as socket:
        tasks = asyncio.all_tasks()
        await stall(service, socket)
        assert service.topics.readers
        await socket.send({"type": "connection_init"})
        await wait_until(lambda: not service.topics.readers)
        await wait_until(lambda: asyncio.all_tasks() <= tasks)


async def test_a_peer_that_does_not_take_the_close_frame_is_disconnected(
    direct: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CLOSE_SECONDS", 0.3)
    async with direct.socket(buffer=1024) as socket:
        await stall(direct, socket)
        await socket.send({"type": "connection_init"})
        connection = direct.taps.only
        await wait_until(lambda: connection not in connection.connections)


@pytest.mark.parametrize("reads", range(5))
async def test_closing_ends_an_operation_that_never_waits(each: Service, reads: int) -> None:
    async with each.socket() as socket:
        await socket.init()
        await socket.subscribe("1", "subscription { flood(size: 20000) }")
        await socket.frames(reads)
        await socket.send({"type": "connection_init"})
        *_, close = await socket.until_closed()
        assert close.close.code == 4429


async def test_a_shutdown_with_a_peer_that_does_not_read_logs_no_error(
    each: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async with each.socket(buffer=1024) as socket:
        await stall(each, socket)
        connection = each.taps.only
        connection.shutdown()
        await wait_until(lambda: not connection.tasks)
    await wait_until(lambda: connection not in connection.connections)
    await let_tasks_run()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    "last", [Frame(Opcode.CLOSE, b"\x03\xe8"), Frame(Opcode.CONT, b"")], ids=["close", "an error"]
)
async def test_a_peer_that_ends_the_connection_without_reading_is_disconnected(
    direct: Service, last: Frame
) -> None:
    async with direct.socket(buffer=1024) as socket:
        await stall(direct, socket)
        connection = direct.taps.only
        connection.close_timeout = 0.2
        await socket.send_frames(last)
        await wait_until(lambda: connection not in connection.connections)
