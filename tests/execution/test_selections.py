"""A plain selection is rendered once per event, even if variables, filters or scopes differ."""

from collections.abc import Iterator
from typing import Any

import pytest
from strawberry.extensions import MaskErrors, SchemaExtension
from strawberry.types import Info

from gqlnotify import Subscription
from tests.execution import (
    PLAIN,
    TOLD,
    Stage,
    audience,
    joined,
    name_of,
    sizes,
    subscribe_all,
    told,
)

pytestmark = pytest.mark.processes


class Counting(SchemaExtension):
    """Counts the events that are executed."""

    executed = 0

    def on_execute(self) -> Iterator[None]:
        """Count an event."""
        Counting.executed += 1
        yield


def _counting() -> Counting:
    return Counting()


async def test_operations_with_different_scopes_get_one_rendering(stage: Stage) -> None:
    stage.choose = lambda info: stage.topics.subscribe(stage.notes, scope=name_of(info))
    router = stage.router()
    async with audience(router, "alice", "bob", "carol") as sockets:
        await subscribe_all(router, sockets, PLAIN)
        assert sizes(router) == [1, 1, 1]
        router.encoded = 0
        await stage.say("one", "two")
        assert await told(sockets, "text") == ["one"] * 3
        assert await told(sockets, "text") == ["two"] * 3
        assert router.encoded == 2


async def test_each_filter_is_applied_to_a_value_of_its_own(stage: Stage) -> None:
    def subscription_of(info: Info) -> Subscription[Any]:
        name = name_of(info)

        def mine(note: Any) -> bool:
            found = name in note.text
            note.text = "changed by a filter"
            return found

        return stage.topics.subscribe(stage.notes, where=mine)

    stage.choose = subscription_of
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, PLAIN)
        assert sizes(router) == [1, 1]
        await stage.say("for alice", "for bob", "for alice and bob")
        alice, bob = both
        assert await told([alice], "text") == ["changed by a filter"]
        assert await told([bob], "text") == ["changed by a filter"]


@pytest.mark.parametrize(
    "document",
    [
        "subscription ($yes: Boolean!) { notes { text @include(if: $yes) __typename } }",
        "subscription ($yes: Boolean!) { notes { ... @include(if: $yes) { text } __typename } }",
        """subscription ($yes: Boolean!) { notes { ...all } }
        fragment all on Note { text @include(if: $yes) __typename }""",
        """subscription ($yes: Boolean!) { ...root }
        fragment root on Feed { notes { text @include(if: $yes) __typename } }""",
    ],
    ids=["field", "inline fragment", "fragment", "root fragment"],
)
async def test_a_variable_in_the_selection_keeps_renderings_apart(
    stage: Stage, document: str
) -> None:
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await alice.subscribe("1", document, variables={"yes": True})
        await joined(router, 1)
        await bob.subscribe("1", document, variables={"yes": False})
        await joined(router, 2)
        await stage.say("hi")
        assert (await alice.next("1"))["data"]["notes"] == {"text": "hi", "__typename": "Note"}
        assert (await bob.next("1"))["data"]["notes"] == {"__typename": "Note"}


async def test_what_map_returns_is_not_mixed_up(stage: Stage) -> None:
    def subscription_of(info: Info) -> Subscription[Any]:
        name = name_of(info)
        subscription = stage.topics.subscribe(stage.notes)
        return subscription.map(lambda note, _event: stage.note(text=f"{note.text} {name}"))

    stage.choose = subscription_of
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, PLAIN)
        await stage.say("hi")
        assert await told(both, "text") == ["hi alice", "hi bob"]


async def test_a_class_that_executes_in_its_own_way_executes_plain_fields_too() -> None:
    base: Any = Stage().schema.execution_context_class

    class Louder(base):  # type: ignore[misc]
        def complete_leaf_value(self, type_: Any, value: Any) -> Any:
            return str(super().complete_leaf_value(type_, value)).upper()

    stage = Stage(execution_context_class=Louder)
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], PLAIN)
        await stage.say("hi")
        assert await told([alice], "text") == ["HI"]


async def test_resolvers_run_for_each_operation_that_differs(stage: Stage) -> None:
    stage.choose = lambda info: stage.topics.subscribe(stage.notes, scope=name_of(info))
    stage.tell = lambda _text, info: info.context.scope
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        await stage.say("hi")
        assert await told(both) == ["alice", "bob"]


@pytest.mark.parametrize("extensions", [(), (MaskErrors,)], ids=["plain", "masking"])
async def test_an_event_is_mapped_once_for_all_scopes(extensions: Any) -> None:
    stage = Stage(extensions=extensions)
    mapped: list[str] = []

    def louder(note: Any, _event: Any) -> Any:
        mapped.append(note.text)
        return stage.note(text=note.text.upper())

    stage.choose = lambda info: stage.topics.subscribe(stage.notes, scope=name_of(info)).map(louder)
    router = stage.router()
    async with audience(router, "alice", "bob", "carol") as sockets:
        await subscribe_all(router, sockets, PLAIN)
        assert sizes(router) == [1, 1, 1]
        await stage.say("one", "two")
        assert await told(sockets, "text") == ["ONE"] * 3
        assert await told(sockets, "text") == ["TWO"] * 3
        assert mapped == ["one", "two"]


@pytest.mark.parametrize("make", [Counting, _counting], ids=["class", "function"])
async def test_an_extension_runs_for_each_operation_that_differs(make: Any) -> None:
    stage = Stage(extensions=[make])
    stage.choose = lambda info: stage.topics.subscribe(stage.notes, scope=name_of(info))
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, PLAIN)
        Counting.executed = 0
        await stage.say("hi")
        assert await told(both, "text") == ["hi", "hi"]
        assert Counting.executed == 2
