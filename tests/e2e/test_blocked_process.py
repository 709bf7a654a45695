"""A process that was blocked disconnects no client for that."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import APP
from tests.e2e.raw import open_socket
from tests.servers import DIRECT, patience, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

# Each of these is shorter than the time for which the process is blocked.
IMPATIENT: dict[str, Any] = {
    "ping_interval": 0.2,
    "ping_timeout": 1,
    "connection_init_wait": 1,
    "handshake_timeout": 1,
}
# uvicorn's own pings, whose deadline only our protocol class extends.
PINGS = ("--ws-ping-interval", "0.2", "--ws-ping-timeout", "1")
NO_PINGS = ("--ws-ping-interval", "0")
BLOCK = "query ($sign: String!) { block(seconds: 3, sign: $sign) }"


async def test_a_client_that_answers_while_the_process_is_blocked_stays_connected(
    path: tuple[str, ...], tmp_path: Path
) -> None:
    sign = tmp_path / "blocked"
    arguments = (*path, *PINGS) if path == DIRECT else NO_PINGS
    with serving(APP, tmp_path, *arguments, **IMPATIENT) as server:
        async with patience(), open_socket(server.ws) as pinged, open_socket(server.ws) as blocker:
            await pinged.init()
            await blocker.init()
            assert await pinged.receive() == {"type": "ping"}
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            async with open_socket(server.ws) as late:
                await blocker.subscribe("1", BLOCK, variables={"sign": str(sign)})
                await wait_until(sign.exists)
                await pinged.send({"type": "pong"})
                await late.send({"type": "connection_init"})
                writer.write(b"GET /connections HTTP/1.1\r\nHost: localhost\r\n\r\n")
                while (await late.receive())["type"] != "connection_ack":
                    pass
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
                assert await pinged.query("{ hello }") == {"hello": "world"}
                writer.close()
