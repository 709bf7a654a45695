"""The context of an event is released with the event, and the event has a deadline."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest
from strawberry.extensions import MaskErrors, SchemaExtension
from strawberry.types import Info

from gqlnotify import GraphQLRouter, Settings
from gqlnotify.errors import BadUserInput
from tests.applications import MULTIPART, application, client_of, stream_of
from tests.e2e.conftest import SECRET
from tests.e2e.tokens import token
from tests.execution import LATER, PLAIN, TOLD, Stage, audience, codes, subscribe_all, told
from tests.servers import running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes


class Extension(SchemaExtension):
    """Has something to do for each event, so events are executed among the extensions."""

    def on_execute(self) -> Iterator[None]:
        yield


class Resource:
    """Opened and closed, and what a resolver gets."""

    def __init__(self) -> None:
        self.opened = self.closed = 0

    @property
    def open(self) -> bool:
        return self.opened > self.closed

    def begin(self) -> "Resource":
        self.opened += 1
        return self

    def end(self) -> None:
        self.closed += 1


class AsyncManager:
    def __init__(self, resource: Resource) -> None:
        self.resource = resource

    async def __aenter__(self) -> Resource:
        await asyncio.sleep(0)
        return self.resource.begin()

    async def __aexit__(self, *_error: object) -> None:
        await asyncio.sleep(0)
        self.resource.end()


class Pooled(AsyncManager):
    """Can be awaited as well as entered, as the connections of many pools can."""

    def __await__(self) -> Any:
        raise AssertionError("awaited, it is never released")


def by_class(resource: Resource) -> Any:
    return lambda _scope: AsyncManager(resource)


def by_pool(resource: Resource) -> Any:
    return lambda _scope: Pooled(resource)


def by_generator(resource: Resource) -> Any:
    @asynccontextmanager
    async def event_context(_scope: Any) -> AsyncIterator[Resource]:
        async with AsyncManager(resource) as opened:
            yield opened

    return event_context


def by_sync_generator(resource: Resource) -> Any:
    @contextmanager
    def event_context(_scope: Any) -> Iterator[Resource]:
        try:
            yield resource.begin()
        finally:
            resource.end()

    return event_context


def by_coroutine(resource: Resource) -> Any:
    async def event_context(_scope: Any) -> AsyncManager:
        return AsyncManager(resource)

    return event_context


def needs_an_open_resource(text: str, info: Info) -> object:
    assert info.context.open
    if text == "bad":
        raise BadUserInput("on purpose")
    return text


async def needs_it_later(text: str, info: Info) -> object:
    await asyncio.sleep(0)
    return needs_an_open_resource(text, info)


@pytest.fixture(
    params=[(), (Extension,), (lambda: MaskErrors(lambda _error: False),)],
    ids=["plain", "extended", "errors only"],
)
def stage(request: pytest.FixtureRequest) -> Stage:
    stage = Stage(extensions=request.param)
    stage.tell, stage.tell_later = needs_an_open_resource, needs_it_later
    return stage


@pytest.mark.parametrize("document", [TOLD, LATER])
@pytest.mark.parametrize("make", [by_class, by_pool, by_generator, by_sync_generator, by_coroutine])
async def test_a_context_manager_holds_the_context_of_each_event(
    stage: Stage, make: Callable[[Resource], Any], document: str
) -> None:
    resource = Resource()
    router = stage.router(event_context=make(resource))
    field = "told" if document == TOLD else "later"
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, document)
        await stage.say("one", "bad", "two")
        assert await told(both, field) == ["one"] * 2
        assert await codes(both) == ["BAD_USER_INPUT"] * 2
        assert await told(both, field) == ["two"] * 2
        await wait_until(lambda: resource.closed == resource.opened == 3)


async def test_nothing_is_entered_for_an_event_that_is_left_out(stage: Stage) -> None:
    stage.choose = lambda _info: stage.topics.subscribe(
        stage.notes, where=lambda note: note.text != "other"
    )
    resource = Resource()
    router = stage.router(event_context=by_class(resource))
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], TOLD)
        await stage.say("other", "one")
        assert await told([alice]) == ["one"]
    assert resource.opened == resource.closed == 1


async def test_a_plain_selection_needs_no_context() -> None:
    stage, resource = Stage(), Resource()
    router = stage.router(event_context=by_class(resource))
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], PLAIN)
        await stage.say("one")
        assert await told([alice], "text") == ["one"]
    assert resource.opened == 0


async def test_a_context_with_a_close_method_is_not_closed(stage: Stage) -> None:
    class Closable(Resource):
        def close(self) -> None:
            raise AssertionError("closed")

    closable = Closable()
    closable.begin()
    router = stage.router(event_context=lambda _scope: closable)
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], TOLD)
        await stage.say("one")
        assert await told([alice]) == ["one"]


@pytest.mark.parametrize("when", ["enter", "leave"])
@pytest.mark.parametrize("extensions", [(), (MaskErrors,)], ids=["plain", "masked"])
async def test_a_manager_that_fails_costs_one_event(
    when: str, extensions: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    failing = iter([True, False])

    @asynccontextmanager
    async def event_context(_scope: Any) -> AsyncIterator[Any]:
        fails = next(failing)
        if fails and when == "enter":
            raise BadUserInput("the pool is empty")
        yield None
        if fails:
            raise ValueError("the password of the database")

    stage = Stage(extensions=extensions)
    router = stage.router(event_context=event_context)
    async with audience(router, "alice", "bob") as both:
        await subscribe_all(router, both, TOLD)
        await stage.say("bad", "good")
        for socket in both:
            failed = await socket.next("1")
            assert failed["data"] is None
            assert failed["extensions"]["cursor"]
            assert failed["errors"][0]["path"] == ["notes"]
            assert "password" not in str(failed)
        assert await told(both) == ["good"] * 2
    if when == "leave":
        assert "the password of the database" in caplog.text


async def test_a_manager_that_suppresses_exceptions_does_not_suppress_the_answer(
    stage: Stage,
) -> None:
    @asynccontextmanager
    async def event_context(_scope: Any) -> AsyncIterator[Resource]:
        resource = Resource().begin()
        try:
            yield resource
        except Exception:
            resource.end()

    async def cancelled(text: str, info: Info) -> object:
        if text == "bad":
            raise asyncio.CancelledError
        return text

    stage.tell_later = cancelled
    router = stage.router(event_context=event_context)
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], LATER)
        await stage.say("bad", "good")
        assert (await alice.next("1"))["errors"]
        assert await told([alice], "later") == ["good"]


# Deadlines


def impatient(stage: Stage, **options: Any) -> GraphQLRouter[Any, Any]:
    settings = Settings(jwt_secret=SECRET, execution_timeout=0.05)  # type: ignore[arg-type]
    return stage.router(settings=settings, **options)


async def hang(text: str, _info: Info) -> object:
    if text == "hang":
        await asyncio.Event().wait()
    return text


class Stubborn:
    """A resolver that goes on when it is cancelled, until it may end."""

    def __init__(self) -> None:
        self.may_end, self.ended = asyncio.Event(), asyncio.Event()

    async def __call__(self, text: str, _info: Info) -> object:
        if text == "hang":
            while not self.may_end.is_set():
                try:
                    await self.may_end.wait()
                except asyncio.CancelledError:
                    continue
            self.ended.set()
        return text


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_resolver_that_never_returns_ends_its_event(
    stage: Stage, per_viewer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stage.tell_later = hang
    stage.choose = lambda _info: stage.topics.subscribe(stage.notes, per_viewer=per_viewer)
    router = impatient(stage)
    async with audience(router, "alice", "bob") as both:
        after = await stage.now()
        for socket in both:
            await socket.subscribe("1", LATER, extensions={"after": after})
        cursors = [await stage.say("hang"), await stage.say("good")]
        for socket in both:
            late, good = await socket.next("1"), await socket.next("1")
            assert late["data"] is None
            assert late["errors"][0]["extensions"] == {"code": "EXECUTION_TIMEOUT"}
            assert late["errors"][0]["path"] == ["notes"]
            assert [each["extensions"]["cursor"] for each in (late, good)] == cursors
            assert good["data"] == {"notes": {"later": "good"}}
    assert "took too long" in caplog.text


@pytest.mark.parametrize("per_viewer", [False, True], ids=["shared", "per viewer"])
async def test_a_resolver_that_ignores_its_cancellation_does_not_hold_the_others(
    stage: Stage, per_viewer: bool
) -> None:
    stage.choose = lambda _info: stage.topics.subscribe(stage.notes, per_viewer=per_viewer)
    stage.tell_later = stubborn = Stubborn()
    router = impatient(stage)
    async with audience(router, "alice") as (alice,):
        await alice.subscribe("1", LATER, extensions={"after": await stage.now()})
        await stage.say("hang", "good")
        assert await codes([alice]) == ["EXECUTION_TIMEOUT"]
        assert await told([alice], "later") == ["good"]
        stubborn.may_end.set()
        await stubborn.ended.wait()
        await alice.is_silent()


@pytest.mark.parametrize("per_viewer", [False, True], ids=["shared", "per viewer"])
async def test_a_resolver_that_cancels_its_own_task_ends_its_event(
    stage: Stage, per_viewer: bool
) -> None:
    stage.choose = lambda _info: stage.topics.subscribe(stage.notes, per_viewer=per_viewer)

    async def give_up(text: str, _info: Info) -> object:
        task = asyncio.current_task()
        if text == "give up" and task is not None:
            task.cancel()
            await asyncio.sleep(0)
        return text

    stage.tell_later = give_up
    router = stage.router()
    async with audience(router, "alice") as (alice,):
        await alice.subscribe("1", LATER, extensions={"after": await stage.now()})
        await stage.say("give up", "good")
        assert await codes([alice]) == ["EXECUTION_CANCELLED"]
        assert await told([alice], "later") == ["good"]


async def test_the_context_of_an_event_that_took_too_long_is_released(stage: Stage) -> None:
    stage.tell_later = hang
    resource = Resource()
    router = impatient(stage, event_context=by_generator(resource))
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], LATER)
        await stage.say("hang")
        assert await codes([alice]) == ["EXECUTION_TIMEOUT"]
        await wait_until(lambda: resource.closed == 1)


async def test_a_context_that_takes_too_long_ends_its_event(stage: Stage) -> None:
    @asynccontextmanager
    async def event_context(_scope: Any) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    router = impatient(stage, event_context=event_context)
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], TOLD)
        await stage.say("one", "two")
        assert await codes([alice]) == ["EXECUTION_TIMEOUT"]
        assert await codes([alice]) == ["EXECUTION_TIMEOUT"]


async def test_an_extension_that_takes_too_long_ends_its_event() -> None:
    executed = list[str]()

    class Slow(SchemaExtension):
        async def on_execute(self) -> AsyncIterator[None]:
            yield
            if executed == ["hang"]:
                await asyncio.Event().wait()

    stage = Stage(extensions=[Slow])
    stage.executed = executed
    router = impatient(stage)
    async with audience(router, "alice") as (alice,):
        await subscribe_all(router, [alice], TOLD)
        await stage.say("hang")
        assert await codes([alice]) == ["EXECUTION_TIMEOUT"]
        await stage.say("good")
        assert await told([alice]) == ["good"]


async def test_who_resumes_gets_past_an_event_that_takes_too_long(stage: Stage) -> None:
    stage.tell_later = hang
    router = impatient(stage)
    async with AsyncExitStack() as stack:
        (alice,) = await stack.enter_async_context(audience(router, "alice"))
        after = await stage.now()
        await stage.say("hang", "good")
        await alice.subscribe("1", LATER, extensions={"after": after})
        assert await codes([alice]) == ["EXECUTION_TIMEOUT"]
        assert await told([alice], "later") == ["good"]


async def test_a_stream_over_http_goes_on_as_well(stage: Stage) -> None:
    stage.tell_later = hang
    router = impatient(stage, subscription_protocols=("multipart-subscription",))
    headers = {**MULTIPART, "authorization": f"Bearer {token('alice')}"}
    request = {"query": LATER}
    async with (
        running(application(router)) as origin,
        client_of(origin) as client,
        client.stream("POST", "/graphql", json=request, headers=headers) as answer,
    ):
        await wait_until(lambda: "notes" in stage.topics.live_topics.by_name)
        await stage.say("hang", "good")
        results = stream_of(answer, "multipart")
        late, good = await anext(results), await anext(results)
        assert late["errors"][0]["extensions"]["code"] == "EXECUTION_TIMEOUT"
        assert good["data"] == {"notes": {"later": "good"}}
