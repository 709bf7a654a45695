"""A server that stops: what it still does, what its clients see, and when it exits."""

import asyncio
import os
import re
import signal
import sqlite3
import time
from bisect import bisect
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import CloseCode, Opcode

from gqlnotify import Settings, TopicManager
from schema.types import TASKS
from tests.applications import bearer
from tests.e2e.app import NUMBERS, Number
from tests.e2e.conftest import APP, SECRET
from tests.e2e.frames import FrameSocket, Seen, frame_socket
from tests.e2e.raw import Socket, open_socket
from tests.ports import refusing_port
from tests.schema.client import operation
from tests.servers import DRAINING_UVICORN, PATIENCE, SERVE, Program, Server, serving
from tests.waiting import SCALE, wait_until

pytestmark = pytest.mark.processes

MARGIN = 5.0
SLACK = 6 * SCALE
"""What a busy machine may add to the promised times."""
FOLLOW = 'subscription { numbers(name: "drain") { value } }'
TWO = ("--workers", "2")
EVERY = [(SERVE, ()), (SERVE, TWO), (DRAINING_UVICORN, ())]
NAMES = ["serve", "serve-workers", "uvicorn"]
each_server = pytest.mark.parametrize(("program", "arguments"), EVERY, ids=NAMES)
# One of each kind: a worker process and a single process.
each_program = pytest.mark.parametrize(
    "program", [SERVE, DRAINING_UVICORN], ids=["serve", "uvicorn"]
)
each_of_ours = pytest.mark.parametrize("arguments", [(), TWO], ids=["one", "workers"])


@contextmanager
def up(
    directory: Path,
    *arguments: str,
    program: Program = SERVE,
    application: str = APP,
    window: float = 3,
    **settings: Any,
) -> Iterator[Server]:
    """Serve, and yield once every process is ready."""
    settings |= {
        "drain_window": window,
        "jwt_secret": SECRET,
        "max_connections_per_subject": 1000,
        "ping_interval": 600,
    }
    with serving(application, directory, *arguments, program=program, **settings) as server:
        deadline = time.monotonic() + PATIENCE
        while server.log.count("Application startup complete") < (2 if arguments else 1):
            assert time.monotonic() < deadline, server.log
            time.sleep(0.02)
        yield server


class Start(Protocol):
    """Serves like `up`, in the directory and with the broker of this test."""

    def __call__(
        self,
        *arguments: str,
        program: Program = SERVE,
        application: str = APP,
        window: float = 3,
        **settings: Any,
    ) -> AbstractContextManager[Server]: ...


@pytest.fixture
def broker(redis_url: str) -> dict[str, str]:
    return {"broker_url": redis_url, "broker_prefix": f"drain-{token_hex(4)}"}


@pytest.fixture
def start(broker: dict[str, str], tmp_path: Path) -> Start:
    settings: dict[str, Any] = {"database_url": f"sqlite:///{tmp_path}/tasks.db", **broker}
    return partial(up, tmp_path, **settings)


@pytest.fixture
async def topics(broker: dict[str, str]) -> AsyncIterator[TopicManager]:
    manager = TopicManager(settings=Settings(**broker))  # type: ignore[arg-type]
    yield manager
    await manager.close()


@asynccontextmanager
async def clients(server: Server, count: int) -> AsyncIterator[list[Socket]]:
    async with AsyncExitStack() as sockets:
        yield [await sockets.enter_async_context(client(server)) for _ in range(count)]


@asynccontextmanager
async def client(server: Server) -> AsyncIterator[Socket]:
    async with open_socket(server.ws, ping_interval=None) as socket:
        await socket.init(bearer())
        await socket.subscribe("1", FOLLOW)
        await socket.is_silent()
        yield socket


def tell(server: Server, number: int = signal.SIGTERM) -> None:
    assert server.process is not None
    server.process.send_signal(number)


async def gone(server: Server, seconds: float) -> int:
    """Return the exit status of the process, which must end within these seconds."""
    assert server.process is not None
    return await asyncio.to_thread(server.process.wait, seconds)


def trouble(server: Server) -> list[str]:
    # The parent of uvicorn's workers ends without closing their listening socket.
    return [line for line in server.trouble if "ResourceWarning" not in line]


