"""What a peer may send, and how the server handles invalid input."""

import asyncio
import json
import sys
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.frames import Frame, Opcode

from gqlnotify.server.websocket import WebSocketProtocol
from tests.e2e.frames import Seen
from tests.e2e.service import Service, served
from tests.servers import PATIENCE, patience, running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes


# Invalid input


async def _raw(address: str, request: str) -> bytes:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    async with patience():
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_handshake_with_a_header_that_is_too_long_is_refused_at_once(
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
async def test_a_text_that_is_not_utf8_gets_a_close_frame_and_logs_no_traceback(
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


# The most that one read from a socket returns.
SEGMENT = 256 * 1024
FRAMES = {
    "pings": Frame(Opcode.PING, b""),
    "pongs": Frame(Opcode.PONG, b""),
    "fragments": Frame(Opcode.CONT, b"", fin=False),
    "messages": Frame(Opcode.TEXT, b'{"type": "pong"}'),
}


@pytest.fixture(params=FRAMES)
def many(request: pytest.FixtureRequest) -> list[Frame]:
    """More frames of one kind than the burst allows; they fit into one segment."""
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


async def test_unread_answers_to_pings_are_bounded() -> None:
    count, bound = 50_000, 100_000
    pings = [Frame(Opcode.PING, b"x" * 100)] * count
    settings: dict[str, Any] = {
        "message_rate": 1e9,
        "message_burst": 10**9,
        "outgoing_max_bytes": bound,
        # On a busy machine, this takes longer than the interval.
        "ping_interval": 3600,
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
        # When it reads, it gets every answer.
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


async def test_a_peer_that_does_not_wait_for_the_handshake_is_disconnected() -> None:
    called, answer = asyncio.Event(), asyncio.Event()

    async def endpoint(websocket: WebSocket) -> None:
        called.set()
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
        await called.wait()
        writer.write(Frame(Opcode.PING, b"too early").serialize(mask=True))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        answer.set()
        writer.close()
