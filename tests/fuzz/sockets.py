"""Sends random conversations to a real server, and reports the outcome of each."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import httpx
from websockets.frames import Opcode

from tests.e2e.raw import open_socket
from tests.fuzz.inputs import Input, make
from tests.servers import DIRECT, NO_TLS, PATIENCE, Server
from tests.waiting import wait_until

APP = "tests.fuzz.app:app"
CLOSED = {1000, 1001, 1002, 1003, 1005, 1007, 1008, 1009, 1012, 1013, *range(4400, 4500)}
_SIGNS = ("Traceback", "ERROR", "CRITICAL")
# uvicorn's own class never answers a request with longer lines.
_LONGEST_LINE = 8192


@dataclass
class Report:
    """The outcomes of the inputs."""

    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return self.outcomes.total()

    def __str__(self) -> str:
        rows = [f"{count:8} {name}" for name, count in self.outcomes.most_common()]
        kinds = ", ".join(f"{count} {name}" for name, count in self.kinds.most_common())
        return "\n".join([f"{self.inputs} inputs, seed {self.seed}: {kinds}", *rows])


class Wrong(Exception):
    """The server did something that it must not do."""


class Unclosed(Wrong):
    """The server closed the connection without a close frame.

    uvicorn's own class does that, with a traceback, if a text that is not UTF-8 and a close frame
    arrive in the same bytes.
    """


async def play(
    server: Server,
    seed: int,
    *,
    inputs: int = 10**9,
    seconds: float = 10**9,
    at_once: int = 16,
) -> Report:
    """Send a number of inputs, or for some time, and then check what is left."""
    report = Report(seed)
    before = await _left(server)
    ends = time.monotonic() + seconds
    numbers = iter(range(inputs))

    async def player() -> None:
        for number in numbers:
            if time.monotonic() > ends or len(report.problems) > 20:
                return
            given = make(Random(f"{seed} {number}"))
            if _is_direct(server) or max(map(len, given.handshake.split(b"\r\n"))) < _LONGEST_LINE:
                await _play_one(server, given, report, number)

    await asyncio.gather(*(player() for _ in range(at_once)))
    with_problems = [*_trouble(server), *(await _afterwards(server, before))]
    report.problems += with_problems
    return report


async def _play_one(server: Server, given: Input, report: Report, number: int) -> None:
    report.kinds[given.kind] += 1
    outcome = "wrong"
    try:
        async with asyncio.timeout(PATIENCE):
            outcome = await _outcome(server.port, given)
    except TimeoutError:
        outcome = "no end"
        report.problems.append(f"input {number} ({given.kind}): not ended by the server")
    except Wrong as wrong:
        outcome = str(wrong)
        if isinstance(wrong, Unclosed) and not _is_direct(server):
            return
        report.problems.append(f"input {number} ({given.kind}): {wrong}")
    finally:
        report.outcomes[outcome] += 1


async def _outcome(port: int, given: Input) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(given.handshake)
        if not given.answered:
            return "left before the handshake"
        status = await _status(reader)
        if status != 101 or not given.frames:
            return f"HTTP {status}"
        return await _talk(reader, writer, given)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def _status(reader: asyncio.StreamReader) -> int:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise Wrong(f"no answer to the handshake: {error}") from None
    status = int(head.split()[1])
    if status >= 500 and status != 505:
        raise Wrong(f"answered with HTTP {status}")
    return status


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: Input) -> str:
    writing = asyncio.create_task(_write(writer, given))
    try:
        if not given.whole:
            await writing
            return "left in the middle"
        return await _until_the_end(reader, given)
    finally:
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing


async def _write(writer: asyncio.StreamWriter, given: Input) -> None:
    with suppress(ConnectionError):
        for frame in given.frames:
            writer.write(frame)
            await writer.drain()


async def _until_the_end(reader: asyncio.StreamReader, given: Input) -> str:
    try:
        data = await reader.read(-1)
    except ConnectionError:
        # The server closed before it had read everything, so its last messages may be lost.
        return "reset"
    close: int | None = None
    for opcode, payload in _frames(data):
        if close is not None and opcode not in (Opcode.PING, Opcode.PONG):
            raise Wrong("a frame behind the close frame")
        if opcode is Opcode.CLOSE:
            close = int.from_bytes(payload[:2]) if payload else 1005
        if opcode is Opcode.TEXT:
            payload.decode()
    if close is None:
        raise Unclosed("ended without a close frame")
    if close not in CLOSED | given.close_codes:
        raise Wrong(f"closed with {close}")
    return f"closed with {close if close in CLOSED else 'the code of the client'}"


def _frames(data: bytes) -> Iterator[tuple[Opcode, bytes]]:
    while data:
        first, size, start = data[0], data[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start])
        if not first & 0x80 or len(data) < start + size:
            raise Wrong("half a frame at the end")
        payload = data[start : start + size]
        yield Opcode(first & 0x0F), b"" if first & 0x40 else payload
        data = data[start + size :]


def _trouble(server: Server) -> list[str]:
    # uvicorn's own class logs a traceback for every message that is not UTF-8.
    signs = _SIGNS if _is_direct(server) else ()
    lines = server.log.splitlines()
    return server.trouble + [line for line in lines if any(sign in line for sign in signs)][:5]


def _is_direct(server: Server) -> bool:
    return tuple(server.arguments) == DIRECT


async def _afterwards(server: Server, before: dict[str, int]) -> list[str]:
    try:
        await _serves_a_normal_client(server)
        await wait_until(lambda: _is_left(server, before), seconds=PATIENCE)
    except (AssertionError, TimeoutError, OSError) as error:
        return [f"afterwards: {error!r}; {before} before, {await _left(server)} left"]
    return []


async def _serves_a_normal_client(server: Server) -> None:
    async with open_socket(server.ws) as socket:
        await socket.init()
        await socket.subscribe("1", 'subscription { numbers(name: "normal") { value } }')
        await socket.is_silent()
        await socket.subscribe("2", 'mutation { publish(name: "normal", value: 7) }')
        answers = [await socket.receive() for _ in range(3)]
        assert {"numbers": {"value": 7}} in [
            answer["payload"]["data"] for answer in answers if answer["type"] == "next"
        ], answers


async def _is_left(server: Server, before: dict[str, int]) -> bool:
    left = await _left(server)
    return all(left[name] <= count for name, count in before.items())


async def _left(server: Server) -> dict[str, int]:
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=PATIENCE) as client:
        left: dict[str, int] = (await client.get(f"{server.http}/left")).json()
        return left
