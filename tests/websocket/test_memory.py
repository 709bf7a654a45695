"""Reference counting frees a connection that has ended: the garbage collector has nothing to do."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
from starlette.websockets import WebSocket

from gqlnotify import Settings, topic_router
from gqlnotify.server import WebSocketProtocol
from gqlnotify.server.http import HttpProtocol
from gqlnotify.server.uvicorn_adapter import WebSocketBase
from gqlnotify.websocket.acknowledgements import Acknowledgements
from gqlnotify.websocket.connection import Connection
from gqlnotify.websocket.heartbeat import Heartbeat
from gqlnotify.websocket.lifecycle import Lifecycle
from gqlnotify.websocket.operations import Operations
from gqlnotify.websocket.session import Session
from tests.applications import application
from tests.e2e.raw import Socket, open_socket
from tests.e2e.tokens import token
from tests.message_app import MESSAGE_TEXTS, MESSAGES, MessageApp
from tests.plain.support import Plain, plain
from tests.servers import patience, running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

PARTS = (Acknowledgements, Connection, Heartbeat, Lifecycle, Operations, Session)
OF_A_CONNECTION = frozenset((*PARTS, WebSocket, WebSocketBase))
HANDSHAKE = (
    b"GET /graphql HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
FOREIGN_ORIGIN = b"Origin: https://b.example\r\n"
# Callbacks that are due may still refer to a connection.
TURNS = 10

Left = Callable[[], Awaitable[list[str]]]


@pytest.fixture
def left() -> Iterator[Left]:
    """What is left of the test's connections once they have ended. The collector is off."""
    gc.collect()
    before = {id(each) for each in living()}
    gc.disable()

    def new() -> list[Any]:
        return [each for each in living() if id(each) not in before]

    async def look() -> list[str]:
        await wait_until(lambda: have_ended(new()))
        for _ in range(TURNS):
            await asyncio.sleep(0)
        return sorted(type(each).__name__ for each in new())

    yield look
    gc.enable()


@pytest.fixture(params=[WebSocketProtocol, "auto"], ids=["direct", "portable"])
def protocol(request: pytest.FixtureRequest) -> Any:
    return request.param


def living() -> list[Any]:
    # By class: `isinstance` asks what a weak proxy refers to, and is slow for an abstract class.
    return [each for each in gc.get_objects() if not OF_A_CONNECTION.isdisjoint(type(each).__mro__)]


def have_ended(objects: Sequence[Any]) -> bool:
    protocols = [each for each in objects if isinstance(each, WebSocketBase)]
    return not any(each.tasks or each in each.connections for each in protocols)


async def leaves(_socket: Socket | Plain) -> None:
    """Send a close frame at the end of the test's block."""


async def dies(socket: Socket | Plain) -> None:
    socket.connection.transport.abort()


async def breaks_the_protocol(socket: Socket) -> None:
    await socket.raw("nonsense")
    assert (await socket.closed()).code == 4400


async def breaks_the_frames(socket: Socket) -> None:
    socket.connection.transport.write(b"\xff" * 8)
    assert (await socket.closed()).code == 1002


async def subscribe(message_app: MessageApp, socket: Socket) -> None:
    """Have an operation in a group, and one that runs in a task."""
    await socket.subscribe(str(uuid4()), MESSAGE_TEXTS)
    await socket.subscribe("2", "subscription { wrapped }")
    await wait_until(lambda: message_app.topics.readers.get(MESSAGES.name) == 2)
    await message_app.say("hi")
    results = 0
    while results < 2:
        results += (await socket.receive())["type"] == "next"


async def test_clients_that_may_resume_leave_nothing(
    message_app: MessageApp, protocol: Any, left: Left
) -> None:
    async with running(application(message_app.locked()), ws=protocol) as origin:
        for end in (leaves, dies, breaks_the_protocol):
            async with open_socket(f"ws://{origin}") as socket:
                await socket.init({"token": token()})
                await subscribe(message_app, socket)
                await end(socket)
            assert await left() == [], end


async def test_clients_without_a_token_leave_nothing(message_app: MessageApp, left: Left) -> None:
    async with running(application(message_app.router()), ws=WebSocketProtocol) as origin:
        for end in (leaves, breaks_the_frames):
            async with open_socket(f"ws://{origin}") as socket:
                await socket.init()
                await subscribe(message_app, socket)
                await end(socket)
            assert await left() == [], end


async def test_clients_whose_token_is_refused_leave_nothing(
    message_app: MessageApp, left: Left
) -> None:
    router = message_app.locked()
    assert router.revocations is not None
    async with running(application(router), ws=WebSocketProtocol) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init({"token": token()})
            await router.revocations.revoke(subject="alice")
            assert (await socket.closed()).code == 4403
        for refused in ("no token", token()):
            async with open_socket(f"ws://{origin}") as socket:
                await socket.send({"type": "connection_init", "payload": {"token": refused}})
                assert (await socket.closed()).code in {4401, 4403}
            assert await left() == [], refused


async def test_a_client_that_answers_no_ping_leaves_nothing(
    message_app: MessageApp, protocol: Any, left: Left
) -> None:
    router = message_app.router(settings=Settings(ping_interval=0.02, ping_timeout=0.02))
    async with running(application(router), ws=protocol) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            await socket.closed()
        assert await left() == []


async def test_a_client_that_sends_no_init_leaves_nothing(
    message_app: MessageApp, left: Left
) -> None:
    router = message_app.router(settings=Settings(connection_init_wait=0.02))
    async with running(application(router), ws=WebSocketProtocol) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            assert (await socket.closed()).code == 4408
        assert await left() == []


async def test_a_client_that_is_one_too_many_leaves_nothing(
    message_app: MessageApp, left: Left
) -> None:
    router = message_app.router(settings=Settings(max_connections=1))
    async with running(application(router), ws=WebSocketProtocol) as origin:
        async with open_socket(f"ws://{origin}") as first:
            await first.init()
            async with open_socket(f"ws://{origin}") as second:
                assert (await second.closed()).code == 1013
        assert await left() == []


async def test_plain_clients_leave_nothing(
    message_app: MessageApp, protocol: Any, left: Left
) -> None:
    app = application(topic_router(message_app.topics))
    async with running(app, ws=protocol) as origin:
        for end in (leaves, dies):
            async with plain(f"ws://{origin}/graphql/notifications/news") as client:
                await client.ready()
                await client.send('"hi"')
                assert (await client.receive())["type"] == "error"
                await end(client)
            assert await left() == [], end


async def test_handshakes_that_are_refused_leave_nothing(
    message_app: MessageApp, left: Left
) -> None:
    app = application(message_app.router())
    async with running(app, ws=WebSocketProtocol, http=HttpProtocol) as origin, patience():
        for rest, status in ((KEY + FOREIGN_ORIGIN, b"403"), (b"", b"400")):
            reader, writer = await asyncio.open_connection(*origin.split(":"))
            writer.write(HANDSHAKE + rest + b"\r\n")
            assert (await reader.read()).split()[1] == status
            writer.close()
            assert await left() == [], status
