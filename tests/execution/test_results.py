"""One event that can't be read, or whose result can't be encoded, costs one error."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

import pytest
import strawberry
from graphql import GraphQLError
from strawberry.extensions import MaskErrors, SchemaExtension
from strawberry.scalars import JSON
from strawberry.schema.config import StrawberryConfig

from gqlnotify import GraphQLRouter, Settings, Topic, TopicManager
from gqlnotify.execution.results import encoding_error
from gqlnotify.observability import metrics
from gqlnotify.topics.subscription import MAX_NOTED
from tests.applications import ALL_PROTOCOLS, STREAMS, events, http, post, stream_of, websocket
from tests.e2e.raw import Socket
from tests.servers import patience
from tests.waiting import wait_until

SECRET = "hunter2"
BAD = json.dumps({"number": SECRET, SECRET: SECRET}).encode()


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def stats_of(number: int) -> JSON:
    return JSON({"values": [1.5, {"mean": float("nan")}] if number < 0 else []})


@strawberry.type
class Item:
    number: int

    @strawberry.field
    def stats(self) -> JSON:
        return stats_of(self.number)


class Shop:
    """One topic, with every kind of subscription."""

    def __init__(self, **options: Any) -> None:  # noqa: C901 - a schema, whose fields need `topics`
        topics = self.topics = TopicManager(
            settings=Settings(broker_url="memory://", topic_linger=0)
        )
        topic = self.topic = Topic("items", Item)
        self.seen: list[Item] = []

        def wanted(item: Item) -> bool:
            self.seen.append(item)
            return True

        @strawberry.type
        class Query:
            @strawberry.field
            def stats(self) -> JSON:
                return stats_of(-1)

            @strawberry.field
            def fine(self) -> int:
                return 1

        @strawberry.type
        class Subscription:
            @strawberry.subscription
            async def shared(self) -> AsyncIterator[Item]:
                return topics.subscribe(topic, where=wanted)

            @strawberry.subscription
            async def alone(self) -> AsyncIterator[Item]:
                return topics.subscribe(topic, per_viewer=True)

            @strawberry.subscription
            async def optional(self) -> AsyncIterator[Item | None]:
                return topics.subscribe(topic)

            @strawberry.subscription
            async def scalar(self) -> AsyncIterator[JSON]:
                return topics.subscribe(topic).map(lambda item, _event: JSON(item.number))

            @strawberry.subscription
            async def fails(self) -> AsyncIterator[int]:
                raise GraphQLError("on purpose", extensions={"load": float("nan")})

            @strawberry.subscription
            async def own(self) -> AsyncIterator[Item]:
                async for item in topics.subscribe(topic):
                    yield item

            @strawberry.subscription
            async def until(
                self, after: str, last: int, fails: bool = False
            ) -> AsyncIterator[Item | None]:
                async for item in topics.subscribe(topic, after=after):
                    if item.number == last:
                        break
                    yield item
                if fails:
                    raise GraphQLError("on purpose")

        self.schema = strawberry.Schema(Query, subscription=Subscription, **options)

    def router(self, **options: Any) -> GraphQLRouter[Any, Any]:
        return GraphQLRouter(
            self.schema, topics=self.topics, subscription_protocols=ALL_PROTOCOLS, **options
        )

    async def publish(self, number: int) -> str:
        return str(await self.topics.publish(self.topic, Item(number=number)))

    async def publish_bad(self) -> str:
        return str(await self.topics.publish_bytes("items", BAD))


def strictly(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


async def received(socket: Socket, count: int) -> list[Any]:
    return [await socket.next("1") for _ in range(count)]


UNTIL = """subscription ($after: String!, $fails: Boolean! = false) {
  until(after: $after, last: 3, fails: $fails) { number }
}"""


def found_in(result: Any) -> Any:
    """Return the number of the item, or the cursor of the event that can't be read."""
    if "errors" not in result:
        return result["data"]["until"]["number"]
    [error] = result["errors"]
    assert error["extensions"]["code"] == "EVENT_UNREADABLE"
    assert SECRET not in json.dumps(result)
    return error["extensions"]["cursor"]


def selection(field: str) -> str:
    return field if field == "scalar" else f"{field} {{ number }}"


class Idle(SchemaExtension):
    """Does nothing, but makes every event go through Strawberry's pipeline."""

    def on_execute(self) -> Iterator[None]:
        yield


def look_at_errors() -> MaskErrors:
    """Make an extension that has nothing to do unless there are errors."""
    return MaskErrors(lambda _error: False)


EXTENSIONS = {"plain": (), "extended": (Idle,), "errors only": (look_at_errors,)}


# Events that can't be read


