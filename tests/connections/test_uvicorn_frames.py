"""Frames are written past ASGI only if nothing on the way looks at the messages."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
from websockets.frames import Opcode

from gqlnotify import frameworks
from gqlnotify.connections import uvicorn_frames as adapter
from gqlnotify.connections.uvicorn_frames import uvicorn_frames
from gqlnotify.protocol.frames import text_frame
from tests.e2e.frames import Seen, frame_socket
from tests.servers import running


class Watched(WebSocketsSansIOProtocol):
    """A server's own class, which may do something with each message."""


class Watching:
    """A middleware that sees each message."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            await send(message)

        await self.app(scope, receive, watch)


async def endpoint(websocket: WebSocket) -> None:
    """Send "at once" as a frame, or "through ASGI"; then try a frame after the close frame."""
    await websocket.accept()
    frames = uvicorn_frames(websocket)
    if frames is None:
        await websocket.send_text("through ASGI")
        await websocket.close()
        return
    assert frames.write(text_frame(b"at once"))
    await websocket.close()
    assert not frames.write(text_frame(b"too late"))


async def frames_of(app: Any, protocol: Any = WebSocketsSansIOProtocol) -> list[Seen]:
    async with (
        running(app, ws=protocol) as address,
        frame_socket(address, path="/", subprotocol=None) as socket,
    ):
        return await socket.until_closed()


async def way_of(app: Any, protocol: Any = WebSocketsSansIOProtocol) -> str:
    message, close = await frames_of(app, protocol)
    assert close.opcode is Opcode.CLOSE
    return message.text.decode()


def fastapi() -> FastAPI:
    app = FastAPI()
    app.add_api_websocket_route("/", endpoint)
    return app


def starlette(*middleware: Any) -> Starlette:
    layers = [Middleware(each) for each in middleware]
    return Starlette(routes=[WebSocketRoute("/", endpoint)], middleware=layers)


@pytest.fixture(autouse=True)
def nothing_is_known() -> Iterator[None]:
    adapter._is_known.cache_clear()
    frameworks.warn_of_fallback.cache_clear()
    yield
    adapter._is_known.cache_clear()


@pytest.mark.parametrize("app", [fastapi, starlette, lambda: starlette(CORSMiddleware)])
async def test_under_uvicorn_a_frame_is_written_at_once_until_the_close_frame(
    app: Callable[[], Any],
) -> None:
    assert await way_of(app()) == "at once"


async def test_a_middleware_that_wraps_send_sees_each_message() -> None:
    assert await way_of(starlette(Watching)) == "through ASGI"


@pytest.mark.parametrize("protocol", [Watched, WSProtocol])
async def test_another_class_of_the_server_sends_each_message(protocol: Any) -> None:
    assert await way_of(fastapi(), protocol) == "through ASGI"


async def test_a_replaced_send_sees_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = WebSocketsSansIOProtocol.send

    async def traced(self: Any, message: Any) -> None:
        await original(self, message)

    monkeypatch.setattr(WebSocketsSansIOProtocol, "send", traced)
    assert await way_of(fastapi()) == "through ASGI"


async def test_a_class_that_lacks_something_is_not_used_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapter, "_NEEDED", ("transport", "gone"))
    assert await way_of(fastapi()) == "through ASGI"
    assert await way_of(fastapi()) == "through ASGI"
    [line] = [each for each in caplog.messages if "gone" in each]
    assert "WebSocketsSansIOProtocol.gone" in line
