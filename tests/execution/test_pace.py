"""Work that blocks the event loop leaves the same time to other tasks."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic, sleep, thread_time
from typing import Any

import graphql
import pytest
from strawberry.extensions import MaxAliasesLimiter
from strawberry.types import ExecutionContext
from strawberry.types.graphql import OperationType

from gqlnotify import Settings
from gqlnotify.execution import documents
from gqlnotify.execution import pace as pace_module
from gqlnotify.execution.documents import Documents
from gqlnotify.execution.pace import Pace
from gqlnotify.execution.validation import Validation
from tests.applications import HELLO, application, bearer, client_of, post
from tests.execution import Stage, audience
from tests.servers import running
from tests.waiting import PATIENCE, wait_until

COST = 0.05


def work(pace: Pace) -> float:
    """Block the loop, and return the time at which that ended."""
    with pace.costly():
        until = thread_time() + COST
        while thread_time() < until:
            pass
    return monotonic()


def waits(pace: Pace) -> bool:
    """Return whether a step would wait now."""
    resting = pace.rest()
    try:
        resting.send(None)
    except StopIteration:
        return False
    resting.close()
    return True


async def test_the_first_step_runs_without_a_wait() -> None:
    assert not waits(Pace())


async def test_ordinary_documents_do_not_wait() -> None:
    pace = Pace()
    with pace.costly():
        pass
    assert not waits(pace)


async def test_a_busy_machine_gives_no_more_steps_without_a_rest() -> None:
    pace = Pace()
    for _ in range(4):
        with pace.costly():
            until = thread_time() + COST / 4
            while thread_time() < until:
                pass
            _wait_for_a_core(COST)
    assert waits(pace)


def _wait_for_a_core(seconds: float) -> None:
    # Another process has it for as long.
    sleep(seconds)


async def test_concurrent_validations_pause_between_their_steps() -> None:
    pace = Pace()
    ended = [work(pace)]

    async def wait_and_work() -> None:
        await pace.rest()
        began = monotonic()
        assert began - ended[-1] >= COST * 0.9
        ended.append(work(pace))

    await asyncio.gather(*(wait_and_work() for _ in range(4)))


async def test_waiting_validations_run_in_a_fair_order() -> None:
    pace = Pace()
    order: list[str] = []

    async def take(name: str, asker: str) -> None:
        async with pace.turn(asker, 10):
            order.append(name)

    async with asyncio.TaskGroup() as group, pace.turn("somebody", 1):
        for number in range(100):
            group.create_task(take(f"hostile {number}", "mallory"))
        await asyncio.sleep(0)
        group.create_task(take("honest", "alice"))
        await asyncio.sleep(0)
    assert len(order) == 101
    assert order.index("honest") <= 1


async def test_a_cancelled_validation_frees_its_place() -> None:
    pace = Pace()
    served: list[int] = []

    async def take(number: int) -> None:
        async with pace.turn("somebody", 1):
            served.append(number)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(take(number)) for number in range(5)]
    await asyncio.sleep(0)
    # One waits, one would be next, and one may start while it is cancelled.
    tasks[3].cancel()
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert served == [0, 2, 4]
    async with asyncio.timeout(PATIENCE), pace.turn("anybody", 1):
        pass


async def test_a_known_document_does_not_wait() -> None:
    router = Stage().router()
    async with audience(router, "alice") as (alice,):
        assert await alice.query(HELLO) == {"hello": "world"}
        async with Pace.of(asyncio.get_running_loop()).turn("mallory", 1):
            assert await alice.query(HELLO) == {"hello": "world"}
            await alice.subscribe("1", "{ unknown: hello }")
            await alice.is_silent()


# An honest client while another one floods the server

HOSTILE = 100


def hostile(number: int) -> str:
    return f"{{ a{number}: hello " + "hello " * 200 + "}"


def honest(number: int) -> str:
    return f"{{ b{number}: hello }}"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parsed documents, in order."""
    order: list[str] = []

    def parse(query: str, **options: Any) -> Any:
        order.append(query)
        return graphql.parse(query, **options)

    monkeypatch.setattr(documents, "parse", parse)
    return order


