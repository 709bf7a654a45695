"""Events count as received once the kernel of the peer has taken them."""

import asyncio
import socket

import pytest
from typing_extensions import override

from gqlnotify import Cursor
from gqlnotify.connections.taken_events import TakenEvents
from gqlnotify.topics.resumption import Resumption
from tests.servers import patience
from tests.waiting import wait_until

CURSOR = Cursor(1, 7)
# More than the kernels of both sides take.
MUCH = bytes(16 * 2**20)


class Noted(Resumption):
    """Notes what is acknowledged."""

    def __init__(self) -> None:
        super().__init__("alice", "id", "", lambda _: None)
        self.noted: asyncio.Queue[Cursor] = asyncio.Queue()

    @override
    def acknowledge(self, cursor: Cursor, *, by_client: bool = True) -> None:
        assert not by_client
        self.noted.put_nowait(cursor)


async def connected() -> tuple[asyncio.Transport, socket.socket]:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    return transport, peer


async def test_an_event_is_acknowledged_when_the_peer_has_taken_it() -> None:
    transport, peer = await connected()
    resumption = Noted()
    taken = TakenEvents(transport, interval=0.01)
    async with patience():
        transport.write(MUCH)
        taken.wrote(resumption, CURSOR)
        await wait_until(lambda: bool(taken._asked))
        assert resumption.noted.empty()
        reader, writer = await asyncio.open_connection(sock=peer)
        await reader.readexactly(len(MUCH))
        assert await resumption.noted.get() == CURSOR
        writer.close()
        await writer.wait_closed()
    transport.abort()


async def test_what_a_proxy_has_taken_counts_later() -> None:
    transport, peer = await connected()
    resumption, loop = Noted(), asyncio.get_running_loop()
    taken = TakenEvents(transport, interval=0.01, delay=0.2)
    async with patience():
        begun = loop.time()
        transport.write(b"event")
        taken.wrote(resumption, CURSOR)
        assert await resumption.noted.get() == CURSOR
        assert loop.time() - begun >= 0.2
    transport.abort()
    peer.close()


@pytest.mark.parametrize("known", [True, False])
async def test_nothing_is_acknowledged_without_a_connection(known: bool) -> None:
    transport, peer = await connected()
    taken = TakenEvents(transport if known else None, interval=0)
    taken.wrote(resumption := Noted(), CURSOR)
    taken.close()
    assert taken._timer is None or taken._timer.cancelled()
    assert resumption.noted.empty()
    transport.abort()
    peer.close()