@pytest.mark.processes
@pytest.mark.parametrize("extensions", EXTENSIONS.values(), ids=EXTENSIONS)
@pytest.mark.parametrize("field", ["shared", "alone", "optional", "scalar"])
@pytest.mark.parametrize("live", [True, False], ids=["live", "replayed"])
async def test_an_unreadable_event_is_an_error_with_its_cursor_and_the_stream_continues(
    field: str, live: bool, extensions: tuple[Any, ...]
) -> None:
    shop = Shop(extensions=extensions)
    async with websocket(shop.router()) as socket:
        await socket.init()
        after = await shop.publish(1)
        bad = None if live else await shop.publish_bad()
        await shop.publish(2)
        document = f"subscription {{ {selection(field)} }}"
        await socket.subscribe("1", document, extensions={"after": after})
        if live:
            await socket.next("1")
            bad = await shop.publish_bad()
            await shop.publish(3)
        unreadable, good = await received(socket, 2)
    assert unreadable["data"] == ({field: None} if field == "optional" else None)
    assert unreadable["extensions"] == {"cursor": bad}
    [error] = unreadable["errors"]
    assert error["extensions"] == {"code": "EVENT_UNREADABLE", "cursor": bad}
    assert error["path"] == [field]
    assert SECRET not in json.dumps(unreadable)
    assert "errors" not in good
    assert all(isinstance(item, Item) for item in shop.seen)


@pytest.mark.processes
async def test_a_client_resumes_after_an_unreadable_event() -> None:
    shop = Shop()
    async with websocket(shop.router()) as socket:
        await socket.init()
        await shop.publish(1)
        bad = await shop.publish_bad()
        await shop.publish(2)
        await socket.subscribe("1", "subscription { shared { number } }", extensions={"after": bad})
        assert (await socket.next("1"))["data"] == {"shared": {"number": 2}}


async def test_a_generator_of_the_application_continues_with_the_next_event() -> None:
    shop = Shop()
    stream = shop.topics.subscribe(shop.topic)
    await stream.start()
    await shop.publish_bad()
    await shop.publish(2)
    assert await anext(stream) == Item(number=2)
    await shop.topics.close()


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
@pytest.mark.parametrize("field", ["shared", "alone"])
async def test_over_http_an_unreadable_event_is_the_same(
    field: str, kind: str, headers: dict[str, str]
) -> None:
    shop = Shop()
    async with http(shop.router()) as client:
        after = await shop.publish(1)
        bad = await shop.publish_bad()
        await shop.publish(2)
        body = {
            "query": f"subscription {{ {field} {{ number }} }}",
            "extensions": {"after": after},
        }
        async with patience(), client.stream("POST", "/graphql", json=body, headers=headers) as it:
            results = stream_of(it, kind)
            unreadable, good = await anext(results), await anext(results)
    assert unreadable["errors"][0]["extensions"] == {"code": "EVENT_UNREADABLE", "cursor": bad}
    assert unreadable["extensions"] == {"cursor": bad}
    assert good["data"] == {field: {"number": 2}}


@pytest.mark.processes
@pytest.mark.parametrize("extensions", EXTENSIONS.values(), ids=EXTENSIONS)
@pytest.mark.parametrize("fails", [False, True])
async def test_a_generator_s_client_gets_the_errors_of_unreadable_events_in_order(
    extensions: tuple[Any, ...], fails: bool
) -> None:
    shop = Shop(extensions=extensions)
    async with websocket(shop.router()) as socket:
        await socket.init()
        after = await shop.publish(0)
        await shop.publish(1)
        bad = [await shop.publish_bad(), await shop.publish_bad()]
        await shop.publish(2)
        bad.append(await shop.publish_bad())
        await shop.publish(3)
        await socket.subscribe("1", UNTIL, variables={"after": after, "fails": fails})
        results = await received(socket, 5)
        await (socket.error("1") if fails else socket.completed("1"))
    assert [found_in(result) for result in results] == [1, bad[0], bad[1], 2, bad[2]]
    assert results[1]["errors"][0]["path"] == ["until"]


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_over_http_a_generator_s_client_gets_the_same_errors(
    kind: str, headers: dict[str, str]
) -> None:
    shop = Shop()
    async with http(shop.router()) as client:
        after = await shop.publish(0)
        bad = await shop.publish_bad()
        await shop.publish(1)
        body = {"query": UNTIL, "variables": {"after": after}}
        async with patience(), client.stream("POST", "/graphql", json=body, headers=headers) as it:
            results = stream_of(it, kind)
            found = [found_in(await anext(results)) for _ in range(2)]
    assert found == [bad, 1]


