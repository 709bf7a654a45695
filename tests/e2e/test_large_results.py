"""A large result ends no healthy connection, and its operation runs once."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import APP
from tests.narrow import NARROW
from tests.servers import NO_TLS, PATIENCE, Server, run_node, serving
from tests.soak.peer import Peer
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

MB = 1_000_000
EXPORT = "mutation ($name: String!, $size: Int!) { export(name: $name, size: $size) }"
IMPATIENT: dict[str, Any] = {"send_timeout": 0.5, "ping_interval": 0.5, "ping_timeout": 0.5}


def exports(server: Server, name: str) -> int:
    query = {"query": f'{{ exports(name: "{name}") }}'}
    answer = httpx.post(
        f"{server.http}/graphql", json=query, trust_env=False, verify=NO_TLS, timeout=30
    )
    return int(answer.json()["data"]["exports"])


def export(server: Server, name: str, *, size: int, times: int = 1, pause: float = 0) -> None:
    """Run the real client, and check that it got everything on one connection."""
    result = run_node(
        "export.mjs",
        url=f"{server.ws}/graphql",
        name=name,
        size=size,
        times=times,
        pause=pause,
    )
    assert result == {"lengths": [size] * times, "closes": [], "connections": 1}
    assert exports(server, name) == times


@pytest.mark.parametrize(("size", "times"), [(20 * MB, 1), (100_000, 100)])
def test_a_client_that_reads_gets_results_of_any_size(
    server: Server, size: int, times: int
) -> None:
    export(server, f"{size} x {times}", size=size, times=times)


def test_a_slow_but_steady_reader_takes_its_time(path: tuple[str, ...], tmp_path: Path) -> None:
    # At 64 KiB every 20 ms the results take longer than each deadline.
    with serving(APP, tmp_path, *path, program=NARROW, **IMPATIENT) as server:
        export(server, "slow", size=2 * MB, times=3, pause=20)
        assert not server.trouble


async def test_the_output_that_waits_for_a_silent_peer_is_bounded(
    path: tuple[str, ...], tmp_path: Path
) -> None:
    with serving(APP, tmp_path, *path, program=NARROW, send_timeout=1) as server:
        peer = await Peer.connect(server.port, buffer=2**12)
        peer.send({"type": "connection_init"})
        await peer.expect("connection_ack")
        for number in range(100):
            peer.subscribe(str(number), EXPORT, name="unread", size=10 * MB)
        await wait_until(lambda: is_alone(server), seconds=PATIENCE)
        # The other operations were not executed: their results would also need memory.
        assert 1 <= exports(server, "unread") <= 2
        peer.cut()
        assert not server.trouble


async def is_alone(server: Server) -> bool:
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=PATIENCE) as client:
        return bool((await client.get(f"{server.http}/connections")).json() == 0)


def test_operations_start_again_once_the_peer_has_read(
    path: tuple[str, ...], tmp_path: Path
) -> None:
    with serving(APP, tmp_path, *path, program=NARROW, outgoing_max_bytes=1) as server:
        export(server, "again", size=MB, times=10)
