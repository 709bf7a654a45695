"""All ways to send, through ASGI and as frames, under a real server where they need one."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Opcode

from gqlnotify.connections.asgi_adapter import socket_transport
from gqlnotify.connections.uvicorn_frames import uvicorn_frames
from gqlnotify.protocol.frames import Batch, Prefix, SharedBody
from gqlnotify.server.websocket import WebSocketProtocol
from gqlnotify.websocket.writer import FULL_BYTES, AsgiWriter, DirectWriter, Writer, frames_of
from tests.e2e.frames import Seen, frame_socket
from tests.servers import patience, running
from tests.waiting import wait_until

Script = Callable[[Writer], Awaitable[None]]
HEAD = Prefix(json.dumps('é"'))
TAILS = [
    SharedBody(json.dumps({"n": n, "text": "é" * 10**n}, ensure_ascii=False)) for n in range(6)
]


def writer_to(websocket: WebSocket, *, at_once: bool) -> Writer:
    frames = frames_of(websocket)
    if frames is not None:
        return DirectWriter(frames, compress_above=1000)
    if not at_once:
        return AsgiWriter(sender(websocket))
    known = uvicorn_frames(websocket)
    assert known is not None
    transport = socket_transport(websocket)
    return AsgiWriter(sender(websocket), transport, known, compress_above=1000)


def sender(websocket: WebSocket) -> Callable[[str | bytes], Awaitable[None]]:
    async def send(message: str | bytes) -> None:
        assert isinstance(message, str)
        await websocket.send_text(message)

    return send


def is_full(writer: Writer) -> bool:
    return writer.full


async def frames_sent_by(
    script: Script,
    protocol: type[asyncio.Protocol],
    *,
    at_once: bool = False,
    offer: str | None = None,
    reads: asyncio.Event | None = None,
) -> list[Seen]:
    """Return the frames of an endpoint that runs `script` and closes when that is flushed.

    The client begins to read when `reads` is set, if given.
    """

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        writer = writer_to(websocket, at_once=at_once)
        work = writer.background()
        background = asyncio.create_task(work()) if work is not None else None
        await script(writer)
        await writer.flushed()
        await websocket.close()
        if background is not None:
            background.cancel()

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    async with (
        running(app, ws=protocol) as address,
        frame_socket(address, path="/", subprotocol=None, offer=offer) as socket,
    ):
        if reads is not None:
            await reads.wait()
        return await socket.until_closed()


async def send_all_kinds(writer: Writer) -> None:
    writer.write("first")
    assert writer.push(HEAD, Batch(TAILS[:1]))
    assert writer.push(HEAD, Batch(TAILS))
    writer.write("é" * 70_000)
    # The buffer is full: it accepts nothing that can wait.
    assert not writer.push(HEAD, Batch(TAILS[:1]))
    writer.write("last")


@pytest.mark.processes
async def test_all_ways_have_the_same_bytes() -> None:
    direct = await frames_sent_by(send_all_kinds, WebSocketProtocol)
    portable = await frames_sent_by(send_all_kinds, WebSocketsSansIOProtocol)
    at_once = await frames_sent_by(send_all_kinds, WebSocketsSansIOProtocol, at_once=True)
    assert direct == portable == at_once
    assert [frame.opcode for frame in direct] == [Opcode.TEXT] * 10 + [Opcode.CLOSE]
    assert direct[0].data == b"first"
    assert json.loads(direct[1].data) == {"id": 'é"', "n": 0, "text": "é"}


@pytest.mark.processes
async def test_a_peer_that_inflates_reads_the_same() -> None:
    plain = await frames_sent_by(send_all_kinds, WebSocketProtocol)
    inflated = await frames_sent_by(send_all_kinds, WebSocketProtocol, offer="permessage-deflate")
    assert [frame.compressed for frame in inflated[2:8]] == [False, False, False, True, True, True]
    assert [frame.text for frame in inflated] == [frame.text for frame in plain]


@pytest.mark.processes
async def test_a_second_message_is_written_at_the_end_of_the_tick_unless_it_is_flushed() -> None:
    async def script(writer: Writer) -> None:
        assert isinstance(writer, DirectWriter)
        writer.write("w")
        writer.write("x" * FULL_BYTES)
        assert is_full(writer)
        await writer.flushed()
        assert not is_full(writer)
        writer.write("y")

    *frames, _ = await frames_sent_by(script, WebSocketProtocol)
    assert [frame.data[:1] for frame in frames] == [b"w", b"x", b"y"]


# Through ASGI, or at once under uvicorn's own class


@pytest.mark.processes
async def test_uvicorn_compresses_large_messages_between_small_ones_written_at_once() -> None:
    small, large = TAILS[1:2], TAILS[3:4]

    async def script(writer: Writer) -> None:
        for bodies in (small, large, small, large):
            assert writer.push(HEAD, Batch(bodies))
            await writer.flushed()

    *frames, _ = await frames_sent_by(
        script, WebSocketsSansIOProtocol, at_once=True, offer="permessage-deflate"
    )
    assert [frame.compressed for frame in frames] == [False, True, False, True]
    # uvicorn's compressor refers to the earlier compressed messages.
    inflater = zlib.decompressobj(-15)
    texts = [
        inflater.decompress(frame.data + b"\x00\x00\xff\xff") if frame.compressed else frame.data
        for frame in frames
    ]
    assert [json.loads(text)["n"] for text in texts] == [1, 3, 1, 3]


@pytest.mark.processes
async def test_a_peer_that_does_not_read_fills_the_writer_and_gets_all_in_order() -> None:
    stalled = asyncio.Event()
    count = 0

    async def script(writer: Writer) -> None:
        nonlocal count
        while not is_full(writer):
            writer.write(f"{count} " + "x" * 9_000)
            count += 1
            # The transport takes what the kernel does.
            await asyncio.sleep(0)
        assert writer.held < 4 * FULL_BYTES
        stalled.set()
        await writer.drained()
        writer.write(f"{count} last")

    *frames, _ = await frames_sent_by(script, WebSocketsSansIOProtocol, at_once=True, reads=stalled)
    assert [int(frame.data.split()[0]) for frame in frames] == list(range(count + 1))


@pytest.mark.processes
async def test_a_sender_that_waits_for_nothing_else_leaves_the_loop_its_turn() -> None:
    written = 0

    async def script(writer: Writer) -> None:
        nonlocal written
        turn = asyncio.Event()
        asyncio.get_running_loop().call_soon(turn.set)
        while not turn.is_set():
            writer.write("x" * 1000)
            written += 1000
            await writer.drained()

    await frames_sent_by(script, WebSocketsSansIOProtocol, at_once=True)
    assert written <= 3 * FULL_BYTES


class Slow:
    """A server that accepts a message only when the test allows it."""

    def __init__(self) -> None:
        self.taken: list[str | bytes] = []
        self.permits = asyncio.Semaphore(0)

    async def send(self, text: str | bytes) -> None:
        await self.permits.acquire()
        self.taken.append(text)

    def let(self, count: int) -> None:
        for _ in range(count):
            self.permits.release()


@asynccontextmanager
async def through(server: Slow) -> AsyncIterator[AsgiWriter]:
    writer = AsgiWriter(server.send)
    background = asyncio.create_task(writer.background()())
    try:
        yield writer
    finally:
        background.cancel()


async def test_messages_are_sent_in_order_and_flush_waits_for_the_last() -> None:
    server = Slow()
    async with through(server) as writer, patience():
        for n in range(10):
            writer.write(str(n))
        flushed = asyncio.create_task(writer.flushed())
        server.let(9)
        await wait_until(lambda: len(server.taken) == 9)
        assert not flushed.done()
        server.let(1)
        await flushed
        assert server.taken == [str(n) for n in range(10)]


async def test_a_writer_is_full_at_its_bound_and_drained_at_half_of_it() -> None:
    server = Slow()
    piece = "x" * (FULL_BYTES // 4)
    async with through(server) as writer, patience():
        for _ in range(3):
            writer.write(piece)
        assert not is_full(writer)
        writer.write(piece)
        assert is_full(writer)
        drained = asyncio.create_task(writer.drained())
        server.let(2)
        await wait_until(lambda: len(server.taken) == 2)
        assert is_full(writer)
        server.let(1)
        await drained
        assert not is_full(writer)


@pytest.mark.parametrize("size", [1, FULL_BYTES, 3 * FULL_BYTES])
async def test_a_message_of_any_size_leaves_and_makes_room(size: int) -> None:
    server = Slow()
    async with through(server) as writer, patience():
        writer.write("x" * size)
        server.let(1)
        await writer.flushed()
        assert not is_full(writer)
