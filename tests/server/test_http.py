"""Peers that send requests slowly, under a real uvicorn in the loop of the test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from websockets.asyncio.client import connect

from gqlnotify.server.http import Watched
from gqlnotify.server.websocket import WebSocketProtocol
from tests.servers import patience, running

pytestmark = pytest.mark.processes

TIMEOUT = 0.5
HEAD = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 100000\r\n\r\n"
ASK = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"
Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Httptools(Watched, HttpToolsProtocol):
    handshake_timeout = TIMEOUT


class H11(Watched, H11Protocol):
    handshake_timeout = TIMEOUT


async def size(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


APP = Starlette(
    routes=[Route("/", size, methods=["GET", "POST"]), WebSocketRoute("/echo", echo)],
)


@pytest.fixture(params=[Httptools, H11], ids=["httptools", "h11"])
async def address(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    options = {"http": request.param, "timeout_keep_alive": 60}
    async with running(APP, ws=WebSocketProtocol, **options) as address:
        yield address


@asynccontextmanager
async def peer(address: str) -> AsyncIterator[Peer]:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def drip(writer: asyncio.StreamWriter, what: Callable[[int], bytes]) -> None:
    """Send a little now and then, until the connection is closed."""
    for number in range(10**6):
        writer.write(what(number))
        await asyncio.sleep(TIMEOUT / 10)


async def is_hung_up(reader: asyncio.StreamReader) -> None:
    async with patience():
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            return


async def answer(reader: asyncio.StreamReader) -> bytes:
    async with patience():
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return await reader.readexactly(length)


async def test_a_peer_that_sends_nothing_is_disconnected(address: str) -> None:
    async with peer(address) as (reader, _):
        await is_hung_up(reader)


async def test_a_peer_whose_headers_arrive_too_slowly_is_disconnected(address: str) -> None:
    async with peer(address) as (reader, writer):
        writer.write(ASK[:-2])
        dripping = asyncio.create_task(drip(writer, lambda n: b"x-%d: y\r\n" % n))
        await is_hung_up(reader)
        dripping.cancel()


async def test_a_peer_whose_body_arrives_too_slowly_is_disconnected(address: str) -> None:
    async with peer(address) as (reader, writer):
        writer.write(HEAD)
        dripping = asyncio.create_task(drip(writer, lambda _: b"x"))
        await is_hung_up(reader)
        dripping.cancel()


async def test_a_second_request_has_no_more_time_than_the_first(address: str) -> None:
    async with peer(address) as (reader, writer):
        writer.write(ASK)
        assert await answer(reader) == b"0"
        writer.write(ASK[:10])
        await is_hung_up(reader)


async def test_a_body_that_keeps_arriving_may_take_longer(address: str) -> None:
    async with peer(address) as (reader, writer):
        writer.write(HEAD)
        for _ in range(20):
            writer.write(b"x" * 5000)
            await asyncio.sleep(TIMEOUT / 5)
        assert await answer(reader) == b"100000"


async def test_an_idle_connection_stays_open_for_the_keep_alive_timeout(address: str) -> None:
    async with peer(address) as (reader, writer):
        writer.write(ASK)
        assert await answer(reader) == b"0"
        await asyncio.sleep(2 * TIMEOUT)
        writer.write(ASK)
        assert await answer(reader) == b"0"


async def test_a_websocket_may_be_silent(address: str) -> None:
    async with connect(f"ws://{address}/echo", proxy=None) as socket:
        await asyncio.sleep(2 * TIMEOUT)
        await socket.send("still here")
        assert await socket.recv() == "still here"


# Requests for a WebSocket that are refused

WEBSOCKET = b"host: here\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
HTTP_2 = (
    b"host: here\r\nconnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nhttp2-settings: AAM\r\n"
)


@pytest.mark.parametrize("upgrade", [WEBSOCKET, HTTP_2], ids=["websocket", "h2c"])
@pytest.mark.parametrize("body", [b"", b"hello"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in two"])
async def test_a_post_with_an_upgrade_is_answered_as_without(
    address: str, upgrade: bytes, body: bytes, at_once: bool
) -> None:
    async with peer(address) as (reader, writer):
        head = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n" % len(body) + upgrade + b"\r\n"
        for _ in range(2):
            writer.write(head)
            if not at_once:
                await asyncio.sleep(0.01)
            writer.write(body)
        writer.write(ASK)
        assert await answer(reader) == b"%d" % len(body)
        assert await answer(reader) == b"%d" % len(body)
        assert await answer(reader) == b"0"


async def test_a_body_in_chunks_outlasts_an_upgrade_that_is_ignored(address: str) -> None:
    async with peer(address) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n" + HTTP_2 + b"\r\n")
        writer.write(b"5\r\nhello\r\n0\r\n\r\n")
        assert await answer(reader) == b"5"


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_http_1_0_knows_no_upgrade(address: str, method: bytes) -> None:
    async with peer(address) as (reader, writer):
        head = b" / HTTP/1.0\r\ncontent-length: 5\r\n"
        writer.write(method + head + WEBSOCKET + b"\r\nhello")
        assert await answer(reader) == b"5"


async def test_any_number_of_upgrades_can_arrive_at_once(address: str) -> None:
    async with peer(address) as (reader, writer):
        writer.write((b"GET / HTTP/1.1\r\n" + HTTP_2 + b"\r\n") * 1000)
        for _ in range(1000):
            assert await answer(reader) == b"0"


async def test_a_request_for_a_tunnel_is_refused(address: str) -> None:
    async with peer(address) as (reader, writer):
        writer.write(b"CONNECT elsewhere:80 HTTP/1.1\r\nhost: elsewhere\r\n\r\n")
        async with patience():
            assert (await reader.readline()).startswith(b"HTTP/1.1 4")
