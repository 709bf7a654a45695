"""Applications that do not use gqlnotify are served as under uvicorn's own protocol class."""

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gqlnotify.protocol.frames import text_frame
from gqlnotify.server.websocket import WebSocketProtocol
from gqlnotify.websocket.writer import EXTENSION
from tests.e2e.frames import frame_socket
from tests.servers import patience, running

pytestmark = pytest.mark.processes


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
    """Send frames and messages, also after the close."""
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
async def test_an_echo_endpoint_works_as_under_uvicorn(plain: str, compression: str | None) -> None:
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


async def test_http_and_refusals_work_as_under_uvicorn(plain: str) -> None:
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


async def test_an_endpoint_that_raises_closes_the_connection(plain: str) -> None:
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
