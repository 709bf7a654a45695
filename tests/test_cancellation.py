"""A client gets an answer if application code awaits something that was cancelled elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from typing import Any, NoReturn

import pytest
import strawberry
from starlette.websockets import WebSocket
from strawberry.extensions import SchemaExtension
from strawberry.schema.config import StrawberryConfig

from gqlnotify import GraphQLRouter, Settings, Subscription, Topic, TopicManager, cancellation
from gqlnotify.cancellation import only_own_cancellation, run_within
from gqlnotify.errors import ExecutionCancelled
from gqlnotify.execution import EventContext
from tests.applications import MULTIPART, SSE, application, client_of, events, parts, websocket
from tests.e2e.raw import open_socket
from tests.servers import running
from tests.waiting import wait_until

CANCELLED = "EXECUTION_CANCELLED"
STREAMS = {
    "shared": "subscription { shared { cancelled } }",
    "per viewer": "subscription { alone { cancelled } }",
    "generator": "subscription { generated { cancelled } }",
}


async def await_a_cancelled_task() -> None:
    job = asyncio.ensure_future(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(job.cancel)
    await job


class Abort(BaseException):
    """Is not an `Exception`."""


NO_EXCEPTIONS: list[type[BaseException]] = [GeneratorExit, Abort, asyncio.CancelledError]


def unless_negative(number: int) -> int:
    if number < 0:
        raise NO_EXCEPTIONS[number]
    return number


@strawberry.type
class Item:
    number: int

    @strawberry.field
    def breaks(self) -> int:
        return unless_negative(self.number)

    @strawberry.field
    async def breaks_later(self) -> int:
        await asyncio.sleep(0)
        return unless_negative(self.number)

    @strawberry.field
    async def cancelled(self) -> int | None:
        if self.number:
            return self.number
        await await_a_cancelled_task()
        return None


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "world"

    @strawberry.field
    async def cancelled(self) -> int | None:
        await await_a_cancelled_task()
        return None

    @strawberry.field
    async def gives_up(self) -> int | None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return None

    @strawberry.field
    def cancelled_at_once(self) -> int | None:
        raise asyncio.CancelledError

    @strawberry.field
    def breaks(self, number: int) -> int:
        raise NO_EXCEPTIONS[number]

    @strawberry.field
    async def scoped(self) -> str:
        """Use code that cancels and uncancels its own task."""
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "in time"
        return "too late"


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def cancelled(self) -> int | None:
        await await_a_cancelled_task()
        return None


class Stage:
    """An application with three kinds of subscriptions to one topic."""

    def __init__(self, *extensions: Any, **options: Any) -> None:
        stage = self
        topics = self.topics = TopicManager(settings=Settings(topic_linger=0))
        self.numbers = Topic("numbers", int)

        def subscribe(per_viewer: bool) -> Subscription[Any]:
            stream = topics.subscribe(self.numbers, per_viewer=per_viewer)
            return stream.map(lambda number, _event: Item(number=number))

        @strawberry.type
        class Feed:
            @strawberry.subscription
            async def shared(self) -> AsyncIterator[Item]:
                return subscribe(per_viewer=False)

            @strawberry.subscription
            async def alone(self) -> AsyncIterator[Item]:
                return subscribe(per_viewer=True)

            @strawberry.subscription
            async def generated(self) -> AsyncIterator[Item]:
                async for number in topics.subscribe(stage.numbers):
                    yield Item(number=number)

        options.setdefault("subscription_protocols", ("graphql-transport-ws", SSE))
        self.router = GraphQLRouter(
            strawberry.Schema(
                Query,
                Mutation,
                Feed,
                extensions=extensions,
                config=StrawberryConfig(batching_config={"max_operations": 3}),
            ),
            topics=topics,
            **options,
        )


class Watching(SchemaExtension):
    """An extension that does nothing, but makes every event go through the extension hooks."""


@pytest.mark.processes
@pytest.mark.parametrize(
    "document", ["{ cancelled }", "{ hello cancelledAtOnce }", "mutation { cancelled }"]
)
async def test_a_query_and_a_mutation_are_answered_over_every_transport(document: str) -> None:
    stage = Stage()
    async with running(application(stage.router)) as origin, client_of(origin) as client:
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            await socket.subscribe("1", document)
            assert (await socket.error("1"))[0]["extensions"]["code"] == CANCELLED
            assert await socket.query("{ hello }") == {"hello": "world"}
        answer = await client.post("/graphql", json={"query": document})
        assert answer.json()["errors"][0]["extensions"]["code"] == CANCELLED
        modern = await client.post(
            "/graphql",
            json={"query": document},
            headers={"accept": "application/graphql-response+json"},
        )
        assert modern.status_code == 500
        assert modern.json()["errors"] == answer.json()["errors"]
        streamed = await client.post(
            "/graphql", json={"query": document}, headers={"accept": "text/event-stream"}
        )
        assert events(streamed.text)[0][1]["errors"][0]["extensions"]["code"] == CANCELLED


@pytest.mark.processes
async def test_a_resolver_that_cancels_its_own_task_is_answered_and_leaves_its_id_free() -> None:
    async with websocket(Stage().router) as socket:
        await socket.init()
        for _ in range(2):
            await socket.subscribe("1", "{ givesUp }")
            assert (await socket.error("1"))[0]["extensions"]["code"] == CANCELLED


@pytest.mark.processes
async def test_in_a_batch_the_other_operations_are_answered() -> None:
    stage = Stage()
    async with running(application(stage.router)) as origin, client_of(origin) as client:
        batch = [{"query": query} for query in ("{ hello }", "{ cancelled }", "{ hello }")]
        first, second, third = (await client.post("/graphql", json=batch)).json()
    assert first["data"] == third["data"] == {"hello": "world"}
    assert second["errors"][0]["extensions"]["code"] == CANCELLED


@pytest.mark.processes
async def test_a_task_group_and_a_timeout_in_a_resolver_work() -> None:
    async with websocket(Stage().router) as socket:
        await socket.init()
        assert await socket.query("{ scoped }") == {"scoped": "in time"}


@pytest.mark.processes
@pytest.mark.parametrize("document", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("extensions", [(), (Watching,)], ids=["plain", "extended"])
async def test_an_event_costs_a_subscription_one_error(
    document: str, extensions: tuple[Any, ...]
) -> None:
    stage = Stage(*extensions)
    async with websocket(stage.router) as socket:
        await socket.init()
        await socket.subscribe("1", document)
        await wait_until(lambda: "numbers" in stage.topics.readers)
        await socket.is_silent()
        await stage.topics.publish(stage.numbers, 0)
        await stage.topics.publish(stage.numbers, 1)
        failed, good = await socket.next("1"), await socket.next("1")
        assert failed["errors"][0]["extensions"]["code"] == CANCELLED
        assert failed["data"] is None
        assert "1" in str(good["data"])
        await socket.complete("1")
        await socket.is_silent()


@pytest.mark.processes
@pytest.mark.parametrize("source", ["shared", "alone", "generated"])
@pytest.mark.parametrize("field", ["breaks", "breaksLater"])
@pytest.mark.parametrize("extensions", [(), (Watching,)], ids=["plain", "extended"])
async def test_a_base_exception_costs_a_subscription_one_error(
    source: str, field: str, extensions: tuple[Any, ...]
) -> None:
    stage = Stage(*extensions)
    async with websocket(stage.router) as socket:
        await socket.init()
        await socket.subscribe("1", f"subscription {{ {source} {{ {field} }} }}")
        await wait_until(lambda: "numbers" in stage.topics.readers)
        await socket.is_silent()
        cursors = [
            str(await stage.topics.publish(stage.numbers, number)) for number in (-1, -2, -3, 1)
        ]
        results = [await socket.next("1") for _ in cursors]
    assert [code_of(result) for result in results] == [CANCELLED] * 3 + [None]
    if source != "generated":
        assert [result["extensions"]["cursor"] for result in results] == cursors


@pytest.mark.processes
@pytest.mark.parametrize("number", range(len(NO_EXCEPTIONS)))
async def test_a_base_exception_gets_an_answer_over_every_transport(number: int) -> None:
    document = f"{{ breaks(number: {number}) }}"
    async with running(application(Stage().router)) as origin, client_of(origin) as client:
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            await socket.subscribe("1", document)
            assert (await socket.error("1"))[0]["extensions"]["code"] == CANCELLED
        answer = await client.post("/graphql", json={"query": document})
        assert code_of(answer.json()) == CANCELLED
        streamed = await client.post(
            "/graphql", json={"query": document}, headers={"accept": "text/event-stream"}
        )
        assert code_of(events(streamed.text)[0][1]) == CANCELLED


def code_of(result: Any) -> Any:
    return result["errors"][0]["extensions"]["code"] if "errors" in result else None


HOOKS = ("on_operation", "on_parse", "on_validate", "on_execute", "get_results")


@pytest.mark.processes
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("document", ["{ hello }", STREAMS["per viewer"]])
async def test_a_hook_of_an_extension_ends_its_operation_only(hook: str, document: str) -> None:
    async def cancelled_hook(self: Any) -> dict[str, Any]:
        if "fine" not in self.execution_context.query:
            await await_a_cancelled_task()
        return {}

    extension = type("Cancelled", (SchemaExtension,), {hook: cancelled_hook})
    stage = Stage(extension)
    async with running(application(stage.router)) as origin, client_of(origin) as client:
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            await socket.subscribe("1", document)
            if hook == "get_results" and document != "{ hello }":
                await wait_until(lambda: "numbers" in stage.topics.readers)
                await stage.topics.publish(stage.numbers, 1)
            assert (await socket.error("1"))[0]["extensions"]["code"] == CANCELLED
            assert await socket.query("{ fine: hello }") == {"fine": "world"}
        answer = await client.post("/graphql", json={"query": "{ hello }"})
        assert CANCELLED in answer.text


@pytest.mark.processes
async def test_a_decision_on_a_connection_is_a_failure() -> None:
    async def cancelled(token: str | None, connection: object) -> Any:
        await await_a_cancelled_task()

    async with running(application(Stage(authenticate=cancelled).router)) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            await socket.send({"type": "connection_init"})
            assert (await socket.closed()).code == 4500
        async with client_of(origin) as client:
            answer = await client.post("/graphql", json={"query": "{ hello }"})
            assert answer.status_code == 500


@pytest.mark.processes
async def test_a_context_getter_is_a_failure() -> None:
    async def context_getter(connection: WebSocket = None) -> Any:  # type: ignore[assignment]
        await await_a_cancelled_task()

    app = application(Stage(context_getter=context_getter).router)
    async with running(app) as origin, client_of(origin) as client:
        answer = await client.post("/graphql", json={"query": "{ hello }"})
        assert answer.status_code == 500


@pytest.mark.processes
async def test_a_streams_shared_event_costs_one_error_over_http() -> None:
    stage = Stage(subscription_protocols=(SSE, "multipart-subscription"))
    async with running(application(stage.router)) as origin, client_of(origin) as client:
        request = {"query": STREAMS["shared"]}
        async with client.stream("POST", "/graphql", json=request, headers=MULTIPART) as answer:
            await wait_until(lambda: "numbers" in stage.topics.readers)
            await stage.topics.publish(stage.numbers, 0)
            await stage.topics.publish(stage.numbers, 1)
            text = ""
            async for chunk in answer.aiter_text():
                text += chunk
                if '"cancelled":1' in text.replace(" ", ""):
                    break
    failed, good = parts(text)
    assert failed["errors"][0]["extensions"]["code"] == CANCELLED
    assert good["data"] == {"shared": {"cancelled": 1}}


# The mechanism


async def test_the_cancellation_of_the_task_itself_passes() -> None:
    began = asyncio.Event()

    async def work() -> None:
        with only_own_cancellation():
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_any_other_cancellation_becomes_an_error() -> None:
    with pytest.raises(ExecutionCancelled), only_own_cancellation():
        await await_a_cancelled_task()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
async def test_an_exception_that_stops_the_event_loop_does_so_after_the_answer(
    stop: type[BaseException],
) -> None:
    def in_a_loop_of_its_own() -> None:
        loop = asyncio.new_event_loop()
        answered, free = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            with pytest.raises(ExecutionCancelled), only_own_cancellation():
                raise stop
            answered.set()
            await free.wait()

        task = loop.create_task(work())
        with pytest.raises(stop):
            loop.run_forever()
        assert answered.is_set()
        free.set()
        loop.run_until_complete(task)
        loop.close()

    await asyncio.to_thread(in_a_loop_of_its_own)


@pytest.mark.parametrize("mistake", [ValueError, GeneratorExit])
async def test_an_error_handler_that_fails_is_an_error_and_leaves_nothing(
    mistake: type[BaseException],
) -> None:
    stopped = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    def fails(_error: Exception) -> NoReturn:
        raise mistake("on purpose")

    for work, seconds in ((hangs, 0), (await_a_cancelled_task, 30)):
        with pytest.raises((mistake, ExecutionCancelled)):
            await result_of(work, seconds, late=fails)
    await stopped.wait()
    await wait_until(lambda: not cancellation._running)


def never(_error: Exception) -> str:
    raise AssertionError("It was in time")


async def result_of(work: Callable[[], Any], seconds: float = 30, late: Any = never) -> Any:
    return await run_within(seconds, work(), late, Context())


async def test_work_within_its_time_has_its_own_end() -> None:
    async def returns() -> str:
        return "done"

    async def raises() -> str:
        raise ValueError("on purpose")

    assert await result_of(returns) == "done"
    with pytest.raises(ValueError, match="on purpose"):
        await result_of(raises)


async def test_work_that_breaks_off_has_the_result_of_its_failure() -> None:
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def raises_no_exception() -> None:
        raise GeneratorExit

    for work in (await_a_cancelled_task, cancels_itself, raises_no_exception):
        failure = await result_of(work, late=lambda error: error)
        assert isinstance(failure, ExecutionCancelled)


async def test_work_that_ignores_its_cancellation_is_not_awaited() -> None:
    ignored, free = asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ignored.set()
        await free.wait()
        return "too late"

    assert await result_of(stubborn, seconds=0, late=lambda _error: "time is up") == "time is up"
    await ignored.wait()
    free.set()


def test_the_default_context_is_no_context_manager() -> None:
    assert not hasattr(EventContext("scope"), "__aenter__")
