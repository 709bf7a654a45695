"""Settings that are given in code reach the server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from fastapi import FastAPI

from gqlnotify import GraphQLRouter, Settings
from gqlnotify.server import HttpProtocol, WebSocketProtocol
from gqlnotify.server.websocket import drain_times
from gqlnotify.server_settings import ServerSettings
from tests.message_app import MessageApp
from tests.servers import patience, running

TIMEOUT = 0.25


def test_the_longest_time_of_several_routers_counts() -> None:
    settings = ServerSettings()
    assert settings.drain_window == Settings().drain_window
    for window in (1, 3, 2):
        settings.add(Settings(drain_window=window))
    assert settings.drain_window == 3


async def test_settings_are_those_of_the_loop_that_serves() -> None:
    loop = asyncio.get_running_loop()
    ServerSettings.of(loop).add(Settings(drain_window=0.5))
    assert drain_times(loop, None)[0] == 0.5
    other = asyncio.new_event_loop()
    assert drain_times(other, None)[0] == Settings().drain_window
    other.close()


@pytest.fixture(params=["", "/api"], ids=["included", "mounted"])
def mount(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def address(mount: str) -> AsyncIterator[str]:
    router = GraphQLRouter(MessageApp().schema, settings=Settings(handshake_timeout=TIMEOUT))
    app = inner = FastAPI()
    inner.include_router(router, prefix="/graphql")
    if mount:
        app = FastAPI()
        app.mount(mount, inner)
    async with running(app, ws=WebSocketProtocol, http=HttpProtocol) as address:
        yield address


@pytest.mark.processes
async def test_a_handshake_timeout_given_in_code_is_kept(address: str, mount: str) -> None:
    host, port = address.split(":")
    # A mounted router reaches the server with the first request.
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET {mount}/graphql HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"
    writer.write(head.encode())
    async with patience():
        await reader.read()
    writer.close()
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(host, int(port))
    began = loop.time()
    async with patience():
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    assert loop.time() - began < Settings().handshake_timeout
