"""The protocol class under a real uvicorn, in the loop of the test, which sees each write."""

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State

from gqlnotify.event_loop import TickBatcher
from gqlnotify.protocol.frames import text_frame
from gqlnotify.server.websocket import WebSocketProtocol
from gqlnotify.websocket.writer import EXTENSION, FULL_BYTES
from tests.e2e.service import Service, follow, ready, served, text_of, texts
from tests.servers import patience, running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes


# Frames of one tick


async def test_a_burst_is_sent_in_one_write_and_in_order(direct: Service) -> None:
    async with direct.socket() as socket:
        await ready(socket, "a", "1")
        before = len(direct.taps.writes)
        await direct.publish("a", *map(str, range(50)))
        assert await texts(socket, 50) == [str(n) for n in range(50)]
        assert len(direct.taps.writes) - before == 1


async def test_two_subscriptions_on_one_connection_share_one_write(direct: Service) -> None:
    async with direct.socket() as socket:
        await ready(socket, "a", "1", "2")
        await follow(socket, "b", "3")
        # The first tick with several frames shows that it is worth collecting them.
        for expected in (2, 1, 1):
            before = len(direct.taps.writes)
            await direct.publish("a", "x")
            await direct.publish("b", "x")
            messages = [frame.message for frame in await socket.frames(3)]
            assert sorted(message["id"] for message in messages) == ["1", "2", "3"]
            assert len(direct.taps.writes) - before <= expected


async def test_each_connection_gets_one_write(direct: Service) -> None:
    async with direct.socket() as one, direct.socket() as other:
        await ready(one, "a", "1")
        await ready(other, "a", "1")
        before = len(direct.taps.writes)
        await direct.publish("a", "x", "y")
        assert await texts(one, 2) == await texts(other, 2) == ["x", "y"]
        assert len(direct.taps.writes) - before == 2


async def test_a_single_frame_is_written_at_once_and_further_ones_together(direct: Service) -> None:
    async with direct.socket() as socket:
        await ready(socket, "a", "1")
        await direct.publish("a", "x")
        assert await texts(socket, 1) == ["x"]
        connection: Any = direct.taps.only
        TickBatcher.of(asyncio.get_running_loop()).add(connection)
        await asyncio.sleep(0)
        before = len(direct.taps.writes)
        one, two, three = (text_frame(text) for text in (b"1", b"2", b"3"))
        for frame in (one, two, three):
            connection.write(frame)
        assert direct.taps.writes[before:] == [one]
        await asyncio.sleep(0)
        assert direct.taps.writes[before:] == [one, two + three]


async def test_a_single_event_is_sent_without_a_timer(direct: Service) -> None:
    async with direct.socket() as socket:
        await ready(socket, "a", "1")
        before = len(direct.taps.writes)
        ticks = 0
        await direct.publish("a", "x")
        while len(direct.taps.writes) == before:
            await asyncio.sleep(0)
            ticks += 1
            assert ticks <= 3, (
                "the group advances in one tick, and the writes follow in the next one"
            )
        assert await texts(socket, 1) == ["x"]


async def test_answers_and_results_keep_their_order(direct: Service) -> None:
    async with direct.socket() as socket:
        await ready(socket, "a", "1")
        # All in one tick: the result of an event, and then the answers to the client's messages.
        await direct.publish("a", "first")
        pings = [{"type": "ping", "payload": {"n": n}} for n in range(20)]
        await socket.send(*pings)
        frames = await socket.frames(21)
        assert text_of(frames[0]) == "first"
        pongs = [{**ping, "type": "pong"} for ping in pings]
        assert [frame.message for frame in frames[1:]] == pongs


async def test_the_ack_is_sent_first(direct: Service) -> None:
    async with direct.socket() as socket:
        await socket.send(
            {"type": "connection_init"},
            {"id": "1", "type": "subscribe", "payload": {"query": "subscription { count(to: 3) }"}},
        )
        types = [frame.message["type"] for frame in await socket.frames(5)]
        assert types == ["connection_ack", "next", "next", "next", "complete"]


# The end of a connection


async def test_results_are_sent_before_the_close_frame_and_nothing_after_it(each: Service) -> None:
    async with each.socket() as socket:
        await ready(socket, "a", "1")
        for n in range(50):
            await each.publish("a", str(n))
        await socket.send({"type": "connection_init"})
        *results, close = await socket.until_closed()
        assert [text_of(frame) for frame in results] == [str(n) for n in range(50)]
        assert close.close.code == 4429


async def test_nothing_is_written_after_the_answer_to_the_peers_close(each: Service) -> None:
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
    for _ in range(2):
        connection.write(text_frame(b"x" * FULL_BYTES))
    assert connection.full
    async with patience():
        await connection.drained()
    assert not connection.full
    assert len(direct.taps.writes) == before


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


async def test_a_close_frame_arrives_though_the_peer_is_still_sending(direct: Service) -> None:
    async with direct.socket() as socket:
        await socket.init()
        await socket.send_frames(Frame(Opcode.CONT, b""))
        await wait_until(lambda: direct.taps.only.close_sent)
        await socket.send_frames(*[Frame(Opcode.TEXT, b"x" * 1000)] * 1000)
        assert (await socket.until_closed())[-1].close.code == 1002


# A drain


@pytest.mark.parametrize("answer", ["websocket.accept", "websocket.close", None])
async def test_a_drain_during_a_handshake_refuses_the_peer_and_troubles_no_application(
    answer: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    waiting, released, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    protocols: list[WebSocketProtocol] = []

    async def slow(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            return
        protocols.append(scope["extensions"][EXTENSION])
        waiting.set()
        await released.wait()
        if answer is not None:
            await send({"type": answer})
        ended.set()

    async with running(slow, ws=WebSocketProtocol, lifespan="off") as origin, patience():
        connecting = asyncio.create_task(connect(f"ws://{origin}").__aenter__())
        await waiting.wait()
        released.set()
        # The application goes on before it can learn of this.
        protocols[0].leave()
        with pytest.raises(InvalidStatus) as refusal:
            await connecting
        await ended.wait()
    assert refusal.value.response.status_code == 503
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