def processes(server: Server) -> list[int]:
    """Return the ids of the processes that serve."""
    return [int(found) for found in re.findall(r"Started server process \[(\d+)\]", server.log)]


def runs(process: int) -> bool:
    with suppress(OSError):
        # A process that has ended, but was not waited for, still exists.
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    return False


async def until_draining(http: httpx.AsyncClient) -> None:
    async def is_draining() -> bool:
        # Each worker gets the signal separately, and each new connection may reach another one.
        closing = {"connection": "close"}
        answers = [await http.get("/readyz", headers=closing) for _ in range(16)]
        return {answer.status_code for answer in answers} == {503}

    await wait_until(is_draining, seconds=PATIENCE)


# What the sockets see


@each_server
async def test_sockets_close_with_1012_evenly_over_the_window(
    program: Program, arguments: Sequence[str], start: Start
) -> None:
    window, count = 3.0, 60

    async def end(socket: Socket) -> tuple[float, int]:
        close = await socket.closed()
        return time.monotonic(), close.code

    with start(*arguments, program=program, window=window) as server:
        async with clients(server, count) as sockets:
            signalled = time.monotonic()
            tell(server)
            ends = await asyncio.gather(*map(end, sockets))
        await gone(server, PATIENCE)

    times = sorted(at for at, _ in ends)
    assert {code for _, code in ends} == {CloseCode.SERVICE_RESTART}
    assert window * 0.7 < times[-1] - signalled < window + MARGIN + SLACK
    # Roughly: a busy machine notices closes late. tests/test_drain.py checks the exact times.
    clump = max(bisect(times, at + window / 10) - place for place, at in enumerate(times))
    assert clump < count * 0.7
    assert trouble(server) == []


@each_program
async def test_events_published_before_the_drain_are_sent_before_the_close(
    program: Program, start: Start, topics: TopicManager
) -> None:
    with start(program=program, window=1) as server:
        async with clients(server, 4) as sockets:
            for value in range(50):
                await topics.publish(NUMBERS(name="drain"), Number(value=value))
            for socket in sockets:
                assert (await socket.next("1"))["data"]["numbers"]["value"] == 0
            tell(server)
            for socket in sockets:
                seen = [(await socket.next("1"))["data"]["numbers"]["value"] for _ in range(49)]
                assert seen == list(range(1, 50))
                assert (await socket.closed()).code == CloseCode.SERVICE_RESTART
        await gone(server, PATIENCE)
    assert trouble(server) == []


@each_program
async def test_a_mutation_that_runs_is_answered_and_its_event_is_in_the_broker(
    program: Program, start: Start, topics: TopicManager
) -> None:
    before = await topics.cursor(NUMBERS(name="slow"))
    with start(program=program, window=0) as server:
        async with client(server) as socket:
            slow = 'mutation { publishSlowly(name: "slow", value: 7, seconds: 1.5) }'
            await socket.subscribe("m", slow)
            await socket.is_silent()
            tell(server)
            answer = await socket.next("m")
            await socket.completed("m")
            assert (await socket.closed()).code == CloseCode.SERVICE_RESTART
        await gone(server, PATIENCE)
    events = topics.subscribe(NUMBERS(name="slow"), after=before)
    assert (await anext(events)).value == 7
    assert answer["data"]["publishSlowly"] == str(events.cursor)
    assert trouble(server) == []


async def test_a_change_that_waits_for_the_database_is_committed_and_published(
    start: Start, topics: TopicManager, tmp_path: Path
) -> None:
    file = tmp_path / "tasks.db"
    before = await topics.cursor(TASKS)
    with start(application="schema.app:app", window=0) as server:
        lock = sqlite3.connect(file, isolation_level=None)
        async with open_socket(server.ws) as socket:
            await socket.init(bearer())
            lock.execute("BEGIN EXCLUSIVE")
            await socket.subscribe(
                "m", operation("createTask"), variables={"input": {"title": "late"}}
            )
            await socket.is_silent()
            tell(server)
            await wait_until(lambda: "Draining" in server.log, seconds=PATIENCE)
            lock.execute("COMMIT")
            created = (await socket.next("m"))["data"]["createTask"]
            await socket.completed("m")
            assert (await socket.closed()).code == CloseCode.SERVICE_RESTART
        lock.close()
        await gone(server, PATIENCE)
    event = await anext(topics.subscribe(TASKS, after=before))
    assert created["title"] == event.task.title == "late"
    assert trouble(server) == []


