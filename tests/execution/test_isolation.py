"""Nothing crosses from one viewer to another where both share an execution."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import partial
from time import time
from typing import Any

import pytest
from fastapi import FastAPI
from strawberry.extensions import SchemaExtension
from strawberry.types import Info

from gqlnotify import (
    Principal,
    Settings,
    Subscription,
    TopicManager,
    authorize,
    current_principal,
)
from gqlnotify.auth import viewer
from gqlnotify.websocket.handler import GraphQLTransportWSHandler
from tests.applications import application, client_of
from tests.e2e.raw import open_socket
from tests.e2e.tokens import token
from tests.execution import (
    LATER,
    PLAIN,
    TOLD,
    Stage,
    audience,
    codes,
    groups,
    joined,
    name_of,
    sizes,
    subscribe_all,
    told,
)
from tests.servers import running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

secret: ContextVar[str] = ContextVar("secret", default="nothing")


@pytest.fixture
def stage() -> Stage:
    return Stage()


# Whoever reaches for the viewer


def by_principal(stage: Stage, info: Info) -> object:
    return current_principal().subject


def by_item(stage: Stage, info: Info) -> object:
    return info.context["connection_params"]


def by_attribute(stage: Stage, info: Info) -> object:
    return info.context.user


def by_subscribing(stage: Stage, info: Info) -> object:
    return stage.topics.subscribe(stage.notes) and None


@pytest.mark.parametrize("reach", [by_principal, by_item, by_attribute, by_subscribing])
async def test_a_resolver_that_reaches_for_the_viewer_gets_an_error(
    stage: Stage, reach: Callable[[Stage, Info], object]
) -> None:
    stage.tell = lambda text, info: text if text == "fine" else reach(stage, info)
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        await stage.say("reach", "fine")
        assert await codes(both) == ["NO_VIEWER"] * 2
        assert await told(both) == ["fine"] * 2
    assert stage.executed == ["reach", "fine"]


@pytest.mark.parametrize("action", ["authorize", "publish"])
async def test_a_resolver_that_uses_the_viewers_rights_gets_an_error(
    stage: Stage, action: str
) -> None:
    async def use(text: str, info: Info) -> object:
        if text == "fine":
            return text
        if action == "authorize":
            await authorize("publish", "notes")
        else:
            await stage.say("must not be")
        return "allowed"

    stage.tell_later = use
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, LATER)
        await stage.say("reach", "fine")
        assert await codes(both) == ["NO_VIEWER"] * 2
        assert await told(both, "later") == ["fine"] * 2


async def test_a_filter_that_reaches_for_the_viewer_ends_the_operations(stage: Stage) -> None:
    stage.choose = lambda _info: stage.topics.subscribe(
        stage.notes, where=lambda note: bool(note.text == current_principal().subject)
    )
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        await stage.say("alice")
        for socket in both:
            assert (await socket.error("1"))[0]["extensions"]["code"] == "NO_VIEWER"


async def test_the_viewer_of_a_later_operation_is_as_unseen_as_the_firsts(stage: Stage) -> None:
    found = list[object]()

    def look(text: str, info: Info) -> object:
        found.append(viewer._viewer.get())
        return text

    stage.tell = look
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice], TOLD)
        cursor = await stage.say("live")
        await told([alice])
        await stage.say("missed")
        await bob.subscribe("1", TOLD.replace("told", "told text"), extensions={"after": cursor})
        await told([alice, bob])
    assert len(found) == 3
    assert all(isinstance(each, viewer._Everybody) for each in found)


# What an execution may remember


class Loading:
    """A context with what a data loader keeps."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope
        self.loaded: list[str] = []


