"""Which subscriptions share an execution: those that ask for the same in every respect."""

from collections.abc import Callable
from functools import partial
from time import time
from typing import Any

import pytest
from strawberry.types import Info

from gqlnotify import (
    Settings,
    Subscription,
    TopicManager,
    current_principal,
)
from tests.execution import (
    PLAIN,
    TOLD,
    Stage,
    audience,
    groups,
    joined,
    name_of,
    sizes,
    subscribe_all,
    told,
)

pytestmark = pytest.mark.processes


async def shared_by(stage: Stage, document: str = TOLD) -> list[int]:
    """Subscribe alice and bob, and return the sizes of their groups, which both get an event."""
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, document)
        found = sizes(router)
        await stage.say("alice bob")
        assert await told(both) == ["alice bob"] * 2
        assert len(stage.executed) == len(found)
    return found


async def test_equal_subscriptions_share(stage: Stage) -> None:
    assert await shared_by(stage) == [2]


SCOPES: list[tuple[Any, Any]] = [
    ("one", "other"),
    (1, True),
    (1, 1.0),
    ("1", 1),
    (0.0, -0.0),
    ((1,), (True,)),
    (("tenant", 1), ("tenant", 1.0)),
    ((("deep", 0.0),), (("deep", -0.0),)),
    (frozenset({1}), frozenset({True})),
    (None, ""),
]


@pytest.mark.parametrize("scopes", SCOPES, ids=repr)
async def test_two_scopes_have_two_executions_and_contexts(scopes: tuple[Any, Any]) -> None:
    stage = Stage()
    of = dict(zip(("alice", "bob"), scopes, strict=True))
    stage.choose = lambda info: stage.topics.subscribe(stage.notes, scope=of[name_of(info)])
    stage.tell = lambda _text, info: repr(info.context.scope)
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        await stage.say("hi")
        assert await told(both) == [repr(scope) for scope in scopes]
        assert sizes(router) == [1, 1]


async def test_equal_scopes_share(stage: Stage) -> None:
    stage.choose = lambda _info: stage.topics.subscribe(
        stage.notes, scope=("tenant", "".join(["a", "b"]), 1)
    )
    assert await shared_by(stage) == [2]


async def test_a_scope_that_can_not_be_compared_prevents_sharing(stage: Stage) -> None:
    stage.choose = lambda _info: stage.topics.subscribe(stage.notes, scope=["a", "list"])  # type: ignore[arg-type]
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        after = await stage.now()
        for socket in both:
            await socket.subscribe("1", TOLD, extensions={"after": after})
        await stage.say("hi")
        assert await told(both) == ["hi"] * 2
        assert sizes(router) == []
    assert stage.executed == ["hi", "hi"]


async def test_a_filter_that_captured_its_tenant_passes_only_the_tenants_events(
    stage: Stage,
) -> None:
    def choose(info: Info) -> Subscription[Any]:
        tenant = name_of(info)
        return stage.topics.subscribe(stage.notes, where=lambda note: note.text.startswith(tenant))

    stage.choose = choose
    router = stage.router()
    async with audience(router, "alice", "bob", "alice") as (alice, bob, again):
        await subscribe_all(router, [alice, bob, again], TOLD)
        assert sizes(router) == [1, 2]
        await stage.say("alice's", "bob's")
        assert await told([alice, bob, again]) == ["alice's", "bob's", "alice's"]
        for socket in (alice, bob, again):
            await socket.is_silent()


async def test_a_value_that_map_captured_reaches_only_its_own_subscribers(stage: Stage) -> None:
    def choose(info: Info) -> Subscription[Any]:
        tenant = name_of(info)
        mapped = stage.topics.subscribe(stage.notes).map(
            lambda note, _event: stage.note(text=f"{tenant}: {note.text}")
        )
        return mapped.map(lambda note, _event: stage.note(text=note.text + "!"))

    stage.choose = choose
    router = stage.router()
    async with audience(router, "alice", "bob", "alice") as three:
        await subscribe_all(router, three, TOLD)
        await stage.say("hi")
        assert await told(three) == ["alice: hi!", "bob: hi!", "alice: hi!"]
        assert sizes(router) == [1, 2]


