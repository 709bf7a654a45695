"""The same bytes and the same behaviour under every ASGI server."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.frames import CloseCode, Frame, Opcode

from tests.e2e.conftest import APP, ROOMY, SECRET
from tests.e2e.frames import FrameSocket, Seen, frame_socket
from tests.e2e.raw import open_socket
from tests.e2e.test_graphql_ws_client import NOTHING_AMISS, cursor, publish, resume
from tests.e2e.tokens import token
from tests.servers import DIRECT, GRANIAN, HYPERCORN, PATIENCE, UVICORN, Program, Server, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

NUMBERS = "subscription ($name: String!) { numbers(name: $name) { value } }"


@dataclass(frozen=True)
class Kind:
    program: Program
    arguments: tuple[str, ...] = ()


KINDS = {
    "direct": Kind(UVICORN, DIRECT),
    "uvicorn": Kind(UVICORN),
    "hypercorn": Kind(HYPERCORN),
    "granian": Kind(GRANIAN),
}


def serve(kind: Kind, directory: Path, **settings: Any) -> Any:
    return serving(APP, directory, *kind.arguments, program=kind.program, **{**ROOMY, **settings})


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def each(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(kind, tmp_path_factory.mktemp("each")) as server:
        yield server


@pytest.fixture(scope="module")
def each_locked(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(kind, tmp_path_factory.mktemp("each-locked"), jwt_secret=SECRET) as server:
        yield server


@pytest.fixture(autouse=True)
def quiet_log(request: pytest.FixtureRequest) -> Iterator[None]:
    names = {"each", "each_locked"} & set(request.fixturenames)
    servers: list[Server] = [request.getfixturevalue(name) for name in names]
    before = [len(server.trouble) for server in servers]
    yield
    after = [server.trouble[seen:] for server, seen in zip(servers, before, strict=True)]
    assert not any(after), after


async def numbers(socket: FrameSocket, id_: str, name: str, **payload: Any) -> None:
    await socket.subscribe(id_, NUMBERS, variables={"name": name}, **payload)


async def count(socket: FrameSocket, id_: str, to: int) -> None:
    await socket.subscribe(id_, "subscription ($to: Int!) { count(to: $to) }", variables={"to": to})


async def recorded(server: Server) -> list[Seen]:
    """Return the messages of a server in a session with all kinds of operations."""
    async with frame_socket(server.ws) as socket:
        await socket.send({"type": "connection_init"})
        seen = [await socket.frame()]
        await socket.send({"type": "ping", "payload": {"é": "😀"}})
        seen += await socket.frames(1)
        await socket.subscribe("query", '{ hello echo(text: "é😀\u2028") }')
        seen += await socket.frames(2)
        await socket.subscribe("large", f'{{ echo(text: "{"x" * 100_000}") }}')
        seen += await socket.frames(2)
        await count(socket, '"é😀\ud800', 3)
        seen += await socket.frames(4)
        await socket.subscribe("wrong", "{ unknown }")
        seen += await socket.frames(1)
        for id_ in ("1", "another", '"é😀', "i" * 256):
            await numbers(socket, id_, "bytes")
        await socket.settled()
        for value in (1, 2, 3):
            await asyncio.to_thread(publish, server, "bytes", value)
            # The order among operations that share a group is not defined.
            seen += sorted(await socket.frames(4), key=lambda frame: frame.data)
        await socket.send({"id": "1", "type": "complete"})
        await socket.settled()
        await asyncio.to_thread(publish, server, "bytes", 4)
        seen += sorted(await socket.frames(3), key=lambda frame: frame.data)
        await socket.send({"type": "connection_init"})
        return seen + await socket.until_closed()


def without_cursors(frame: Seen) -> tuple[int, Any]:
    if frame.opcode is not Opcode.TEXT:
        return frame.first, frame.data
    text = frame.data.decode()
    at = text.find('"cursor"')
    # A cursor starts with the time at which its topic was created.
    return frame.first, text if at < 0 else text[:at] + text[at:].partition("-")[2]


async def test_a_session_is_the_same_byte_for_byte(
    each: Server, each_reference: list[Seen]
) -> None:
    session = [without_cursors(frame) for frame in await recorded(each)]
    assert len(session) == 27
    assert session == [without_cursors(frame) for frame in each_reference]


@pytest.fixture(scope="module")
def each_reference(tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    """The session on the portable path."""
    with serving(APP, tmp_path_factory.mktemp("reference"), **ROOMY) as server:
        return asyncio.run(recorded(server))


def test_a_client_whose_socket_is_cut_at_random_misses_nothing(each: Server) -> None:
    result = resume(each, topics=["cut-a", "cut-b"], followers=2, events=60, cuts=20)
    assert result["counts"] == [{"received": 60, **NOTHING_AMISS}] * 4
    assert result["cut"] == 20


async def test_every_client_gets_a_burst_completely_and_in_order(each: Server) -> None:
    async with frame_socket(each.ws) as one, frame_socket(each.ws) as other:
        for socket in (one, other):
            await socket.init()
            await numbers(socket, "a", "burst")
            await numbers(socket, "b", "burst")
            await socket.settled()
        await asyncio.to_thread(publish, each, "burst", *range(200))
        for socket in (one, other):
            messages = [frame.message for frame in await socket.frames(400)]
            for id_ in ("a", "b"):
                payloads = [m["payload"]["data"] for m in messages if m["id"] == id_]
                assert payloads == [{"numbers": {"value": value}} for value in range(200)]


async def test_complete_ends_the_stream_and_nothing_follows(each: Server) -> None:
    async with frame_socket(each.ws) as socket:
        await socket.init()
        await numbers(socket, "a", "complete")
        await socket.settled()
        await socket.send({"id": "a", "type": "complete"})
        await socket.settled()
        await asyncio.to_thread(publish, each, "complete", 1)
        await socket.settled()


async def test_a_resumed_stream_continues_after_its_cursor(each: Server) -> None:
    first, *_ = await asyncio.to_thread(publish, each, "resumed", 1, 2, 3)
    async with frame_socket(each.ws) as socket:
        await socket.init()
        await numbers(socket, "a", "resumed", extensions={"after": first})
        values = [frame.message["payload"]["data"] for frame in await socket.frames(2)]
        assert values == [{"numbers": {"value": 2}}, {"numbers": {"value": 3}}]


@pytest.mark.parametrize(
    ("payload", "code"),
    [({}, 4401), ({"token": "nonsense"}, 4401), ({"token": token(expires_in=-60)}, 4403)],
)
async def test_a_token_that_will_not_do_closes_with_its_code(
    each_locked: Server, payload: Any, code: int
) -> None:
    async with frame_socket(each_locked.ws) as socket:
        await socket.send({"type": "connection_init", "payload": payload})
        [close] = await socket.until_closed()
        assert close.close.code == code
        assert close.close.reason


async def test_a_good_token_opens_the_door(each_locked: Server) -> None:
    async with open_socket(each_locked.ws) as socket:
        await socket.init({"token": token("dora")})
        assert await socket.query("{ subject }") == {"subject": "dora"}


async def test_the_clients_close_is_answered_and_ends_everything(each: Server) -> None:
    async with frame_socket(each.ws) as socket:
        await socket.init()
        await numbers(socket, "a", "closing")
        await count(socket, "b", 1)
        await socket.frames(2)
        await socket.send_frames(Frame(Opcode.CLOSE, (1000).to_bytes(2) + b"bye"))
        assert (await socket.frame()).close.code == 1000
        await socket.ended()
    await nothing_runs(each)


async def test_a_client_that_vanishes_during_a_burst_logs_no_error(each: Server) -> None:
    async with frame_socket(each.ws, buffer=1024) as socket:
        await socket.init()
        await socket.subscribe("a", "subscription { flood(size: 20000) }")
        await numbers(socket, "b", "vanished")
        await socket.frames(3)
        socket.abort()
    await asyncio.to_thread(publish, each, "vanished", 1)
    await nothing_runs(each)


async def nothing_runs(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.http) as http:

        async def idle() -> bool:
            tasks: list[str] = json.loads((await http.get("/tasks")).text)
            return not any("WSHandler" in name or "Connection" in name for name in tasks)

        await wait_until(idle)


def test_a_cursor_is_the_same_over_http(each: Server) -> None:
    [published] = publish(each, "http", 1)
    assert cursor(each, "http") == published


@pytest.mark.parametrize("arguments", [DIRECT, ()], ids=["direct", "uvicorn"])
async def test_the_end_of_the_process_closes_with_1012(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    with serving(APP, tmp_path, *arguments) as server:
        async with frame_socket(server.ws) as idle, frame_socket(server.ws) as busy:
            for socket in (idle, busy):
                await socket.init()
                await numbers(socket, "a", "end")
                await socket.settled()
            await busy.subscribe("b", '{ wait(gate: "end") }')
            await busy.settled()
            ending = asyncio.create_task(asyncio.to_thread(server.stop))
            for socket in (idle, busy):
                [close] = await socket.until_closed()
                assert close.close.code == CloseCode.SERVICE_RESTART
            await ending
    assert server.trouble == []


async def test_direct_frames_work_in_several_workers(tmp_path: Path) -> None:
    with serving(APP, tmp_path, *DIRECT, "--workers", "2") as server:
        await wait_until(lambda: server.log.count("startup complete") == 2, seconds=PATIENCE)
        for _ in range(10):
            async with frame_socket(server.ws) as socket:
                await socket.init()
                await count(socket, "a", 3)
                types = [frame.message["type"] for frame in await socket.frames(4)]
                assert types == ["next", "next", "next", "complete"]