async def test_a_loader_on_the_context_is_fresh_for_each_event(stage: Stage) -> None:
    contexts = list[Loading]()

    def make(scope: Any) -> Loading:
        contexts.append(Loading(scope))
        return contexts[-1]

    def load(text: str, info: Info) -> object:
        info.context.loaded.append(text)
        return list(info.context.loaded)

    stage.tell = load
    router = stage.router(event_context=make)
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, "subscription { notes { told again: told } }")
        for text in ("one", "two"):
            await stage.say(text)
            assert await told(both) == [[text]] * 2 or await told(both) == [[text, text]] * 2
    assert len(contexts) == 2


async def test_without_a_hook_the_context_is_fresh_for_each_event(stage: Stage) -> None:
    def load(text: str, info: Info) -> object:
        seen = vars(info.context).setdefault("seen", [])
        seen.append(text)
        return list(seen)

    stage.tell = load
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        for text in ("one", "two"):
            await stage.say(text)
            assert await told(both) == [[text]] * 2


class Whispering:
    """A middleware that sets a context variable for each request."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            secret.set("of a middleware")
        await self._app(scope, receive, send)


async def test_a_context_variable_of_anybody_is_not_seen(stage: Stage) -> None:
    def choose(info: Info) -> Subscription[Any]:
        secret.set(name_of(info))
        return stage.topics.subscribe(stage.notes)

    def tell(text: str, info: Info) -> object:
        seen = secret.get()
        secret.set("of an earlier event")
        return seen

    stage.choose, stage.tell = choose, tell
    router = stage.router()
    app: FastAPI = application(router)
    app.add_middleware(Whispering)

    @app.post("/say")
    async def say() -> None:
        secret.set("of a publisher")
        await stage.say("published")

    async with running(app) as origin, client_of(origin) as client:  # noqa: SIM117
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init({"name": "alice", "token": token("alice")})
            before = await stage.now()
            await subscribe_all(router, [socket], TOLD)
            for _ in range(2):
                assert (await client.post("/say")).status_code == 200
                assert await told([socket]) == ["nothing"]
            await socket.subscribe("2", TOLD, extensions={"after": before}, variables={"x": 1})
            for _ in range(2):
                assert (await socket.next("2"))["data"]["notes"]["told"] == "nothing"


async def test_a_resolver_that_changes_its_variables_changes_nobody_elses(stage: Stage) -> None:
    def alter(value: Any) -> object:
        value.append("altered")
        return value

    stage.alter = alter
    router = stage.router()
    document = "subscription ($value: JSON!) { notes { altered(value: $value) } }"
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both[:1], document, variables={"value": []})
        await stage.say("one")
        assert await told(both[:1], "altered") == [["altered"]]
        await subscribe_all(router, both[1:], document, variables={"value": []})
        await stage.say("two")
        assert await told(both, "altered") == [["altered"]] * 2


async def test_a_subscribe_resolver_that_changes_its_variables_shares_with_nobody(
    stage: Stage,
) -> None:
    def choose(info: Info) -> Subscription[Any]:
        info.variable_values["value"].append(name_of(info))
        return stage.topics.subscribe(stage.notes)

    stage.choose = choose
    router = stage.router()
    document = "subscription ($value: JSON!) { notes { altered(value: $value) } }"
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, document, variables={"value": []})
        await stage.say("one")
        assert await told(both, "altered") in ([["alice"], ["bob"]], [[], []])


async def test_where_the_first_subscriber_began_is_not_told_to_the_others() -> None:
    seen = list[Any]()

    class Looking(SchemaExtension):
        def resolve(self, _next: Any, root: Any, info: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append((info.variable_values.get("after"), info.operation_extensions))
            return _next(root, info, *args, **kwargs)

    stage = Stage(extensions=[Looking])
    router = stage.router()
    document = "subscription ($after: String) { notes(after: $after) { text } }"
    async with audience(router, "alice", "bob") as both:
        for socket in both:
            after = await stage.say("earlier")
            given = {"variables": {"after": after}, "extensions": {"after": after}}
            await subscribe_all(router, [socket], document, **given)
        assert sizes(router) == [2]
        seen.clear()
        await stage.say("now")
        await told(both, "text")
    assert seen
    assert not any(after or (extensions or {}).get("after") for after, extensions in seen)


# Who shares and who doesn't


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


async def test_who_asks_the_same_shares(stage: Stage) -> None:
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


async def test_a_scope_that_cannot_be_compared_shares_with_nobody(stage: Stage) -> None:
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


async def test_a_filter_that_captured_its_tenant_lets_through_that_tenants_only(
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


async def test_what_a_map_captured_is_told_to_its_own_only(stage: Stage) -> None:
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
async def test_a_filter_that_knows_its_viewer_is_nobody_elses(
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


async def test_two_managers_topics_of_one_name_are_two_topics(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both histories begin at the same time, so their cursors are the same.
    now = time()
    monkeypatch.setattr("gqlnotify.brokers.memory.time.time", lambda: now)
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


async def test_variables_that_python_takes_for_equal_are_not(stage: Stage) -> None:
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
async def test_who_asks_something_else_does_not_share(
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
async def test_who_asks_the_same_in_other_words_shares(
    stage: Stage, one: dict[str, Any], other: dict[str, Any]
) -> None:
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        for socket, payload in zip(both, (one, other), strict=True):
            await subscribe_all(router, [socket], "subscription A { notes { told } }", **payload)
        assert sizes(router) == [2]


RESUMED = "subscription ($after: String) { notes(after: $after) { told } }"
USED_TWICE = "subscription ($after: String) { notes(after: $after) { altered(value: $after) } }"


async def test_where_one_begins_does_not_prevent_sharing(stage: Stage) -> None:
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


async def test_a_variable_that_is_more_than_a_position_counts(stage: Stage) -> None:
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


# The rights of each


async def test_per_viewer_runs_with_each_ones_own_viewer_and_context(stage: Stage) -> None:
    stage.choose = lambda _info: stage.topics.subscribe(stage.notes, per_viewer=True)
    stage.tell = lambda text, info: [text, current_principal().subject, name_of(info)]
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        after = await stage.now()
        for socket in both:
            await socket.subscribe("1", TOLD, extensions={"after": after})
        await stage.say("hi")
        assert await told(both) == [["hi", "alice", "alice"], ["hi", "bob", "bob"]]
        assert sizes(router) == []


async def test_the_right_is_asked_for_each_subscriber(stage: Stage) -> None:
    request = list[str]()

    def may(principal: Principal, action: str, topic: str) -> bool:
        request.append(principal.subject)
        return principal.subject != "mallory"

    router = stage.router(may=may)
    async with audience(router, "alice", "mallory", "bob") as (alice, mallory, bob):
        await subscribe_all(router, [alice], TOLD)
        await mallory.subscribe("1", TOLD)
        assert (await mallory.error("1"))[0]["extensions"]["code"] == "FORBIDDEN"
        await subscribe_all(router, [bob], TOLD)
        await stage.say("hi")
        assert await told([alice, bob]) == ["hi"] * 2
        await mallory.is_silent()
    assert request == ["alice", "mallory", "bob"]


async def test_nobody_without_the_right_joins_by_an_old_cursor(stage: Stage) -> None:
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        cursor = await stage.now()
        await subscribe_all(router, [alice], TOLD)
        await stage.say("hi")
        await told([alice])
    async with audience(router, "mallory", subscribe=["elsewhere"]) as (mallory,):
        await mallory.subscribe("1", TOLD, extensions={"after": cursor})
        assert (await mallory.error("1"))[0]["extensions"]["code"] == "FORBIDDEN"
        await mallory.is_silent()


async def test_a_token_that_expires_ends_its_member_and_no_other(stage: Stage) -> None:
    def authenticate(given: str | None, _connection: Any) -> Principal:
        lifetime = timedelta(milliseconds=200) if given == "brief" else timedelta(hours=1)
        return Principal(str(given), datetime.now(UTC) + lifetime, subscribe=("*",))

    router = stage.router(authenticate=authenticate)
    async with running(application(router)) as origin:  # noqa: SIM117
        async with open_socket(f"ws://{origin}") as alice, open_socket(f"ws://{origin}") as brief:
            await alice.init({"token": "alice"})
            await subscribe_all(router, [alice], TOLD)
            await brief.init({"token": "brief"})
            await subscribe_all(router, [brief], TOLD)
            await stage.say("before")
            assert await told([alice, brief]) == ["before"] * 2
            assert (await brief.closed()).code == 4403
            await joined(router, 1)
            await stage.say("after")
            assert await told([alice]) == ["after"]


# Who leaves


async def test_whoever_completes_leaves_the_group(stage: Stage) -> None:
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice, bob], TOLD)
        await alice.complete("1")
        await joined(router, 1)
        await stage.say("hi")
        assert await told([bob]) == ["hi"]
        await alice.is_silent()


async def test_the_last_one_leaves_nothing_behind(stage: Stage) -> None:
    router = stage.router()
    async with running(application(router)) as origin, open_socket(f"ws://{origin}") as socket:
        await socket.init({"token": token("alice")})
        await socket.is_silent()
        tasks = asyncio.all_tasks()
        for document in (TOLD, LATER, PLAIN):
            await subscribe_all(router, [socket], document)
            await stage.say("hi")
            await socket.next("1")
            await socket.complete("1")
            await wait_until(lambda: not stage.listens)
            assert not groups(router)
            await wait_until(lambda: asyncio.all_tasks() <= tasks)


async def test_a_connection_that_breaks_leaves_its_groups(stage: Stage) -> None:
    router = stage.router()
    async with audience(router, "alice", "bob") as (alice, bob):
        await subscribe_all(router, [alice, bob], TOLD)
        alice.connection.transport.abort()
        await joined(router, 1)
        bob.connection.transport.abort()
        await wait_until(lambda: not groups(router) and not stage.listens)


@pytest.mark.parametrize("how", ["complete", "break"])
async def test_a_resolver_that_swallows_its_cancellation_joins_no_group(
    stage: Stage, how: str
) -> None:
    begun, swallowed = asyncio.Event(), asyncio.Event()

    async def choose(_info: Info) -> Subscription[Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        return stage.topics.subscribe(stage.notes)

    stage.choose = choose
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await alice.subscribe("1", TOLD)
        await begun.wait()
        if how == "complete":
            await alice.complete("1")
        else:
            alice.connection.transport.abort()
        await swallowed.wait()
        await wait_until(lambda: not groups(router) and not stage.listens)
        await stage.say("nobody listens")
        if how == "complete":
            await alice.is_silent()


async def test_an_operation_that_ends_while_its_client_completes_it_harms_no_other(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = GraphQLTransportWSHandler._receive

    def ending(self: GraphQLTransportWSHandler, message: Any) -> Any:
        if '"complete"' in message:
            # In this very turn the group has come to its end.
            for group in groups(router):
                if any(getattr(member, "id", None) == "1" for member in group._members):
                    group._end([])
        return receive(self, message)

    monkeypatch.setattr(GraphQLTransportWSHandler, "_receive", ending)
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], TOLD)
        await alice.subscribe("2", PLAIN)
        await joined(router, 2)
        await alice.complete("1")
        await joined(router, 1)
        await stage.say("hi")
        while (message := await alice.receive())["id"] != "2":
            assert message == {"type": "complete", "id": "1"}
        assert message["payload"]["data"] == {"notes": {"text": "hi"}}


async def test_an_extension_whose_end_is_interrupted_leaves_nothing_behind() -> None:
    inside, gate = asyncio.Event(), asyncio.Event()

    class Lingering(SchemaExtension):
        async def on_operation(self) -> Any:
            try:
                yield
            finally:
                inside.set()
                await gate.wait()

    stage = Stage(extensions=[Lingering])
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await alice.subscribe("1", TOLD)
        await inside.wait()
        await alice.complete("1")
        await wait_until(lambda: not stage.listens)
        assert not groups(router)
