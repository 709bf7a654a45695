"""Strawberry's extensions around the shared execution of an event."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from strawberry.extensions import (
    MaskErrors,
    MaxAliasesLimiter,
    MaxTokensLimiter,
    SchemaExtension,
)
from strawberry.extensions.runner import SchemaExtensionsRunner

from tests.execution import (
    LATER,
    PLAIN,
    TOLD,
    Stage,
    audience,
    failing,
    subscribe_all,
    told,
)
from tests.recorder import recording

pytestmark = pytest.mark.processes


async def test_extensions_run_once_for_each_event_and_not_for_each_member() -> None:
    record, extension = recording()
    stage = Stage(extensions=[extension])
    router = stage.router()
    async with audience(router, "alice", "bob", "carol") as three:
        await subscribe_all(router, three, LATER)
        record.clear()
        await stage.say("hi")
        for socket in three:
            assert (await socket.next("1"))["extensions"]["recorded"] is True
    assert record == [
        "operation begins",
        "execute begins",
        "resolve notes",
        "resolve later",
        "execute ends",
        "result {'notes': {'later': 'hi'}}",
        "result sent",
        "operation ends",
    ]


async def test_no_extension_of_a_subscriber_sees_an_event() -> None:
    seen = list[tuple[int, object, object]]()

    class Stateful(SchemaExtension):
        async def on_operation(self) -> AsyncIterator[None]:
            self.viewer = self.execution_context.context
            yield

        def resolve(self, _next: Any, root: Any, info: Any, *args: Any, **kwargs: Any) -> Any:
            if info.field_name == "told":
                seen.append((id(self), self.viewer, self.execution_context.context))
            return _next(root, info, *args, **kwargs)

    stage = Stage(extensions=[Stateful])
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        for text in ("one", "two"):
            await stage.say(text)
            await told(both)
    assert len(seen) == 2
    for _, at_first, context in seen:
        assert not isinstance(at_first, dict)
        assert not isinstance(context, dict)


async def test_the_context_is_there_when_an_extension_begins() -> None:
    found = list[object]()

    class Preparing(SchemaExtension):
        def on_operation(self) -> Iterator[None]:
            found.append(self.execution_context.context)
            yield

    stage = Stage(extensions=[Preparing])
    router = stage.router(event_context=lambda scope: {"made for": scope})
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], TOLD)
        await stage.say("hi")
        await told([alice])
    assert found[-1] == {"made for": None}


async def test_an_extension_that_fails_costs_its_event_alone() -> None:
    stage: Stage

    class Failing(SchemaExtension):
        def on_execute(self) -> Iterator[None]:
            yield
            if self.execution_context.operation_name == "Fails" and stage.executed:
                raise ValueError("on purpose")

    stage = Stage(extensions=[Failing])
    router = stage.router()
    async with audience(router, "alice", "bob", "carol") as (alice, bob, carol):
        await subscribe_all(
            router, [alice, bob], TOLD.replace("subscription", "subscription Fails")
        )
        await subscribe_all(router, [carol], TOLD)
        await stage.say("one", "two")
        for socket in (alice, bob, alice, bob):
            # The text is for the log alone.
            assert (await socket.next("1"))["errors"][0]["message"] == "Internal server error"
        assert await told([carol]) == ["one"]


@pytest.mark.parametrize("extension", [SchemaExtension, MaskErrors])
async def test_an_extension_that_cannot_be_made_costs_its_event_alone(
    extension: type[SchemaExtension],
) -> None:
    make = Mock(side_effect=extension)
    stage = Stage(extensions=[make])
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], TOLD)
        make.side_effect = ValueError("on purpose")
        await stage.say("one")
        assert (await alice.next("1"))["errors"]
        make.side_effect = extension
        await stage.say("two")
        assert await told([alice]) == ["two"]


async def test_an_extension_whose_constructor_fails_costs_its_event_alone() -> None:
    class Fragile(SchemaExtension):
        fails = False

        def __init__(self) -> None:
            if Fragile.fails:
                raise ValueError("on purpose")

    stage = Stage(extensions=[Fragile])
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], PLAIN)
        Fragile.fails = True
        await stage.say("one")
        assert (await alice.next("1"))["errors"]
        Fragile.fails = False
        await stage.say("two")
        assert await told([alice], "text") == ["two"]


@pytest.mark.parametrize("extensions", [(), (MaskErrors,)], ids=["none", "masking"])
async def test_an_extension_that_is_added_later_runs_for_further_events(extensions: Any) -> None:
    record, extension = recording()
    stage = Stage(extensions=extensions)
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], PLAIN)
        stage.schema.extensions = (*extensions, extension)
        await stage.say("hi")
        assert await told([alice], "text") == ["hi"]
    assert "result sent" in record


async def test_methods_that_are_overridden_on_an_instance_may_wait_as_well() -> None:
    class Late(SchemaExtension):
        def __init__(self) -> None:
            self.get_results = self._late_results  # type: ignore[method-assign]

        def on_operation(self) -> Iterator[None]:
            yield

        async def _late_results(self) -> dict[str, Any]:
            await asyncio.sleep(0.001)
            return {"late": True}

    stage = Stage(extensions=[Late])
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], PLAIN)
        await stage.say("hi")
        assert (await alice.next("1"))["extensions"]["late"] is True


async def test_a_runner_of_one_schema_object_may_wait_as_well() -> None:
    class Waiting(SchemaExtensionsRunner):
        async def get_extensions_results(self, ctx: Any) -> dict[str, Any]:
            await asyncio.sleep(0.001)
            return {"late": True}

    class Plain(SchemaExtension):
        def on_operation(self) -> Iterator[None]:
            yield

    stage = Stage(extensions=[Plain])
    stage.schema.create_extensions_runner = Waiting  # type: ignore[method-assign]
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], PLAIN)
        await stage.say("hi")
        assert (await alice.next("1"))["extensions"]["late"] is True


async def test_process_errors_that_fails_costs_no_other_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    stage.tell = failing
    process_errors = Mock(side_effect=RuntimeError("on purpose"))
    monkeypatch.setattr(stage.schema, "process_errors", process_errors)
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], TOLD)
        await stage.say("bad", "good")
        assert (await alice.next("1"))["errors"]
        assert await told([alice]) == ["good"]
    process_errors.assert_called_once()


async def test_masked_errors_are_masked_in_a_shared_execution() -> None:
    stage = Stage(extensions=[MaskErrors])
    stage.tell = failing
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        await stage.say("bad", "good")
        for socket in both:
            result = await socket.next("1")
            assert [error["message"] for error in result["errors"]] == ["Unexpected error."]
        assert await told(both) == ["good"] * 2


class MaskingAll(MaskErrors):
    """Looks at every result, and not only at those with errors."""

    def on_stream_result(self, result: Any) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    ("extension", "runs"),
    [
        (MaskErrors, False),
        (lambda: MaxAliasesLimiter(5), False),
        (lambda: MaxTokensLimiter(500), False),
        (MaskingAll, True),
    ],
    ids=["mask errors", "aliases", "tokens", "own hook"],
)
async def test_extensions_that_have_nothing_to_do_for_an_event_do_not_run(
    extension: Any, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(extensions=[extension])
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], PLAIN)
        runner = Mock(side_effect=SchemaExtensionsRunner)
        monkeypatch.setattr("strawberry.schema.schema.SchemaExtensionsRunner", runner)
        await stage.say("good")
        assert (await alice.next("1"))["data"]
    assert runner.called == runs


async def test_a_filtered_event_leaves_no_trace() -> None:
    record, extension = recording()
    for extensions in ((), (extension,)):
        stage = Stage(extensions=extensions)
        stage.choose = _only_good(stage)
        router = stage.router()
        async with audience(router, "alice", "bob") as both:
            await subscribe_all(router, both, TOLD)
            await stage.say("bad", "good", "bad")
            assert await told(both) == ["good"] * 2
            cursor = await stage.now()
            await stage.say("good")
            assert await told(both) == ["good"] * 2
            for socket in both:
                await socket.is_silent()
            await both[0].subscribe("late", TOLD, extensions={"after": cursor})
            assert (await both[0].next("late"))["data"] == {"notes": {"told": "good"}}
        assert stage.executed == ["good", "good"]
    assert not any("bad" in line for line in record)


def _only_good(stage: Stage) -> Any:
    return lambda _info: stage.topics.subscribe(stage.notes, where=lambda n: n.text == "good")


async def test_an_extension_sees_its_operation_end_when_the_subscriber_has_joined() -> None:
    ended = list[str]()

    class Watching(SchemaExtension):
        def on_operation(self) -> Iterator[None]:
            yield
            ended.append("operation")

    stage = Stage(extensions=[Watching])
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], TOLD)
        assert ended == ["operation"]