@pytest.mark.processes
async def test_a_generator_that_yields_nothing_collects_no_end_of_errors() -> None:
    shop = Shop()
    async with websocket(shop.router()) as socket:
        await socket.init()
        after = await shop.publish(0)
        bad = [await shop.publish_bad() for _ in range(MAX_NOTED + 1)]
        await shop.publish(1)
        await socket.subscribe("1", UNTIL, variables={"after": after})
        assert found_in(await socket.next("1")) == bad[1]


@pytest.mark.processes
async def test_mask_errors_hides_the_code_and_not_the_cursor() -> None:
    shop = Shop(extensions=[MaskErrors])
    async with websocket(shop.router()) as socket:
        await socket.init()
        after = await shop.publish(1)
        bad = await shop.publish_bad()
        document = "subscription { shared { number } }"
        await socket.subscribe("1", document, extensions={"after": after})
        result = await socket.next("1")
    assert result["errors"][0]["message"] == "Unexpected error."
    assert result["extensions"] == {"cursor": bad}


@pytest.mark.processes
async def test_an_unreadable_event_is_logged_and_counted_once_without_its_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop()
    before = metrics.unreadable_events._value.get()
    async with websocket(shop.router()) as socket:
        await socket.init()
        after = await shop.publish(1)
        bad = await shop.publish_bad()
        for field in ("shared", "alone"):
            document = f"subscription {{ {field} {{ number }} }}"
            await socket.subscribe("1", document, extensions={"after": after})
            await socket.next("1")
            await socket.complete("1")
    assert metrics.unreadable_events._value.get() == before + 1
    [line] = [r.getMessage() for r in caplog.records if "items" in r.getMessage()]
    assert bad in line
    assert "number int_parsing" in line
    assert SECRET not in caplog.text


# Results that can't be encoded


@pytest.mark.processes
@pytest.mark.parametrize("field", ["shared", "alone", "own"])
@pytest.mark.parametrize("extensions", EXTENSIONS.values(), ids=EXTENSIONS)
async def test_a_result_with_nan_is_an_error_and_the_stream_continues(
    field: str, extensions: tuple[Any, ...]
) -> None:
    shop = Shop(extensions=extensions)
    async with websocket(shop.router()) as socket:
        await socket.init()
        after = await shop.publish(0)
        if field != "own":
            nan, _ = await shop.publish(-1), await shop.publish(1)
            extra = {"extensions": {"after": after}}
            await socket.subscribe("1", f"subscription {{ {field} {{ stats }} }}", **extra)
        else:
            await socket.subscribe("1", f"subscription {{ {field} {{ stats }} }}")
            await wait_until(
                lambda: any(
                    live_topic.subscribers
                    for live_topic in shop.topics.live_topics.by_name.values()
                )
            )
            await shop.publish(-1)
            await shop.publish(1)
        bad, good = await received(socket, 2)
    assert bad["data"] is None
    [error] = bad["errors"]
    assert error == {
        "message": "Internal server error",
        "path": [field, "stats", "values", 1, "mean"],
        "extensions": {"code": "INTERNAL_SERVER_ERROR"},
    }
    if field != "own":
        assert bad["extensions"] == {"cursor": nan}
    assert good["data"] == {field: {"stats": {"values": []}}}


