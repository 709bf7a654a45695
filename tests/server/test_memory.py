"""What a connection keeps in memory of its handshake and of its messages."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from typing_extensions import override
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame

from gqlnotify.server.http import HttpProtocol
from gqlnotify.server.websocket import WebSocketProtocol
from tests.servers import running

pytestmark = pytest.mark.processes


class Server:
    """Echoes messages. Notes the scopes, and the frames that the protocol class has handled."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.frames: list[Frame] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        self.scopes.append(scope)
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    @property
    def protocol(self) -> type[WebSocketProtocol]:
        noted = self.frames

        class Noting(WebSocketProtocol):
            @override
            def handle_events(self) -> None:
                events = list(self.conn.events)
                super().handle_events()
                noted.extend(event for event in events if isinstance(event, Frame))

        return Noting

    @asynccontextmanager
    async def socket(self, **headers: str) -> AsyncIterator[ClientConnection]:
        async with (
            running(self, http=HttpProtocol, ws=self.protocol) as address,
            connect(f"ws://{address}/", additional_headers=headers, proxy=None) as socket,
        ):
            yield socket


def header(scope: Scope, wanted: bytes) -> Any:
    return next(header for header in scope["headers"] if header[0] == wanted)


async def test_equal_headers_are_shared_by_all_connections_but_secrets_are_not() -> None:
    server = Server()
    for _ in range(2):
        async with server.socket(Authorization="Bearer x", Origin="https://a.example"):
            pass
    one, other = server.scopes
    assert header(one, b"origin") is header(other, b"origin")
    assert header(one, b"authorization") == header(other, b"authorization")
    assert header(one, b"authorization") is not header(other, b"authorization")
    assert header(one, b"sec-websocket-key") != header(other, b"sec-websocket-key")


async def test_a_handled_message_is_not_kept_until_the_next_one() -> None:
    server = Server()
    async with server.socket() as socket:
        await socket.send("x" * 100_000)
        assert await socket.recv() == "x" * 100_000
        assert [frame.data for frame in server.frames] == [b""]


async def test_a_handshake_leaves_nothing_for_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        async with Server().socket() as socket:
            await socket.send("hi")
            assert await socket.recv() == "hi"
            assert not any(isinstance(each, HttpProtocol) for each in gc.get_objects())
    finally:
        gc.enable()
