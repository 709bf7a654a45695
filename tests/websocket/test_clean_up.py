"""A connection leaves nothing in a real server, however it ends."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import APP
from tests.e2e.raw import Socket, open_socket
from tests.servers import NO_TLS, PATIENCE, Server, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

WAITING = 'subscription { ticks(gate: "shut") }'
TOPIC = 'subscription { numbers(name: "a") { value } }'
FLOOD = "subscription { flood(size: 100000) }"


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory: Path = tmp_path_factory.mktemp("clean-up")
    with serving(APP, directory, ping_interval=0.5, ping_timeout=0.5, topic_linger=0) as server:
        yield server
        assert server.trouble == [], server.log


class Tasks:
    """The tasks in the server's event loop, compared with those at the start."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._before: list[str] = []

    async def running(self) -> list[str]:
        found: list[str] = (await self._client.get("/tasks")).json()
        return found

    async def remember(self) -> None:
        self._before = await self.running()

    async def grew_by(self, number: int) -> bool:
        return len(await self.running()) >= len(self._before) + number

    async def are_as_before(self) -> bool:
        return await self.running() == self._before


@pytest.fixture
async def tasks(hasty: Server) -> AsyncIterator[Tasks]:
    async with httpx.AsyncClient(base_url=hasty.http, trust_env=False, verify=NO_TLS) as client:
        tasks = Tasks(client)
        await tasks.remember()
        yield tasks
        await wait_until(tasks.are_as_before, seconds=PATIENCE)


async def busy(socket: Socket) -> None:
    await socket.init()
    await socket.subscribe("generator", WAITING)
    await socket.next("generator")
    await socket.subscribe("topic", TOPIC)
    await socket.subscribe("query", '{ wait(gate: "shut") }')


async def test_a_normal_end_leaves_no_task(hasty: Server, tasks: Tasks) -> None:
    async with open_socket(hasty.ws) as socket:
        await busy(socket)
        await wait_until(lambda: tasks.grew_by(4))


async def test_an_abrupt_death_leaves_no_task(hasty: Server, tasks: Tasks) -> None:
    for _ in range(5):
        async with open_socket(hasty.ws) as socket:
            await busy(socket)
            await wait_until(lambda: tasks.grew_by(4))
            socket.connection.transport.abort()


@pytest.mark.parametrize("init", [False, True])
async def test_death_before_or_amid_init_leaves_no_task(
    hasty: Server, tasks: Tasks, init: bool
) -> None:
    async with open_socket(hasty.ws) as socket:
        if init:
            await socket.send({"type": "connection_init", "payload": {"wait": "never"}})
        await wait_until(lambda: tasks.grew_by(1))
        socket.connection.transport.abort()


async def test_a_close_by_the_server_leaves_no_task(hasty: Server, tasks: Tasks) -> None:
    async with open_socket(hasty.ws) as socket:
        await busy(socket)
        await socket.send({"type": "unknown"})
        assert (await socket.closed()).code == 4400


async def test_completed_operations_leave_no_task(hasty: Server, tasks: Tasks) -> None:
    async with open_socket(hasty.ws) as socket:
        await socket.init()
        await wait_until(lambda: tasks.grew_by(1))
        idle = Tasks(tasks._client)
        await idle.remember()
        for _ in range(20):
            await socket.subscribe("1", WAITING)
            await socket.next("1")
            await socket.complete("1")
            await socket.query("{ hello }")
        await wait_until(idle.are_as_before)


async def test_a_peer_that_never_reads_is_disconnected_within_the_ping_deadline(
    hasty: Server, tasks: Tasks
) -> None:
    async with open_socket(hasty.ws, ping_interval=None, max_queue=1) as socket:
        await socket.init()
        for number in range(10):
            await socket.subscribe(str(number), FLOOD)
        await wait_until(lambda: tasks.grew_by(10))
        # The client reads no more than its own queue takes, and answers no ping.
        await wait_until(tasks.are_as_before, seconds=PATIENCE)
        socket.connection.transport.abort()


async def test_a_peer_that_writes_but_never_reads_is_disconnected(
    hasty: Server, tasks: Tasks
) -> None:
    async with open_socket(hasty.ws, ping_interval=None, max_queue=1, compression=None) as socket:
        await socket.init()
        await wait_until(lambda: tasks.grew_by(1))
        writing = asyncio.create_task(write_forever(socket))
        await wait_until(tasks.are_as_before, seconds=PATIENCE)
        writing.cancel()
        await asyncio.wait([writing])
        socket.connection.transport.abort()


async def write_forever(socket: Socket) -> None:
    while True:
        await socket.send({"type": "ping", "payload": {"x": "x" * 50_000}})


@pytest.mark.parametrize("document", [FLOOD, "subscription { endless }"])
async def test_a_peer_that_leaves_during_a_stream_logs_no_error(
    hasty: Server, tasks: Tasks, document: str
) -> None:
    for _ in range(3):
        # It sends a close frame, and does not wait for messages on their way.
        async with open_socket(hasty.ws, close_timeout=0.2) as socket:
            await socket.init()
            await socket.subscribe("1", document)
            await socket.send(*({"type": "ping"} for _ in range(200)))
            await socket.receive()
    await wait_until(tasks.are_as_before, seconds=PATIENCE)
    assert hasty.trouble == [], hasty.log


async def test_an_endless_stream_lets_the_server_answer_others(hasty: Server, tasks: Tasks) -> None:
    async with open_socket(hasty.ws, ping_interval=None, max_queue=1) as socket:
        await socket.init()
        await socket.subscribe("1", "subscription { endless }")
        await socket.next("1")
        async with open_socket(hasty.ws) as other, asyncio.timeout(PATIENCE / 3):
            await other.init()
            assert await other.query("{ hello }") == {"hello": "world"}
        socket.connection.transport.abort()