@each_program
async def test_an_operation_without_an_end_does_not_hold_up_the_process(
    program: Program, start: Start
) -> None:
    with start(program=program, window=1) as server:
        async with client(server) as socket:
            await socket.subscribe("q", '{ wait(gate: "never") }')
            await socket.is_silent()
            begun = time.monotonic()
            tell(server)
            assert (await socket.closed()).code == CloseCode.SERVICE_RESTART
        await gone(server, PATIENCE)
        assert time.monotonic() - begun < 1 + MARGIN + SLACK


async def test_an_operation_during_the_drain_is_not_started(start: Start) -> None:
    with start(window=0) as server:
        async with client(server) as socket:
            slow = 'mutation { publishSlowly(name: "slow", value: 7, seconds: 2) }'
            await socket.subscribe("m", slow)
            await socket.is_silent()
            tell(server)
            await wait_until(lambda: "Draining" in server.log, seconds=PATIENCE)
            # The drain starts two ticks of the event loop later. Each answer takes at least one.
            for _ in range(4):
                await socket.is_silent()
            # Its messages are answered while an operation is running.
            await socket.send({"type": "ping"})
            await socket.subscribe("late", "{ hello }")
            seen: list[dict[str, Any]] = []
            while not seen or seen[-1] != {"type": "complete", "id": "m"}:
                seen.append(await socket.receive())
            assert (await socket.closed()).code == CloseCode.SERVICE_RESTART
    assert {"type": "pong"} in seen
    assert "late" not in {message.get("id") for message in seen}, (seen, server.log[-1500:])


# Peers that do not cooperate


@each_server
async def test_no_peer_holds_up_the_process(
    program: Program, arguments: Sequence[str], start: Start
) -> None:
    with start(*arguments, program=program, window=1) as server:
        async with AsyncExitStack() as peers:
            for _ in range(3):
                await peers.enter_async_context(deaf(server))
                await peers.enter_async_context(mute(server))
            begun = time.monotonic()
            tell(server)
            await gone(server, PATIENCE)
            assert time.monotonic() - begun < 1 + MARGIN + SLACK
    assert trouble(server) == []


@asynccontextmanager
async def deaf(server: Server) -> AsyncIterator[None]:
    """A peer that does not read an endless stream."""
    async with frame_socket(server.ws, buffer=1024) as socket:
        await socket.send({"type": "connection_init", "payload": bearer()})
        await socket.frame()
        await socket.subscribe("1", "subscription { flood(size: 200000) }")
        await socket.frame()
        yield
        socket.abort()


@asynccontextmanager
async def mute(server: Server) -> AsyncIterator[None]:
    """A peer that reads, but never answers a close frame."""
    async with frame_socket(server.ws) as socket:
        await socket.send({"type": "connection_init", "payload": bearer()})
        await socket.frame()
        # At once: the server resets the connection at the end, which drops unread data.
        closing = asyncio.create_task(_closing(socket))
        yield
        assert (await closing).close.code == CloseCode.SERVICE_RESTART
        socket.abort()


async def _closing(socket: FrameSocket) -> Seen:
    while (frame := await socket.frame()).opcode is not Opcode.CLOSE:
        pass
    return frame


# Other requests during the drain