def waited(parsed: list[str], document: str, since: int) -> int:
    """Return how many documents were parsed before this one since then."""
    return parsed.index(document) - since


@pytest.mark.processes
@pytest.mark.parametrize("sockets", [1, 4])
@pytest.mark.parametrize(
    "extensions", [(), (lambda: MaxAliasesLimiter(50),)], ids=["plain", "extended"]
)
async def test_an_honest_document_waits_for_few_of_a_flood_over_websocket(
    sockets: int, extensions: Any, parsed: list[str]
) -> None:
    router = Stage(extensions=extensions).router()
    async with audience(router, "alice", *["mallory"] * sockets) as (alice, *attackers):
        for number in range(HOSTILE):
            await attackers[number % sockets].subscribe(f"{number}", hostile(number))
        await wait_until(lambda: parsed)
        for number in range(3):
            since = len(parsed)
            await alice.query(honest(number))
            assert waited(parsed, honest(number), since) <= HOSTILE // 4
        assert len(parsed) < HOSTILE


@asynccontextmanager
async def flood_over_http(origin: str, headers: dict[str, str]) -> AsyncIterator[None]:
    """Post each hostile document on a connection of its own, all at once.

    An HTTP client would take longer to send them than the server takes to answer.
    """
    host, port = origin.split(":")
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(HOSTILE)]
    for number, (_reader, writer) in enumerate(connections):
        body = json.dumps({"query": hostile(number)})
        fields = {"host": origin, "content-type": "application/json", **headers}
        lines = [f"{name}: {value}" for name, value in fields.items()]
        head = "\r\n".join(["POST /graphql HTTP/1.1", *lines, f"content-length: {len(body)}"])
        writer.write(f"{head}\r\n\r\n{body}".encode())
    try:
        yield
    finally:
        for _reader, writer in connections:
            writer.transport.abort()


@pytest.mark.processes
@pytest.mark.parametrize("tokens", [True, False])
async def test_an_honest_document_waits_for_few_of_a_flood_over_http(
    tokens: bool, parsed: list[str]
) -> None:
    stage = Stage()
    router = stage.router() if tokens else stage.router(settings=Settings())
    async with (
        running(application(router)) as origin,
        client_of(origin, headers=bearer(subject="a")) as alice,
        flood_over_http(origin, bearer(subject="m")),
    ):
        await wait_until(lambda: len(parsed) > 2)
        for number in range(3):
            since = len(parsed)
            assert "errors" not in await post(alice, honest(number))
            assert waited(parsed, honest(number), since) <= HOSTILE // 4
        assert len(parsed) < HOSTILE


async def test_other_tasks_run_while_a_document_is_validated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace_module, "BURST_SECONDS", 0)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    known = Documents(Stage().schema)
    query = "{" + " hello" * 2000 + "}"
    context = ExecutionContext(
        query=query, schema=known._schema, allowed_operations=frozenset(OperationType)
    )
    await known.provide(context, "alice")
    counting = asyncio.create_task(count())
    await known.validate(context, "alice")
    counting.cancel()
    assert context.pre_execution_errors == []
    assert turns >= 4000 // documents.VISITS_PER_STEP


async def test_a_document_that_many_send_at_once_is_validated_once(
    monkeypatch: pytest.MonkeyPatch, parsed: list[str]
) -> None:
    validated: list[Any] = []

    class Counting(Validation):
        def __init__(self, *args: Any, **options: Any) -> None:
            validated.append(args)
            super().__init__(*args, **options)

    monkeypatch.setattr(documents, "Validation", Counting)
    query = "{" + " hello" * 1000 + "}"
    async with audience(Stage().router(), *["alice", "bob"] * 3) as sockets:
        for socket in sockets:
            await socket.subscribe("1", query)
        for socket in sockets:
            assert (await socket.next("1"))["data"] == {"hello": "world"}
    assert parsed == [query]
    assert len(validated) == 1
