"""What the kernel buffers for a peer, on real sockets."""

import asyncio
import gc
import socket
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from prometheus_client import REGISTRY

from gqlnotify.connections.peer import LettingGo, ReadWatch, let_go, taken, unread
from tests.waiting import PATIENCE, SCALE, wait_until

SIZE = 20_000_000
STALL = 1.0 * SCALE
"""Seconds without progress until a peer is dropped; many times the time between two reads."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tables")


@dataclass
class Pair:
    """A server's transport, and the socket of a peer that reads only on demand."""

    transport: asyncio.Transport
    peer: socket.socket
    lost: asyncio.Event
    ends: list[str]
    """Both ports, because other connections of this machine may use the peer's port too."""

    async def read(self, size: int) -> None:
        loop = asyncio.get_running_loop()
        while size > 0:
            size -= len(await loop.sock_recv(self.peer, min(size, 2**16)))

    def states(self) -> list[str]:
        """Return the states of the server's end in the kernel's table."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return [row[3] for row in rows if row[1:3] == self.ends]


def _kernel_name(address: tuple[str, int]) -> str:
    """Return an IPv4 address and its port as Linux writes them in its tables."""
    host = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{host:08X}:{address[1]:04X}"


@asynccontextmanager
async def connected() -> AsyncIterator[Pair]:
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[asyncio.Transport] = loop.create_future()
    lost = asyncio.Event()

    class Accepting(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            accepted.set_result(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            lost.set()

    server = await loop.create_server(Accepting, "127.0.0.1", 0)
    with socket.socket() as peer:
        # Otherwise the kernel's buffer grows for a peer that reads, and takes everything.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**18)
        peer.setblocking(False)
        await loop.sock_connect(peer, server.sockets[0].getsockname())
        ends = [_kernel_name(peer.getpeername()), _kernel_name(peer.getsockname())]
        try:
            yield Pair(await accepted, peer, lost, ends)
        finally:
            (await accepted).abort()
            server.close()


async def it_leaves_nothing_in_the_kernel() -> None:
    async with connected() as pair:
        pair.transport.write(b"x" * SIZE)
        await wait_until(lambda: unread(pair.transport) > pair.transport.get_write_buffer_size())
        let_go(pair.transport)
        await pair.lost.wait()
        await wait_until(lambda: pair.states() == [])


async def a_peer_can_be_dropped_twice() -> None:
    async with connected() as pair:
        let_go(pair.transport)
        await pair.lost.wait()
        let_go(pair.transport)
        assert unread(pair.transport) == 0


async def progress_shows_within_one_write() -> None:
    async with connected() as pair:
        pair.transport.write(b"x" * SIZE)
        for _ in range(3):
            before, waiting = taken(pair.transport), unread(pair.transport)
            await pair.read(SIZE // 4)
            await wait_until(lambda: taken(pair.transport) > before)  # noqa: B023
            assert unread(pair.transport) < waiting


async def a_peer_that_reads_nothing_makes_no_progress() -> None:
    async with connected() as pair:
        pair.transport.write(b"x" * SIZE)
        await asyncio.sleep(0.2)
        before = taken(pair.transport)
        await asyncio.sleep(0.2)
        assert taken(pair.transport) == before


async def a_peer_that_reads_is_not_dropped() -> None:
    async with connected() as pair:
        pair.transport.write(b"x" * SIZE)
        LettingGo(asyncio.get_running_loop(), pair.transport, STALL)
        for _ in range(10):
            await pair.read(SIZE // 10)
            await asyncio.sleep(STALL / 8)
        await pair.lost.wait()


async def a_peer_that_stops_reading_is_dropped() -> None:
    async with connected() as pair:
        pair.transport.write(b"x" * SIZE)
        LettingGo(asyncio.get_running_loop(), pair.transport, 0.1)
        await asyncio.wait_for(pair.lost.wait(), PATIENCE)


async def what_has_dropped_a_peer_is_freed_at_once() -> None:
    async with connected() as pair:
        gc.disable()
        letting_go = weakref.ref(LettingGo(asyncio.get_running_loop(), pair.transport, 0.01))
        await asyncio.wait_for(pair.lost.wait(), PATIENCE)
        gc.enable()
        assert letting_go() is None


async def a_peer_with_unread_output_is_dropped_and_counted() -> None:
    before = slow_readers()
    async with connected() as pair:
        pair.transport.write(b"x" * SIZE)
        ReadWatch(asyncio.get_running_loop(), pair.transport, 0.1)
        await asyncio.wait_for(pair.lost.wait(), PATIENCE)
    assert slow_readers() == before + 1


async def a_peer_that_has_read_everything_may_wait() -> None:
    before = slow_readers()
    async with connected() as pair:
        watch = ReadWatch(asyncio.get_running_loop(), pair.transport, STALL / 4)
        for _ in range(20):
            # Output written just before a check is no reason to drop the peer.
            pair.transport.write(b"x")
            await pair.read(1)
            await asyncio.sleep(STALL / 20)
        assert not pair.lost.is_set()
        watch.cancel()
    assert slow_readers() == before


async def a_peer_that_reads_slowly_has_the_time_that_it_needs() -> None:
    async with connected() as pair:
        pair.transport.write(b"x" * SIZE)
        watch = ReadWatch(asyncio.get_running_loop(), pair.transport, STALL)
        for _ in range(20):
            await pair.read(SIZE // 20)
            await asyncio.sleep(STALL / 10)
        assert not pair.lost.is_set()
        watch.cancel()


async def a_watch_that_finishes_ends_when_all_is_read() -> None:
    async with connected() as pair:
        pair.transport.write(b"x" * SIZE)
        watch = ReadWatch(asyncio.get_running_loop(), pair.transport, 0.2)
        watch.finish()
        await pair.read(SIZE)
        loop = asyncio.get_running_loop()
        # No check is scheduled any more.
        await wait_until(lambda: watch._deadline._due < loop.time() - 0.2)
        assert not pair.lost.is_set()


def slow_readers() -> float:
    return REGISTRY.get_sample_value("gqlnotify_slow_readers_ended_total") or 0.0


CASES: list[Callable[[], Coroutine[Any, Any, None]]] = [
    it_leaves_nothing_in_the_kernel,
    a_peer_can_be_dropped_twice,
    progress_shows_within_one_write,
    a_peer_that_reads_nothing_makes_no_progress,
    a_peer_that_reads_is_not_dropped,
    a_peer_that_stops_reading_is_dropped,
    what_has_dropped_a_peer_is_freed_at_once,
    a_peer_with_unread_output_is_dropped_and_counted,
    a_peer_that_has_read_everything_may_wait,
    a_peer_that_reads_slowly_has_the_time_that_it_needs,
    a_watch_that_finishes_ends_when_all_is_read,
]


@pytest.mark.processes
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_it_is_so(run: Callable[[Awaitable[None]], None], case: Callable[[], Any]) -> None:
    run(case())