def capturing_the_info(info: Info) -> Callable[[Any], bool]:
    return lambda note: name_of(info) in note.text


def capturing_the_context(info: Info) -> Callable[[Any], bool]:
    context = info.context
    return lambda note: context["connection_params"]["name"] in note.text


def capturing_the_principal(info: Info) -> Callable[[Any], bool]:
    principal = current_principal()
    return lambda note: principal.subject in note.text


def by_default_argument(info: Info) -> Callable[[Any], bool]:
    def where(note: Any, who: Any = current_principal()) -> bool:  # noqa: B008
        return who.subject in note.text

    return where


def by_partial(info: Info) -> Callable[[Any], bool]:
    return partial(lambda who, note: who.subject in note.text, current_principal())


def by_nested_lambda(info: Info) -> Callable[[Any], bool]:
    principal = current_principal()
    return lambda note: (lambda: principal.subject in note.text)()


class Watching:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, note: Any) -> bool:
        return self.name in note.text

    def lets(self, note: Any) -> bool:
        return self.name in note.text


def by_callable_object(info: Info) -> Callable[[Any], bool]:
    return Watching(name_of(info))


def by_bound_method(info: Info) -> Callable[[Any], bool]:
    return Watching(name_of(info)).lets


def by_function_attribute(info: Info) -> Callable[[Any], bool]:
    def where(note: Any) -> bool:
        return where.name in note.text  # type: ignore[attr-defined]

    where.name = name_of(info)  # type: ignore[attr-defined]
    return where


def by_list(info: Info) -> Callable[[Any], bool]:
    names = [name_of(info)]
    return lambda note: any(name in note.text for name in names)


def by_cell_that_another_function_fills(info: Info) -> Callable[[Any], bool]:
    name = "nobody"

    def become() -> None:
        nonlocal name
        name = name_of(info)

    BECOME.append(become)
    return lambda note: name in note.text


BECOME: list[Callable[[], None]] = []


@pytest.mark.parametrize(
    "filter_of",
    [
        capturing_the_info,
        capturing_the_context,
        capturing_the_principal,
        by_default_argument,
        by_partial,
        by_nested_lambda,
        by_callable_object,
        by_bound_method,
        by_function_attribute,
        by_list,
        by_cell_that_another_function_fills,
    ],
)
async def test_a_filter_that_captured_its_viewer_is_not_shared(
    stage: Stage, filter_of: Callable[[Info], Callable[[Any], bool]]
) -> None:
    BECOME.clear()
    stage.choose = lambda info: stage.topics.subscribe(stage.notes, where=filter_of(info))
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice, bob], TOLD)
        for become in BECOME:
            become()
        await stage.say("alice's", "bob's")
        assert await told([bob]) == ["bob's"]
        assert await told([alice]) == ["alice's"]
        assert sizes(router) == [1, 1]
        for socket in (alice, bob):
            await socket.is_silent()


async def test_a_filter_that_counts_counts_for_each_subscriber(stage: Stage) -> None:
    def choose(_info: Info) -> Subscription[Any]:
        seen = 0

        def first_two(_note: Any) -> bool:
            nonlocal seen
            seen += 1
            return seen <= 2

        return stage.topics.subscribe(stage.notes, where=first_two)

    stage.choose = choose
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice], TOLD)
        await stage.say("1")
        await subscribe_all(router, [bob], TOLD)
        await stage.say("2", "3", "4")
        assert await told([alice, alice]) == ["1", "2"]
        assert await told([bob, bob]) == ["2", "3"]
        for socket in (alice, bob):
            await socket.is_silent()


async def test_topics_of_the_same_name_in_two_managers_are_different(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both histories begin at the same time, so their cursors are the same.
    now = time()
    monkeypatch.setattr("gqlnotify.clock.time.time", lambda: now)
    settings = Settings(broker_url="memory://", topic_linger=0)
    managers = {"alice": TopicManager(settings=settings), "bob": TopicManager(settings=settings)}
    stage.choose = lambda info: managers[name_of(info)].subscribe(stage.notes)
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice, bob], PLAIN)
        await managers["alice"].publish(stage.notes, stage.note(text="alice's"))
        assert await told([alice], "text") == ["alice's"]
        await bob.is_silent()
        await managers["bob"].publish(stage.notes, stage.note(text="bob's"))
        assert await told([bob], "text") == ["bob's"]
        await alice.is_silent()


