"""A slow reader affects no other, and a peer that never reads again is disconnected."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.narrow import NARROW
from tests.servers import Server, serving
from tests.soak.peer import Gone, Peer
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

APP = "tests.soak.app:app"
STALLED, HEALTHY = 50, 10
EVENTS, SIZE = 100, 10_000
DEADLINES = {
    "who is sent something and reads nothing": {"send_timeout": 1, "ping_interval": 1000},
    "who says nothing either": {"send_timeout": 1000, "ping_interval": 0.5, "ping_timeout": 0.5},
}

NUMBERS = 'subscription { numbers(name: "large") { number text } }'
PUBLISH = (
    'mutation($number: Int!, $size: Int!) { publish(name: "large", number: $number, size: $size) }'
)


@asynccontextmanager
async def subscribed(server: Server, count: int, *, buffer: int) -> AsyncIterator[list[Peer]]:
    peers: list[Peer] = []
    try:
        for _ in range(count):
            peers.append(await Peer.connect(server.port, buffer=buffer))
            peers[-1].send({"type": "connection_init"})
            await peers[-1].expect("connection_ack")
            peers[-1].subscribe("1", NUMBERS)
            peers[-1].send({"type": "ping"})
            await peers[-1].expect("pong")
        yield peers
    finally:
        for peer in peers:
            peer.cut()


async def publish(server: Server, events: int) -> None:
    peer = await Peer.connect(server.port)
    try:
        peer.send({"type": "connection_init"})
        await peer.expect("connection_ack")
        for number in range(events):
            peer.subscribe("publish", PUBLISH, number=number, size=SIZE)
            await peer.expect("complete")
    finally:
        peer.cut()


async def read(peer: Peer, events: int) -> list[int]:
    messages = [await peer.expect("next") for _ in range(events)]
    return [message["payload"]["data"]["numbers"]["number"] for message in messages]


async def held(server: Server) -> dict[str, int]:
    """Return what the server holds."""

    def ask() -> dict[str, int]:
        with urllib.request.urlopen(f"{server.http}/held", timeout=30) as answer:
            found: dict[str, int] = json.load(answer)
            return found

    return await asyncio.to_thread(ask)


async def test_readers_that_stall_keep_no_event_from_the_others(
    path: tuple[str, ...], tmp_path: Path
) -> None:
    patient = {"send_timeout": 600, "ping_interval": 600}
    with serving(APP, tmp_path, *path, program=NARROW, **patient) as server:
        async with (
            asyncio.timeout(120),
            subscribed(server, STALLED, buffer=2**12),
            subscribed(server, HEALTHY, buffer=2**16) as healthy,
        ):
            readings = [asyncio.create_task(read(peer, EVENTS)) for peer in healthy]
            await publish(server, EVENTS)
            assert await asyncio.gather(*readings) == [list(range(EVENTS))] * HEALTHY
            holding = await held(server)
            # Each of them reads on its own, however far it lags, and is still connected.
            assert holding["GraphQLTransportWSHandler"] >= STALLED + HEALTHY
            assert holding["Subscriber"] >= STALLED
        assert not server.trouble


@pytest.mark.parametrize("deadlines", DEADLINES.values(), ids=DEADLINES.keys())
async def test_a_peer_that_never_reads_again_is_disconnected(
    deadlines: dict[str, float], path: tuple[str, ...], tmp_path: Path
) -> None:
    with serving(APP, tmp_path, *path, program=NARROW, **deadlines) as server:
        before = await held(server)

        async def nobody_is_left() -> bool:
            now = await held(server)
            fewer = now["file descriptors"] <= before["file descriptors"]
            return fewer and not now.get("GraphQLTransportWSHandler")

        async with subscribed(server, 10, buffer=2**12) as stuck:
            await publish(server, EVENTS)
            await wait_until(nobody_is_left, seconds=30)
            for peer in stuck:
                assert isinstance(await peer.gone(), Gone)
        assert not server.trouble