def test_a_result_that_is_nested_too_deeply_is_an_error_of_its_field() -> None:
    error = encoding_error({"stats": nested(100_000)})
    assert error.path == ["stats"]
    assert error.extensions == {"code": "INTERNAL_SERVER_ERROR"}


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_nan_in_a_stream_over_http_is_an_error(kind: str, headers: dict[str, str]) -> None:
    shop = Shop()
    async with http(shop.router()) as client:
        after = await shop.publish(0)
        nan, _ = await shop.publish(-1), await shop.publish(1)
        body = {"query": "subscription { shared { stats } }", "extensions": {"after": after}}
        async with patience(), client.stream("POST", "/graphql", json=body, headers=headers) as it:
            results = stream_of(it, kind)
            bad, good = await anext(results), await anext(results)
    assert bad["errors"][0]["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
    assert (bad["data"], bad["extensions"]) == (None, {"cursor": nan})
    assert good["data"] == {"shared": {"stats": {"values": []}}}


@pytest.mark.processes
@pytest.mark.parametrize("accept", ["application/json", "application/graphql-response+json"])
async def test_a_query_with_nan_is_answered_with_an_error(accept: str) -> None:
    async with http(Shop().router()) as client:
        answer = await client.post(
            "/graphql", json={"query": "{ stats }"}, headers={"accept": accept}
        )
        assert answer.status_code == 200
        result = strictly(answer.text)
        assert await post(client, "{ fine }") == {"data": {"fine": 1}}
    assert result["data"] is None
    assert result["errors"][0]["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}


@pytest.mark.processes
async def test_nan_in_a_batch_affects_only_one_result() -> None:
    shop = Shop(config=StrawberryConfig(batching_config={"max_operations": 3}))
    async with http(shop.router()) as client:
        answer = await client.post("/graphql", json=[{"query": "{ fine }"}, {"query": "{ stats }"}])
    fine, bad = strictly(answer.text)
    assert fine["data"] == {"fine": 1}
    assert (bad["data"], len(bad["errors"])) == (None, 1)


@pytest.mark.processes
async def test_a_connection_ack_with_nan_only_closes_the_socket() -> None:
    class Router(GraphQLRouter[Any, Any]):
        async def on_ws_connect(self, context: Any) -> Any:
            return {"load": float("inf")}

    shop = Shop()
    async with websocket(Router(shop.schema, topics=shop.topics)) as socket:
        await socket.send({"type": "connection_init"})
        assert (await socket.closed()).code == 4500


@pytest.mark.processes
async def test_an_error_with_nan_still_ends_its_operation() -> None:
    shop = Shop()
    async with websocket(shop.router()) as socket:
        await socket.init()
        await socket.subscribe("1", "subscription { fails }")
        [error] = await socket.error("1")
        assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
        await socket.subscribe("1", "{ fine }")
        assert (await socket.next("1"))["data"] == {"fine": 1}


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_an_error_with_nan_is_sent_over_http(kind: str, headers: dict[str, str]) -> None:
    async with http(Shop().router()) as client:
        body = {"query": "subscription { fails }"}
        async with patience(), client.stream("POST", "/graphql", json=body, headers=headers) as it:
            result = await anext(stream_of(it, kind))
    assert result["errors"][0]["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}


# Exceptions before the execution

HOOKS = ("on_operation", "on_parse", "on_validate", "on_execute")
GRAPHQL_RESPONSE = "application/graphql-response+json"


def failing(hook: str, error: Exception) -> type[SchemaExtension]:
    def fail(_self: Any) -> NoReturn:
        raise error

    return type("Failing", (SchemaExtension,), {hook: fail})


async def answer_of(router: Any, transport: str, query: str = "{ fine }") -> Any:
    """Return the errors and, only over HTTP, the status."""
    if transport == "websocket":
        async with websocket(router) as socket:
            await socket.init()
            await socket.subscribe("1", query)
            return await socket.error("1"), None
    async with http(router) as client:
        headers = {"accept": transport}
        answer = await client.post("/graphql", json={"query": query}, headers=headers)
    if transport == "text/event-stream":
        [(_, result), *_] = events(answer.text)
        return result["errors"], None
    return answer.json()["errors"], answer.status_code


TRANSPORTS = {
    GRAPHQL_RESPONSE: 500,
    "application/json": 200,
    "text/event-stream": None,
    "websocket": None,
}


@pytest.mark.processes
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(("transport", "status"), TRANSPORTS.items())
async def test_an_exception_before_the_execution_is_a_server_error_without_details(
    hook: str, transport: str, status: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(extensions=[failing(hook, ValueError(SECRET))])
    errors, found = await answer_of(shop.router(), transport)
    assert found == status
    expected = {"message": "Internal server error", "extensions": {"code": "INTERNAL_SERVER_ERROR"}}
    assert errors == [expected]
    assert SECRET in caplog.text


@pytest.mark.processes
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("transport", ["text/event-stream", "websocket"])
async def test_a_subscription_gets_the_same_error(hook: str, transport: str) -> None:
    shop = Shop(extensions=[failing(hook, ValueError(SECRET))])
    errors, _ = await answer_of(shop.router(), transport, "subscription { own { number } }")
    assert [error["message"] for error in errors] == ["Internal server error"]


@pytest.mark.processes
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_error_that_a_hook_has_for_the_client_arrives(transport: str) -> None:
    shop = Shop(extensions=[failing("on_validate", GraphQLError("not today"))])
    errors, status = await answer_of(shop.router(), transport)
    assert [error["message"] for error in errors] == ["not today"]
    assert status in {400, 200, None}


@pytest.mark.processes
@pytest.mark.parametrize("transport", [GRAPHQL_RESPONSE, "application/json"])
async def test_a_value_that_a_scalar_refuses_is_a_client_error(transport: str) -> None:
    query = """query { until: __type(name: 7) { name } }"""
    errors, status = await answer_of(Shop().router(), transport, query)
    assert "String cannot represent" in errors[0]["message"]
    assert status == (400 if transport == GRAPHQL_RESPONSE else 200)