VALUES = [1, 1.0, True, "1", 0.0, -0.0, 0, False, "null", [], {}, [1], [True], {"a": 1}, {"a": 1.0}]


async def test_variables_of_different_types_are_different_though_python_calls_them_equal(
    stage: Stage,
) -> None:
    router = stage.router()
    document = "subscription ($value: JSON = 0) { notes { altered(value: $value) } }"
    async with audience(router, "alice") as (alice,):
        for number, value in enumerate(VALUES, 1):
            await alice.subscribe(str(number), document, variables={"value": value})
            await joined(router, number)
        assert len(groups(router)) == len(VALUES)
        await stage.say("hi")
        results = [await alice.receive() for _ in VALUES]
    got = {int(r["id"]): r["payload"]["data"]["notes"]["altered"] for r in results}
    expected = ["null" if value is None else value for value in VALUES]
    assert [repr(got[n + 1]) for n in range(len(VALUES))] == [repr(value) for value in expected]


DIFFERENT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"variables": {"a": False}}, {"variables": {"a": True}}),
    ({"variables": {"a": False}}, {}),
    ({"operationName": "A"}, {"operationName": "B"}),
    ({"extensions": {"x": 1}}, {"extensions": {"x": 2}}),
    ({"extensions": {"x": 1}}, {}),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
async def test_different_subscriptions_do_not_share(
    stage: Stage, one: dict[str, Any], other: dict[str, Any]
) -> None:
    document = (
        "subscription A($a: Boolean! = false) { notes { told @skip(if: $a) } }"
        "subscription B { notes { told } }"
    )
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        for socket, payload in zip(both, (one, other), strict=True):
            await subscribe_all(router, [socket], document, **{"operationName": "A", **payload})
        assert sizes(router) == [1, 1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"variables": {}}, {}),
        ({"operationName": "A"}, {}),
        ({"variables": {"a": 1, "b": 2}}, {"variables": {"b": 2, "a": 1}}),
        ({"extensions": {}}, {"extensions": None}),
    ],
)
async def test_equivalent_subscriptions_share(
    stage: Stage, one: dict[str, Any], other: dict[str, Any]
) -> None:
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        for socket, payload in zip(both, (one, other), strict=True):
            await subscribe_all(router, [socket], "subscription A { notes { told } }", **payload)
        assert sizes(router) == [2]


RESUMED = "subscription ($after: String) { notes(after: $after) { told } }"
USED_TWICE = "subscription ($after: String) { notes(after: $after) { altered(value: $after) } }"


async def test_different_cursors_do_not_prevent_sharing(stage: Stage) -> None:
    router = stage.router()
    async with audience(router, "alice", "bob", "carol", "dave") as four:
        first = await stage.say("first")
        second = await stage.say("second")
        ways: list[dict[str, Any]] = [
            {"variables": {"after": first}},
            {"variables": {"after": second}},
            {},
            {"extensions": {"after": second}},
        ]
        for number, (socket, way) in enumerate(zip(four, ways, strict=True), 1):
            await socket.subscribe("1", RESUMED, **way)
            await joined(router, number)
        assert sizes(router) == [4]
        assert await told(four[:1]) == ["second"]
        await stage.say("third")
        assert await told(four) == ["third"] * 4
    assert stage.executed == ["second", "third"]


async def test_a_variable_that_is_used_for_more_than_the_cursor_prevents_sharing(
    stage: Stage,
) -> None:
    router = stage.router()
    document = USED_TWICE.replace("$after: String", "$after: String!").replace(
        "altered(value: $after)", "altered(value: [$after])"
    )
    async with audience(router, "alice", "bob") as both:
        cursors = [await stage.say("first"), await stage.say("second")]
        for socket, cursor in zip(both, cursors, strict=True):
            await socket.subscribe("1", document, variables={"after": cursor})
        await joined(router, 2)
        await told(both[:1], "altered")
        await stage.say("third")
        assert await told(both, "altered") == [[cursor] for cursor in cursors]
