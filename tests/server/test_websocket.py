"""The protocol class under a real uvicorn, in the loop of the test, which sees what is written."""

import asyncio
import json
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from secrets import token_hex
from typing import Any

import httpx
import pytest
import uvloop
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State

from gqlnotify.protocol.frames import text_frame
from gqlnotify.server.websocket import WebSocketProtocol
from gqlnotify.topics import live_topic
from gqlnotify.websocket import connection as connection_module
from gqlnotify.websocket.writer import EXTENSION, FULL_BYTES
from tests.e2e.frames import FrameSocket, Seen, frame_socket
from tests.e2e.service import SUBSCRIBE, Service, follow, ready, served, text_of, texts
from tests.servers import PATIENCE, patience, running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

BIG = 100 * 1024
Promise = Callable[[Service], Coroutine[Any, Any, None]]
DEFLATE = "permessage-deflate; client_max_window_bits"


@pytest.fixture
async def direct() -> AsyncIterator[Service]:
    async with served(WebSocketProtocol) as service:
        yield service


@pytest.fixture(params=[WebSocketProtocol, WebSocketsSansIOProtocol], ids=["direct", "portable"])
def base(request: pytest.FixtureRequest) -> type[WebSocketsSansIOProtocol]:
    found: type[WebSocketsSansIOProtocol] = request.param
    return found


@pytest.fixture
async def each(base: type[WebSocketsSansIOProtocol]) -> AsyncIterator[Service]:
    async with served(base) as service:
        yield service


# Frames of one turn


async def test_a_burst_leaves_in_one_write_and_in_order(direct: Service) -> None:
    async with direct.socket() as socket:
        await ready(socket, "a", "1")
        before = len(direct.taps.writes)
        await direct.publish("a", *map(str, range(50)))
        assert await texts(socket, 50) == [str(n) for n in range(50)]
        assert len(direct.taps.writes) - before == 1


async def test_two_subscriptions_on_one_connection_leave_in_one_write(direct: Service) -> None:
    async with direct.socket() as socket:
        await ready(socket, "a", "1", "2")
        await follow(socket, "b", "3")
        before = len(direct.taps.writes)
        await direct.publish("a", "x")
        await direct.publish("b", "x")
        messages = [frame.message for frame in await socket.frames(3)]
        assert sorted(message["id"] for message in messages) == ["1", "2", "3"]
        assert len(direct.taps.writes) - before == 1


async def test_each_connection_gets_one_write_of_its_own(direct: Service) -> None:
    async with direct.socket() as one, direct.socket() as other:
        await ready(one, "a", "1")
        await ready(other, "a", "1")
        before = len(direct.taps.writes)
        await direct.publish("a", "x", "y")
        assert await texts(one, 2) == await texts(other, 2) == ["x", "y"]
        assert len(direct.taps.writes) - before == 2


async def test_a_frame_leaves_in_the_turn_after_the_one_it_was_written_in(direct: Service) -> None:
    async with direct.socket() as socket:
        await socket.init()
        before = len(direct.taps.writes)
        direct.taps.only.write(text_frame(b"x"))  # type: ignore[attr-defined]
        assert len(direct.taps.writes) == before
        await asyncio.sleep(0)
        assert direct.taps.writes[before:] == [text_frame(b"x")]


async def test_a_single_event_leaves_without_waiting_for_a_clock(direct: Service) -> None:
    async with direct.socket() as socket:
        await ready(socket, "a", "1")
        before = len(direct.taps.writes)
        turns = 0
        await direct.publish("a", "x")
        while len(direct.taps.writes) == before:
            await asyncio.sleep(0)
            turns += 1
            assert turns <= 3, "the group moves in one turn, and writes at the end of another"
        assert await texts(socket, 1) == ["x"]


async def test_answers_and_results_keep_their_order(direct: Service) -> None:
    async with direct.socket() as socket:
        await ready(socket, "a", "1")
        # All in one turn: an event's result, and then the answers to what the client sends.
        await direct.publish("a", "first")
        pings = [{"type": "ping", "payload": {"n": n}} for n in range(20)]
        await socket.send(*pings)
        frames = await socket.frames(21)
        assert text_of(frames[0]) == "first"
        pongs = [{**ping, "type": "pong"} for ping in pings]
        assert [frame.message for frame in frames[1:]] == pongs