@each_of_ours
async def test_a_draining_process_is_not_ready_and_refuses_only_sockets(
    arguments: Sequence[str], start: Start
) -> None:
    # The drain takes longer than the test.
    with start(*arguments, application="schema.app:app", window=60) as server:
        async with AsyncExitStack() as stack:
            for _ in range(40):
                socket = await stack.enter_async_context(open_socket(server.ws))
                await socket.init(bearer())
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=server.http))
            assert (await http.get("/readyz")).status_code == 200
            tell(server)
            await until_draining(http)

            unready = await http.get("/readyz")
            alive = await http.get("/healthz")
            query = {"query": "{ me { subject } }"}
            answer = await http.post("/graphql", json=query, headers=bearer())
            with pytest.raises(InvalidStatus) as refusal:
                await stack.enter_async_context(open_socket(server.ws))

            assert (unready.status_code, unready.json()) == (503, {"server": "draining"})
            assert alive.status_code == 200
            assert answer.json() == {"data": {"me": {"subject": "alice"}}}
            assert answer.headers["connection"] == "close"
            assert refusal.value.response.status_code == 503
            assert refusal.value.response.headers["retry-after"] == "1"
            tell(server)
        await gone(server, PATIENCE)


@pytest.mark.parametrize(("program", "arguments"), EVERY[2:], ids=NAMES[2:])
async def test_plain_uvicorn_stops_listening_and_the_sockets_close(
    program: Program, arguments: Sequence[str], start: Start
) -> None:
    with start(*arguments, program=program) as server:
        async with clients(server, 10) as sockets:
            tell(server)
            assert (await sockets[0].closed()).code == CloseCode.SERVICE_RESTART
        await gone(server, PATIENCE)
        with pytest.raises(OSError, match="Connect call failed"):
            async with open_socket(server.ws):
                pass


@each_server
async def test_a_request_in_flight_is_answered(
    program: Program, arguments: Sequence[str], start: Start
) -> None:
    slow = {"query": 'mutation { publishSlowly(name: "slow", value: 7, seconds: 1.5) }'}
    with start(*arguments, program=program, window=0) as server:
        async with httpx.AsyncClient(base_url=server.http, timeout=PATIENCE) as http:
            request = asyncio.create_task(http.post("/graphql", json=slow, headers=bearer()))
            begun = {"query": '{ ended(gate: "begun slow") }'}

            async def has_begun() -> bool:
                # Any worker may answer: each new connection may reach another one.
                headers = {**bearer(), "connection": "close"}
                seen = (await http.post("/graphql", json=begun, headers=headers)).json()
                return bool(seen == {"data": {"ended": True}})

            await wait_until(has_begun, seconds=PATIENCE)
            tell(server)
            answer = await request
        await gone(server, PATIENCE)
    assert answer.json()["data"]["publishSlowly"]
    assert trouble(server) == []


