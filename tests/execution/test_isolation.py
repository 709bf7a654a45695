"""Nothing passes from one viewer to another if both share an execution."""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from strawberry.extensions import SchemaExtension
from strawberry.types import Info

from gqlnotify import (
    Principal,
    Subscription,
    authorize,
    current_principal,
)
from gqlnotify.auth import viewer
from tests.applications import application, client_of
from tests.e2e.raw import open_socket
from tests.e2e.tokens import token
from tests.execution import (
    LATER,
    TOLD,
    Stage,
    audience,
    codes,
    joined,
    name_of,
    sizes,
    subscribe_all,
    told,
)
from tests.servers import running

pytestmark = pytest.mark.processes

secret: ContextVar[str] = ContextVar("secret", default="nothing")


# Code that asks for the viewer


def by_principal(stage: Stage, info: Info) -> object:
    return current_principal().subject


def from_context(stage: Stage, info: Info) -> object:
    return info.context["connection_params"]


def from_attribute(stage: Stage, info: Info) -> object:
    return info.context.user


def by_subscribing(stage: Stage, info: Info) -> object:
    return stage.topics.subscribe(stage.notes) and None


@pytest.mark.parametrize("reach", [by_principal, from_context, from_attribute, by_subscribing])
async def test_a_shared_resolver_that_asks_for_the_viewer_gets_an_error(
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


async def test_a_filter_that_asks_for_the_viewer_ends_the_operations(stage: Stage) -> None:
    stage.choose = lambda _info: stage.topics.subscribe(
        stage.notes, where=lambda note: bool(note.text == current_principal().subject)
    )
    router = stage.router()
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        await stage.say("alice")
        for socket in both:
            assert (await socket.error("1"))[0]["extensions"]["code"] == "NO_VIEWER"


async def test_the_viewer_of_a_later_operation_is_not_visible(stage: Stage) -> None:
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
    """A context with the cache of a data loader."""

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
            results = [(await socket.next("1"))["data"]["notes"] for socket in both]
            assert results == [{"told": [text], "again": [text, text]}] * 2
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


async def test_no_context_variable_of_others_is_visible(stage: Stage) -> None:
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


async def test_a_resolver_that_changes_its_variables_changes_no_others(stage: Stage) -> None:
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


async def test_a_subscribe_resolver_that_changes_its_variables_prevents_sharing(
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


async def test_the_others_do_not_see_the_cursor_of_the_first_subscriber() -> None:
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


# The rights of each subscriber


async def test_per_viewer_runs_with_the_viewer_and_context_of_each_subscriber(stage: Stage) -> None:
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


async def test_the_right_of_each_subscriber_is_checked(stage: Stage) -> None:
    asked = list[str]()

    def may(principal: Principal, action: str, topic: str) -> bool:
        asked.append(principal.subject)
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
    assert asked == ["alice", "mallory", "bob"]


async def test_an_old_cursor_does_not_replace_the_right(stage: Stage) -> None:
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


async def test_an_expired_token_ends_only_its_own_member(stage: Stage) -> None:
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