async def test_the_ack_goes_before_everything(direct: Service) -> None:
    async with direct.socket() as socket:
        await socket.send(
            {"type": "connection_init"},
            {"id": "1", "type": "subscribe", "payload": {"query": "subscription { count(to: 3) }"}},
        )
        types = [frame.message["type"] for frame in await socket.frames(5)]
        assert types == ["connection_ack", "next", "next", "next", "complete"]


# A peer that does not read


async def test_what_is_held_for_a_peer_that_does_not_read_is_bounded(each: Service) -> None:
    await hold(each, BIG, 100)


async def test_what_is_held_is_bounded_for_small_events_too(each: Service) -> None:
    await hold(each, 12 * 1024, 900)


async def hold(service: Service, size: int, count: int) -> None:
    """Fill what a peer has when it does not read, one event at a time, next to one that does."""
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
        # It comes back, and gets everything once and in order.
        assert await texts(stalled, count) == expected


async def test_a_peer_that_vanishes_with_an_answer_due_leaves_nothing_behind(
    base: type[WebSocketsSansIOProtocol],
) -> None:
    async with served(base, topic_linger=0) as service:
        tasks = asyncio.all_tasks()
        async with service.socket(buffer=1024) as socket:
            await stall(service, socket)
            await socket.send({"type": "ping"})
            await each_turn()
            socket.abort()
            await wait_until(lambda: not service.topics._live_topics)
            await wait_until(lambda: asyncio.all_tasks() <= tasks)


async def test_a_burst_of_large_events_reaches_a_slow_peer_whole(each: Service) -> None:
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
        # They are members again, and get what comes next with all others.
        await each.publish("a", "after")
        assert await texts(stalled, 2) == ["after"] * 2


async def test_who_has_caught_up_shares_the_writes_again(direct: Service) -> None:
    async with direct.socket(buffer=1024) as socket:
        await ready(socket, "a", "1")
        await direct.publish("a", *("x" * BIG for _ in range(60)))
        await socket.frames(60)
        await socket.settled()
        before = len(direct.taps.writes)
        await direct.publish("a", *map(str, range(50)))
        await socket.frames(50)
        assert len(direct.taps.writes) - before == 1


async def test_a_flood_waits_for_its_reader(each: Service) -> None:
    async with each.socket(buffer=1024) as socket:
        await socket.init()
        await socket.subscribe("1", "subscription { flood(size: 20000) }")
        await wait_until(lambda: not each.taps.only.writable.is_set())
        for _ in range(100):
            await asyncio.sleep(0)
        assert each.taps.held <= 2 * FULL_BYTES + 20_100
        await socket.frames(1000)