@each_of_ours
async def test_an_idle_connection_gets_one_more_answer_and_does_not_delay_the_exit(
    arguments: Sequence[str], start: Start
) -> None:
    with start(*arguments, window=1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        never_asks, never_asked = await asyncio.open_connection("127.0.0.1", server.port)
        async with clients(server, 4):
            await ask(writer)
            assert b"connection: close" not in await head(reader)
            tell(server)
            processes = 2 if arguments else 1
            await wait_until(
                lambda: server.log.count("Draining over") == processes, seconds=PATIENCE
            )
            await ask(writer)
            assert b"connection: close" in await head(reader)
            begun = time.monotonic()
            await gone(server, PATIENCE)
        assert await never_asks.read() == b""
        assert time.monotonic() - begun < 1 + MARGIN + SLACK
        writer.close()
        never_asked.close()
    assert trouble(server) == []


async def ask(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HEAD /nothing HTTP/1.1\r\nhost: here\r\n\r\n")
    await writer.drain()


async def head(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return (await reader.readuntil(b"\r\n\r\n")).lower()


@pytest.mark.parametrize(
    ("program", "accept"),
    [
        (SERVE, "text/event-stream"),
        (DRAINING_UVICORN, "multipart/mixed;subscriptionSpec=1.0"),
    ],
    ids=["serve", "uvicorn"],
)
async def test_a_stream_over_http_is_cut_so_that_its_client_reconnects(
    program: Program, accept: str, start: Start
) -> None:
    headers = {**bearer(), "accept": accept}
    body = {"query": operation("taskEvents")}
    with start(program=program, application="schema.app:app", window=0.5) as server:
        async with httpx.AsyncClient(base_url=server.http, timeout=PATIENCE) as http:
            async with http.stream("POST", "/graphql", json=body, headers=headers) as answer:
                assert answer.status_code == 200
                begun = time.monotonic()
                tell(server)
                with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                    [chunk async for chunk in answer.aiter_bytes()]
            await gone(server, PATIENCE)
            assert time.monotonic() - begun < 0.5 + MARGIN + SLACK
    assert trouble(server) == []


# Signals


@pytest.mark.parametrize(
    ("arguments", "first", "second"),
    [
        ((), signal.SIGTERM, signal.SIGINT),
        ((), signal.SIGINT, signal.SIGTERM),
        (TWO, signal.SIGTERM, signal.SIGTERM),
        (TWO, signal.SIGINT, signal.SIGINT),
    ],
)
async def test_a_second_signal_ends_the_drain_at_once(
    arguments: Sequence[str], first: int, second: int, start: Start
) -> None:
    with start(*arguments, window=120) as server:
        async with clients(server, 10):
            serving = processes(server)
            tell(server, first)
            await wait_until(lambda: "Draining" in server.log, seconds=PATIENCE)
            assert all(map(runs, serving))
            tell(server, second)
            assert await gone(server, PATIENCE) == 128 + second
            await wait_until(lambda: not any(map(runs, serving)), seconds=PATIENCE)


async def test_a_signal_to_every_process_at_once_drains_completely(start: Start) -> None:
    with start(*TWO, window=2) as server:
        async with clients(server, 20) as sockets:
            # As systemd does it. The supervisor passes on its signal as well.
            for process in (*processes(server), server.process.pid):  # type: ignore[union-attr]
                os.kill(process, signal.SIGTERM)
            codes = {(await socket.closed()).code for socket in sockets}
        await gone(server, PATIENCE)
    assert codes == {CloseCode.SERVICE_RESTART}
    assert trouble(server) == []


async def test_a_worker_that_gets_sigterm_drains_and_is_replaced(start: Start) -> None:
    with start(*TWO, window=1) as server:
        async with clients(server, 20) as sockets:
            one, other = processes(server)
            os.kill(one, signal.SIGTERM)
            os.kill(other, signal.SIGKILL)
            await wait_until(lambda: len(processes(server)) == 4, seconds=PATIENCE)
            for socket in sockets:
                with suppress(AssertionError):
                    # The sockets of the killed process get no close frame.
                    assert (await socket.closed()).code == CloseCode.SERVICE_RESTART
            await wait_until(lambda: server.log.count("startup complete") == 4, seconds=PATIENCE)
        async with clients(server, 4) as sockets:
            tell(server)
            codes = {(await socket.closed()).code for socket in sockets}
        await gone(server, PATIENCE)
    assert codes == {CloseCode.SERVICE_RESTART}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_without_clients_exits_at_once(number: int, start: Start) -> None:
    with start(window=120) as server:
        tell(server, number)
        await gone(server, PATIENCE)
    assert "Application shutdown complete" in server.log
    assert trouble(server) == []


@pytest.fixture
def unreachable() -> Iterator[str]:
    """The URL of a Redis that is down."""
    with refusing_port() as port:
        yield f"redis://127.0.0.1:{port}"


async def test_a_second_signal_ends_a_start(unreachable: str, tmp_path: Path) -> None:
    settings = {"broker_url": unreachable, "broker_wait": 600, "jwt_secret": SECRET}
    said = Program(SERVE.command, "Waiting for application startup")
    with serving(APP, tmp_path, program=said, **settings) as server:
        # Not the same signal twice: both might be delivered as one.
        tell(server, signal.SIGTERM)
        tell(server, signal.SIGINT)
        assert await gone(server, PATIENCE) in {128 + signal.SIGINT, 128 + signal.SIGTERM}


@each_of_ours
async def test_a_signal_during_the_start_ends_the_process_once_it_has_started(
    arguments: Sequence[str], unreachable: str, tmp_path: Path
) -> None:
    settings = {"broker_url": unreachable, "broker_wait": 1, "jwt_secret": SECRET}
    said = Program(SERVE.command, "Waiting for application startup")
    with serving(APP, tmp_path, *arguments, program=said, **settings) as server:
        tell(server)
        await gone(server, PATIENCE)
