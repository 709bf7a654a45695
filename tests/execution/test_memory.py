"""The memory for subscribers is bounded in bytes, whatever they send."""

import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest

from gqlnotify.errors import ExtensionsTooBig
from gqlnotify.execution import operation, shared
from gqlnotify.execution.limits import Limits
from gqlnotify.execution.strawberry_adapter import Executor
from tests.e2e.raw import Socket
from tests.execution import TOLD, Stage, audience, executions, sizes, subscribe_all, told
from tests.waiting import wait_until

JUNK: dict[str, Any] = {"junk": [[]] * 2000}


@pytest.mark.processes
async def test_undeclared_variables_are_neither_kept_nor_a_difference() -> None:
    stage = Stage()
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice], TOLD, variables=JUNK)
        await subscribe_all(router, [bob], TOLD, variables={"other": 1})
        (execution,) = executions(router)
        assert execution._request.context.variables == {}
        await stage.say("hi")
        assert await told([alice, bob]) == ["hi"] * 2


@pytest.mark.processes
async def test_a_subscription_by_itself_keeps_no_undeclared_variable() -> None:
    found = list[Any]()
    stage = Stage()

    def choose(info: Any) -> Any:
        found.append(info.variable_values)
        return stage.topics.subscribe(stage.notes, per_viewer=True)

    stage.choose = choose
    document = "subscription($value: JSON!) { notes { altered(value: $value) } }"
    async with audience(stage.router(), "alice") as (alice,):
        await alice.subscribe("1", document, variables={"value": 1, **JUNK})
        await wait_until(lambda: found)
        assert found == [{"value": 1}]
        await alice.is_silent()


def executors() -> int:
    return sum(isinstance(each, Executor) for each in gc.get_objects())


@pytest.fixture
def without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.processes
@pytest.mark.usefixtures("without_collections")
async def test_joining_leaves_nothing_for_the_garbage_collector() -> None:
    stage = Stage()
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice], TOLD)
        before = executors()
        await subscribe_all(router, [bob], TOLD)
        await stage.say("hi")
        assert await told([alice, bob]) == ["hi"] * 2
        assert executors() == before


@pytest.mark.processes
@pytest.mark.usefixtures("without_collections")
async def test_an_event_leaves_nothing_for_the_garbage_collector() -> None:
    stage = Stage()
    stage.choose = lambda _info: stage.topics.subscribe(stage.notes, per_viewer=True)
    async with audience(stage.router(), "alice") as (alice,):
        before = executors()
        await alice.subscribe("1", TOLD)
        await wait_until(lambda: executors() == before + 1)
        await stage.say("hi", "ho")
        assert [await told([alice]) for _ in "io"] == [["hi"], ["ho"]]
        assert executors() == before + 1
        await alice.complete("1")
        await wait_until(lambda: executors() == before)


@pytest.mark.processes
async def test_the_memory_of_unused_executions_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound = 300_000
    monkeypatch.setattr(shared, "RECENT_BYTES", bound)
    stage = Stage()
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        for number in range(30):
            extensions = {"number": number, "junk": [[]] * 500}
            await alice.subscribe(str(number), TOLD, extensions=extensions)
        await wait_until(lambda: len(executions(router)) == 30)
        for number in range(30):
            await alice.complete(str(number))
        await alice.is_silent()
        await wait_until(lambda: not sizes(router))
        kept = router._gqlnotify.executions(router.schema)._recent
        assert 0 < kept.weight <= bound
        gc.collect()
        assert len(executions(router)) == len(kept) < 10


async def refused(socket: Socket, extensions: Any) -> str:
    await socket.subscribe("1", TOLD, extensions=extensions)
    return str((await socket.error("1"))[0]["extensions"]["code"])


@pytest.mark.processes
async def test_extensions_that_are_too_large_are_refused() -> None:
    router = Stage().router()
    async with audience(router, "alice") as (alice,):
        assert await refused(alice, {"junk": "x" * 8192}) == "EXTENSIONS_TOO_BIG"
        assert await alice.query("{ hello }") == {"hello": "world"}


@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_is_the_size_as_json(over: int) -> None:
    extensions = {"a": "é"}
    limits = Limits(extensions_bytes=len(json.dumps(extensions)) - over)
    if over:
        with pytest.raises(ExtensionsTooBig):
            limits.check_extensions(extensions)
    else:
        limits.check_extensions(extensions)


@pytest.mark.processes
async def test_a_long_operation_id_closes_the_socket() -> None:
    stage = Stage()
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await alice.subscribe("i" * 256, TOLD)
        await alice.is_silent()
        await bob.subscribe("i" * 257, TOLD)
        closed = await bob.closed()
        assert (closed.code, closed.reason) == (4400, "'id' must have at most 256 characters")


@pytest.mark.processes
async def test_a_refused_document_keeps_no_object_of_its_sender() -> None:
    # A value of the wrong type: graphql-core raises and catches the error itself.
    router = Stage().router()
    async with audience(router, "alice") as (alice,):
        await alice.subscribe("1", "{ hello(word: 1) }")
        assert await alice.error("1")
    await wait_until(lambda: not _running_operations())


def _running_operations() -> list[object]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is operation._Run]