async def test_who_falls_behind_the_history_is_told_so(
    base: type[WebSocketsSansIOProtocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_topic, "BUFFER_SIZE", 8)
    async with served(base, history_length=10) as service, service.socket(buffer=1024) as socket:
        await ready(socket, "a", "1", "2")
        expected = [f"{n} " + "x" * BIG for n in range(150)]
        for text in expected:
            await service.publish("a", text)
            await each_turn()
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


async def test_who_leaves_while_behind_leaves_nothing_behind(
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
            await wait_until(lambda: not service.topics._live_topics)
        await wait_until(lambda: asyncio.all_tasks() <= before)


# The end


async def test_results_leave_before_the_close_frame_and_nothing_behind_it(each: Service) -> None:
    async with each.socket() as socket:
        await ready(socket, "a", "1")
        for n in range(50):
            await each.publish("a", str(n))
        await socket.send({"type": "connection_init"})
        *results, close = await socket.until_closed()
        assert [text_of(frame) for frame in results] == [str(n) for n in range(50)]
        assert close.close.code == 4429


async def test_nothing_is_written_behind_the_answer_to_the_peers_close(each: Service) -> None:
    async with each.socket() as socket:
        await ready(socket, "a", "1")
        await socket.send_frames(Frame(Opcode.CLOSE, (1000).to_bytes(2)))
        connection = each.taps.only
        while connection.conn.state is State.OPEN:
            await each.publish("a", "x")
            await asyncio.sleep(0)
        await each.publish("a", "y")
        frame = await socket.frame()
        while frame.opcode is Opcode.TEXT:
            assert text_of(frame) == "x"
            frame = await socket.frame()
        assert frame.close.code == 1000
        await socket.ended()


async def test_writing_to_a_connection_that_is_lost_is_harmless(direct: Service) -> None:
    async with direct.socket() as socket:
        await ready(socket, "a", "1")
        connection: Any = direct.taps.only
        connection.write(text_frame(b"on its way"))
        socket.abort()
        await wait_until(lambda: connection.disconnected)
    before = len(direct.taps.writes)
    connection.write(text_frame(b"x" * FULL_BYTES))
    assert connection.full
    async with patience():
        await connection.drained()
    assert not connection.full
    assert len(direct.taps.writes) == before


async def test_a_close_does_not_wait_long_for_a_peer_that_does_not_read(
    base: type[WebSocketsSansIOProtocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CLOSE_SECONDS", 0.3)
    async with served(base, topic_linger=0) as service, service.socket(buffer=1024) as socket:
        tasks = asyncio.all_tasks()
        await stall(service, socket)
        assert service.topics._live_topics
        await socket.send({"type": "connection_init"})
        await wait_until(lambda: not service.topics._live_topics)
        await wait_until(lambda: asyncio.all_tasks() <= tasks)


async def test_a_peer_that_does_not_take_the_close_frame_is_let_go(
    direct: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CLOSE_SECONDS", 0.3)
    async with direct.socket(buffer=1024) as socket:
        await stall(direct, socket)
        await socket.send({"type": "connection_init"})
        connection = direct.taps.only
        await wait_until(lambda: connection not in connection.connections)


async def stall(service: Service, socket: FrameSocket) -> None:
    await ready(socket, "a", "1")
    await service.publish("a", *("x" * BIG for _ in range(100)))
    await wait_until(lambda: not service.taps.only.writable.is_set())


@pytest.mark.parametrize("reads", range(5))
async def test_closing_ends_an_operation_that_never_waits(each: Service, reads: int) -> None:
    async with each.socket() as socket:
        await socket.init()
        await socket.subscribe("1", "subscription { flood(size: 20000) }")
        await socket.frames(reads)
        await socket.send({"type": "connection_init"})
        *_, close = await socket.until_closed()
        assert close.close.code == 4429


async def test_a_shutdown_is_no_trouble_to_a_peer_that_does_not_read(
    each: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async with each.socket(buffer=1024) as socket:
        await stall(each, socket)
        connection = each.taps.only
        connection.shutdown()
        await wait_until(lambda: not connection.tasks)
    await wait_until(lambda: connection not in connection.connections)
    await each_turn()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def each_turn() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


# Compression


@pytest.fixture
def deflations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What has been set to be compressed by zlib, by the window's bits."""
    made: list[int] = []
    original = zlib.compressobj

    def compressobj(level: int, method: int, bits: int, *more: Any) -> Any:
        made.append(bits)
        return original(level, method, bits, *more)

    monkeypatch.setattr(zlib, "compressobj", compressobj)
    return made


async def test_a_large_event_is_compressed_once_for_all_who_can_read_it(
    direct: Service, deflations: list[int]
) -> None:
    async with (
        direct.socket(offer=DEFLATE) as one,
        direct.socket(offer=DEFLATE) as other,
        direct.socket() as plain,
    ):
        for socket in (one, other, plain):
            await ready(socket, "a", "1", "2")
        for text in ("x" * 5000, "é😀" * 5000):
            await direct.publish("a", text)
            for socket in (one, other):
                frames = await socket.frames(2)
                assert [frame.compressed for frame in frames] == [True, True]
                assert [text_of(frame) for frame in frames] == [text, text]
            frames = await plain.frames(2)
            assert [frame.compressed for frame in frames] == [False, False]
            assert [text_of(frame) for frame in frames] == [text, text]
        assert deflations == [-12, -12]


async def test_what_is_small_is_not_compressed(direct: Service, deflations: list[int]) -> None:
    async with direct.socket(offer=DEFLATE) as socket:
        await ready(socket, "a", "1")
        await direct.publish("a", "x" * 100, "y" * 5000, "z" * 100)
        frames = await socket.frames(3)
        assert [frame.compressed for frame in frames] == [False, True, False]
        assert [text_of(frame)[0] for frame in frames] == ["x", "y", "z"]
        assert deflations == [-12]


@pytest.mark.parametrize(
    ("above", "compressed"), [(0, [False, False]), (10_000, [False, True]), (1, [True, True])]
)
async def test_the_threshold_is_a_setting(above: int, compressed: list[bool]) -> None:
    async with (
        served(WebSocketProtocol, compress_above=above) as service,
        service.socket(offer=DEFLATE) as socket,
    ):
        await ready(socket, "a", "1")
        await service.publish("a", "x" * 5000, "x" * 50_000)
        assert [frame.compressed for frame in await socket.frames(2)] == compressed


@pytest.mark.parametrize("bits", range(9, 16))
async def test_a_peer_may_ask_for_any_window(direct: Service, bits: int) -> None:
    offer = f"permessage-deflate; server_max_window_bits={bits}"
    async with direct.socket(offer=offer) as socket:
        assert f"server_max_window_bits={min(bits, 12)}" in socket.answer
        await ready(socket, "a", "1")
        text = token_hex(50_000)
        await direct.publish("a", text)
        frame = await socket.frame()
        assert frame.compressed == (bits >= 12)
        assert text_of(frame) == text


async def test_no_compression_is_negotiated_where_uvicorn_has_none() -> None:
    service = Service(WebSocketProtocol)
    protocol = service.taps.protocol
    async with (
        running(service.app, ws=protocol, ws_per_message_deflate=False) as service.address,
        service.socket(offer=DEFLATE) as socket,
    ):
        assert "permessage-deflate" not in socket.answer
        await ready(socket, "a", "1")
        await service.publish("a", "x" * 5000)
        assert not (await socket.frame()).compressed


@pytest.mark.parametrize("bits", range(9, 16))
async def test_the_python_client_reads_all_sizes_with_any_window(
    direct: Service, bits: int
) -> None:
    factory = ClientPerMessageDeflateFactory(
        server_max_window_bits=bits, client_max_window_bits=bits
    )
    sent = ["a" * size + token_hex(size // 7) + "é😀" for size in (1, 900, 1100, 4097, 70_000)]
    async with (
        patience(),
        connect(
            f"ws://{direct.address}/graphql",
            subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
            extensions=[factory],
            compression=None,
            proxy=None,
            max_size=None,
        ) as client,
    ):
        await client.send('{"type": "connection_init"}')
        await client.recv()
        for id_ in ("1", "2"):
            payload = {"query": SUBSCRIBE, "variables": {"name": "a"}}
            await client.send(json.dumps({"id": id_, "type": "subscribe", "payload": payload}))
        await client.send('{"type": "ping"}')
        await client.recv()
        await direct.publish("a", *sent, *sent)
        got: dict[str, list[str]] = {"1": [], "2": []}
        for _ in range(4 * len(sent)):
            message = json.loads(await client.recv())
            got[message["id"]].append(message["payload"]["data"]["notes"]["text"])
    assert got == {"1": sent * 2, "2": sent * 2}


# Applications that know nothing of it


async def echo(websocket: WebSocket) -> None:
    await websocket.accept(headers=[(b"x-echo", b"yes")])
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("text") == "bye":
            await websocket.close(4000, "you asked")
            return
        await websocket.send({**message, "type": "websocket.send"})


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


async def refuse(websocket: WebSocket) -> None:
    await websocket.close()


async def breaks(websocket: WebSocket) -> None:
    await websocket.accept()
    raise ValueError("on purpose")


async def rude(websocket: WebSocket) -> None:
    """Frames beside messages, and both behind the end."""
    await websocket.accept()
    frames = websocket.scope["extensions"][EXTENSION]
    frames.write(text_frame(b"1"))
    frames.flush()
    await websocket.send_text("2")
    frames.write(text_frame(b"3"))
    frames.flush()
    await websocket.close()
    frames.write(text_frame(b"4"))
    await websocket.receive()
    frames.write(text_frame(b"5"))


PLAIN = Starlette(
    routes=[
        Route("/", page),
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/refuse", refuse),
        WebSocketRoute("/breaks", breaks),
        WebSocketRoute("/rude", rude),
    ]
)


@pytest.fixture
async def plain(base: type[WebSocketsSansIOProtocol]) -> AsyncIterator[str]:
    async with running(PLAIN, ws=base) as address:
        yield address


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_an_endpoint_that_echoes_is_served_as_ever(
    plain: str, compression: str | None
) -> None:
    url = f"ws://{plain}/echo"
    async with patience(), connect(url, compression=compression, proxy=None) as client:
        assert client.response is not None
        assert client.response.headers["x-echo"] == "yes"
        for message in ("é😀", b"\x00\xff", "", b"", "x" * 200_000, b"y" * 200_000):
            await client.send(message)
            assert await client.recv() == message
        await client.send(["in ", "three ", "pieces"])
        assert await client.recv() == "in three pieces"
        for n in range(100):
            await client.send(str(n))
        assert [await client.recv() for _ in range(100)] == [str(n) for n in range(100)]
        await (await client.ping())
        await client.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "you asked")


async def test_http_and_refusals_are_served_as_ever(plain: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{plain}") as http:
        assert (await http.get("/")).text == "plain"
        upgrade = {
            "connection": "upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        assert (await http.get("/refuse", headers=upgrade)).status_code == 403
        assert (await http.get("/nowhere", headers=upgrade)).status_code == 403
        assert (await http.get("/echo", headers={**upgrade, "sec-websocket-version": "7"})).is_error


async def test_an_endpoint_that_breaks_hangs_up(plain: str) -> None:
    async with frame_socket(plain, path="/breaks", subprotocol=None) as socket:
        await socket.ended()


async def test_frames_and_messages_keep_their_order_and_end_with_the_close() -> None:
    async with (
        running(PLAIN, ws=WebSocketProtocol) as address,
        frame_socket(address, path="/rude", subprotocol=None) as socket,
    ):
        *frames, close = await socket.until_closed()
        assert [frame.data for frame in frames] == [b"1", b"2", b"3"]
        assert close.close.code == 1000


async def test_the_shutdown_closes_with_1012(base: type[WebSocketsSansIOProtocol]) -> None:
    service = Service(base)
    async with running(service.app, ws=service.taps.protocol) as service.address:
        socket = await connect(
            f"ws://{service.address}/graphql",
            subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
            proxy=None,
        )
        await socket.send('{"type": "connection_init"}')
        await socket.recv()
    await socket.wait_closed()
    assert socket.close_code == CloseCode.SERVICE_RESTART


async def test_a_server_with_another_extension_is_served_through_asgi() -> None:
    class Other(WebSocketsSansIOProtocol):
        def handle_connect(self, event: Any) -> None:
            super().handle_connect(event)
            extensions: Any = self.scope["extensions"]
            extensions["another.frames"] = object()

    class Without(WebSocketsSansIOProtocol):
        def handle_connect(self, event: Any) -> None:
            super().handle_connect(event)
            del self.scope["extensions"]

    for protocol in (Other, Without):
        async with served(protocol) as service, service.socket() as socket:
            await ready(socket, "a", "1")
            await service.publish("a", "x")
            assert await texts(socket, 1) == ["x"]


@pytest.mark.parametrize(
    "base", [WebSocketProtocol, WebSocketsSansIOProtocol], ids=["direct", "portable"]
)
@pytest.mark.parametrize(
    "promise",
    [
        test_what_is_held_for_a_peer_that_does_not_read_is_bounded,
        test_what_is_held_is_bounded_for_small_events_too,
        test_a_burst_of_large_events_reaches_a_slow_peer_whole,
        test_a_flood_waits_for_its_reader,
        test_results_leave_before_the_close_frame_and_nothing_behind_it,
        test_nothing_is_written_behind_the_answer_to_the_peers_close,
    ],
)
def test_it_is_so_under_uvloop(promise: Promise, base: type[WebSocketsSansIOProtocol]) -> None:
    _under_uvloop(promise, base)


@pytest.mark.parametrize(
    "promise",
    [
        test_a_burst_leaves_in_one_write_and_in_order,
        test_two_subscriptions_on_one_connection_leave_in_one_write,
        test_a_frame_leaves_in_the_turn_after_the_one_it_was_written_in,
        test_a_single_event_leaves_without_waiting_for_a_clock,
        test_who_has_caught_up_shares_the_writes_again,
        test_writing_to_a_connection_that_is_lost_is_harmless,
    ],
)
def test_direct_frames_are_so_under_uvloop(promise: Promise) -> None:
    _under_uvloop(promise, WebSocketProtocol)


def _under_uvloop(promise: Promise, base: type[WebSocketsSansIOProtocol]) -> None:
    async def keep() -> None:
        async with served(base) as service:
            await promise(service)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(keep())


# What can't be read


async def _raw(address: str, request: str) -> bytes:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    async with patience():
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_handshake_with_too_long_a_header_is_refused_and_not_left_to_wait(
    direct: Service,
) -> None:
    answer = await _raw(
        direct.address,
        f"GET /graphql HTTP/1.1\r\nHost: {direct.address}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nX-Long: {'x' * 20_000}\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 431")
    assert direct.taps.only.transport.is_closing()


@pytest.mark.parametrize("fragments", [(b"\xff",), (b"ok \xc3", b"")])
@pytest.mark.parametrize("closes", [True, False])
async def test_a_text_that_is_no_utf8_ends_in_a_close_frame_and_without_a_traceback(
    direct: Service,
    fragments: tuple[bytes, ...],
    closes: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    last = len(fragments) - 1
    frames = [
        Frame(Opcode.CONT if number else Opcode.TEXT, data, fin=number == last)
        for number, data in enumerate(fragments)
    ]
    if closes:
        frames.append(Frame(Opcode.CLOSE, b"\x03\xe8"))
    async with direct.socket() as socket:
        await socket.send_frames(*frames)
        [close] = await socket.until_closed()
        assert close.close.code == (1000 if closes else 1007)
    assert [record for record in caplog.records if record.exc_info] == []


# What a peer may send


# What one read from a socket brings at the most.
SEGMENT = 256 * 1024
FRAMES = {
    "pings": Frame(Opcode.PING, b""),
    "pongs": Frame(Opcode.PONG, b""),
    "fragments": Frame(Opcode.CONT, b"", fin=False),
    "messages": Frame(Opcode.TEXT, b'{"type": "pong"}'),
}


@pytest.fixture(params=FRAMES)
def many(request: pytest.FixtureRequest) -> list[Frame]:
    """More frames of one kind than may come at once; in one segment there is room for them."""
    beginning = [Frame(Opcode.TEXT, b"", fin=False)] if request.param == "fragments" else []
    return [*beginning, *[FRAMES[request.param]] * 1000]


async def test_every_frame_counts(many: list[Frame]) -> None:
    settings: dict[str, Any] = {"message_rate": 0.01, "message_burst": 500}
    async with served(WebSocketProtocol, **settings) as service, service.socket() as socket:
        await socket.init()
        before = refusals()
        await socket.send_frames(*many)
        assert (await socket.until_closed())[-1].close.code == 1008
        assert refusals() == before + 1


async def test_a_peer_that_keeps_to_the_rate_may_send_every_kind(many: list[Frame]) -> None:
    settings: dict[str, Any] = {"message_rate": 0.01, "message_burst": 500}
    async with served(WebSocketProtocol, **settings) as service, service.socket() as socket:
        await socket.init()
        await socket.send_frames(*many[:400], Frame(Opcode.PING, b"the last"))
        while (frame := await socket.frame()).data != b"the last":
            assert frame == Seen(0x80 | Opcode.PONG, b"")


def refusals() -> float:
    labels = {"reason": "too_many_messages"}
    return REGISTRY.get_sample_value("gqlnotify_refusals_total", labels) or 0


async def test_the_answers_to_pings_that_nobody_reads_are_bounded() -> None:
    count, bound = 100_000, 100_000
    pings = [Frame(Opcode.PING, b"x" * 100)] * count
    settings: dict[str, Any] = {
        "message_rate": 1e9,
        "message_burst": 10**9,
        "outgoing_max_bytes": bound,
    }
    async with (
        served(WebSocketProtocol, **settings) as service,
        service.socket(buffer=1024) as socket,
    ):
        await socket.init()
        sending = asyncio.create_task(socket.send_frames(*pings))
        connection = service.taps.only
        await wait_until(lambda: connection.read_paused, seconds=PATIENCE)
        assert bound < service.taps.held <= bound + SEGMENT
        # It reads after all, and gets every answer.
        for frame in await socket.frames(count):
            assert frame.opcode is Opcode.PONG
        await sending


async def test_small_fragments_take_no_more_room_than_what_they_hold() -> None:
    settings: dict[str, Any] = {"message_rate": 1e9, "message_burst": 10**9}
    async with served(WebSocketProtocol, **settings) as service, service.socket() as socket:
        await socket.init()
        text = json.dumps({"type": "ping", "payload": {"n": "x" * 5000}}).encode()
        pieces = [text[n : n + 1] for n in range(len(text))]
        empty = [Frame(Opcode.CONT, b"", fin=False)] * 1000
        rest = [Frame(Opcode.CONT, piece, fin=False) for piece in pieces[1:]]
        await socket.send_frames(Frame(Opcode.TEXT, pieces[0], fin=False), *empty, *rest)
        await socket.send_frames(Frame(Opcode.PING, b"so far"))
        assert (await socket.frame()).data == b"so far"
        assert sum(map(sys.getsizeof, service.taps.only.frames)) < 2 * len(text)
        await socket.send_frames(Frame(Opcode.CONT, b""))
        assert (await socket.frame()).message["payload"] == {"n": "x" * 5000}


async def test_a_message_is_bounded_by_the_routers_own_setting() -> None:
    settings = {"message_max_bytes": 1000}
    async with served(WebSocketProtocol, **settings) as service, service.socket() as socket:
        await socket.init()
        pieces = [Frame(Opcode.CONT, b"x" * 100, fin=False)] * 20
        await socket.send_frames(Frame(Opcode.TEXT, b"", fin=False), *pieces)
        assert (await socket.until_closed())[-1].close.code == 1009


async def test_who_does_not_wait_for_the_handshake_is_let_go() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def endpoint(websocket: WebSocket) -> None:
        asked.set()
        await answer.wait()
        await websocket.accept()

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    async with running(app, ws=WebSocketProtocol) as address, patience():
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(
            f"GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        await asked.wait()
        writer.write(Frame(Opcode.PING, b"too early").serialize(mask=True))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        answer.set()
        writer.close()


@pytest.mark.parametrize(
    "last", [Frame(Opcode.CLOSE, b"\x03\xe8"), Frame(Opcode.CONT, b"")], ids=["close", "an error"]
)
async def test_who_ends_it_without_reading_what_is_left_is_let_go(
    direct: Service, last: Frame
) -> None:
    async with direct.socket(buffer=1024) as socket:
        await stall(direct, socket)
        connection = direct.taps.only
        connection.close_timeout = 0.2
        await socket.send_frames(last)
        await wait_until(lambda: connection not in connection.connections)


async def test_a_close_frame_arrives_though_the_peer_is_still_sending(direct: Service) -> None:
    async with direct.socket() as socket:
        await socket.init()
        await socket.send_frames(Frame(Opcode.CONT, b""))
        await wait_until(lambda: direct.taps.only.close_sent)
        await socket.send_frames(*[Frame(Opcode.TEXT, b"x" * 1000)] * 1000)
        assert (await socket.until_closed())[-1].close.code == 1002
