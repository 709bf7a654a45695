"""Clients that connect at the same time leave turns of the event loop to others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise

import pytest
from fastapi import FastAPI
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidStatus

from gqlnotify import TopicManager, topic_router
from gqlnotify.brokers import MemoryBroker
from gqlnotify.connections import handshake_queue
from gqlnotify.connections.handshake_queue import (
    SECONDS_FOR_OTHERS,
    TURNS_FOR_OTHERS,
    HandshakeQueue,
)
from gqlnotify.server import WebSocketProtocol
from tests.bad_brokers import pause
from tests.e2e.raw import Socket, open_socket
from tests.message_app import MessageApp, next_message, subscribed
from tests.servers import running
from tests.waiting import wait_until


class Clock:
    """CPU time, which passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(handshake_queue, "thread_time", clock)
    return clock


class Handshakes:
    """Handshakes that come at the same time, and the turn of the loop in which each one began."""

    def __init__(self, number: int) -> None:
        self.begun: list[tuple[int, int]] = []
        self.tasks = [asyncio.create_task(self._connect(each)) for each in range(number)]
        self._turn = 0

    async def _connect(self, number: int) -> None:
        await HandshakeQueue.of(asyncio.get_running_loop()).turn()
        self.begun.append((number, self._turn))

    async def until_all_began(self, in_each_turn: Callable[[], None] = lambda: None) -> list[int]:
        """Return how many turns passed between each two."""
        while not all(task.done() for task in self.tasks):
            in_each_turn()
            await asyncio.sleep(0)
            self._turn += 1
        return [after - before for (_, before), (_, after) in pairwise(self.begun)]


@pytest.mark.usefixtures("clock")
async def test_a_handshake_that_comes_alone_does_not_wait() -> None:
    for _ in range(3):
        with pytest.raises(StopIteration):
            HandshakeQueue.of(asyncio.get_running_loop()).turn().send(None)
        await pause(TURNS_FOR_OTHERS)


@pytest.mark.usefixtures("clock")
async def test_others_have_turns_between_handshakes_which_keep_their_order() -> None:
    handshakes = Handshakes(6)

    assert (await handshakes.until_all_began())[1:] == [TURNS_FOR_OTHERS] * 4
    assert [number for number, _ in handshakes.begun] == list(range(6))


async def test_others_that_need_much_time_have_fewer_turns(clock: Clock) -> None:
    def work() -> None:
        clock.now += SECONDS_FOR_OTHERS

    assert (await Handshakes(6).until_all_began(work))[1:] == [1] * 4


@pytest.mark.usefixtures("clock")
async def test_handshakes_that_were_cancelled_leave_their_turns_to_the_next_one() -> None:
    handshakes = Handshakes(52)
    await asyncio.sleep(0)
    for task in handshakes.tasks[1:-1]:
        task.cancel()
    turns = await handshakes.until_all_began()

    assert [number for number, _ in handshakes.begun] == [0, 51]
    assert turns[0] <= TURNS_FOR_OTHERS + 1


# under a server

each_path = pytest.mark.parametrize(
    "ws", [WebSocketProtocol, WebSocketsSansIOProtocol], ids=["direct", "portable"]
)


class Crowd:
    """Clients that connect while the queue lets none of them in."""

    def __init__(self, origin: str, clients: AsyncExitStack, queue: HandshakeQueue) -> None:
        self.connecting: list[asyncio.Task[Socket]] = []
        self._origin = origin
        self._clients = clients
        self._queue = queue
        # As in the middle of the turns of others.
        queue._turns_left = 1

    async def come(self, number: int) -> None:
        """Connect so many clients, one after the other, and return when all of them wait."""
        for waiting in range(1, number + 1):
            self.connecting.append(asyncio.create_task(self._connect()))
            await wait_until(lambda waiting=waiting: len(self._queue) == waiting)

    async def _connect(self) -> Socket:
        return await self._clients.enter_async_context(open_socket(f"ws://{self._origin}"))

    def let_in(self) -> None:
        self._queue._count()


@asynccontextmanager
async def crowded(
    message_app: MessageApp, ws: type[asyncio.Protocol]
) -> AsyncIterator[tuple[Socket, Crowd]]:
    """Yield a subscriber, and a crowd that has to wait for as long as the test likes."""
    app = FastAPI()
    app.include_router(message_app.router(), prefix="/graphql")
    queue = HandshakeQueue.of(asyncio.get_running_loop())
    async with running(app, ws=ws) as origin, AsyncExitStack() as clients:
        connected = await clients.enter_async_context(open_socket(f"ws://{origin}"))
        await subscribed(connected)
        await next_message(message_app, connected, "before")
        await wait_until(lambda: queue._turns_left == 0)
        yield connected, Crowd(origin, clients, queue)


@each_path
async def test_events_arrive_while_clients_wait_and_then_all_of_them_come_in(
    ws: type[asyncio.Protocol],
) -> None:
    message_app = MessageApp()
    async with crowded(message_app, ws) as (connected, crowd):
        await crowd.come(3)
        await next_message(message_app, connected, "meanwhile")
        assert not any(task.done() for task in crowd.connecting)

        crowd.let_in()
        for task in crowd.connecting:
            await (await task).init()


@each_path
async def test_a_client_that_leaves_while_it_waits_costs_no_one_a_place(
    ws: type[asyncio.Protocol], caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[asyncio.Protocol] = []

    class Noting(ws):  # type: ignore[misc, valid-type]
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.append(self)

    async with crowded(MessageApp(), Noting) as (_, crowd):
        await crowd.come(2)
        leaves, stays = crowd.connecting
        leaves.cancel()
        await wait_until(lambda: lost)

        crowd.let_in()
        await (await stays).init()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_server_that_stops_refuses_the_clients_that_wait() -> None:
    async with crowded(MessageApp(), WebSocketProtocol) as (_, crowd):
        await crowd.come(2)
        refused = asyncio.gather(*crowd.connecting, return_exceptions=True)
        refused.add_done_callback(lambda _refused: crowd.let_in())

    for error in await refused:
        assert isinstance(error, InvalidStatus)
        assert error.response.status_code == 503


async def test_a_socket_without_graphql_waits_in_the_same_queue() -> None:
    queue = HandshakeQueue.of(asyncio.get_running_loop())
    app = FastAPI()
    app.include_router(topic_router(TopicManager(MemoryBroker())))

    async def connect(origin: str) -> None:
        path = "/notifications/news"
        async with open_socket(f"ws://{origin}", path=path, subprotocols=()):
            pass

    async with running(app, ws=WebSocketProtocol) as origin:
        # As in the middle of the turns of others.
        queue._turns_left = 1
        connecting = asyncio.create_task(connect(origin))
        await wait_until(lambda: len(queue) == 1)
        queue._count()
        await connecting
