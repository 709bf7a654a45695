"""Spans: when they start and end, their attributes, and that everything works without them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest
import strawberry
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gqlnotify import GraphQLRouter, Topic, TopicManager
from gqlnotify.observability import tracing
from gqlnotify.server.websocket import WebSocketProtocol
from tests.e2e.raw import open_socket
from tests.servers import DIRECT, running, serving

NUMBERS = Topic("numbers", int)
SUBSCRIBE = "subscription Numbers { numbers }"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # Not the process' own provider, which can be set only once and is shared by all tests.
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("gqlnotify"))
    yield exporter
    provider.shutdown()


def application() -> FastAPI:
    topics = TopicManager()

    @strawberry.type
    class Query:
        @strawberry.field
        def hello(self) -> str:
            return "world"

        @strawberry.field
        def inside(self) -> str:
            """The name of the span in which a resolver runs."""
            return str(getattr(trace.get_current_span(), "name", None))

    @strawberry.type
    class Mutation:
        @strawberry.mutation
        async def publish(self, value: int) -> str:
            return str(await topics.publish(NUMBERS, value))

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def numbers(self) -> AsyncIterator[int]:
            return topics.subscribe(NUMBERS)

    app = FastAPI()
    schema = strawberry.Schema(Query, Mutation, Subscription)
    app.include_router(GraphQLRouter(schema, topics=topics), prefix="/graphql")
    return app


def serving_here() -> AbstractAsyncContextManager[str]:
    return running(application(), ws=WebSocketProtocol)


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


@pytest.mark.processes
async def test_one_event_for_many_subscribers_is_one_span(exporter: InMemorySpanExporter) -> None:
    async with (
        serving_here() as address,
        open_socket(f"ws://{address}") as one,
        open_socket(f"ws://{address}") as two,
    ):
        for socket in (one, two):
            await socket.init()
            await socket.subscribe("s", SUBSCRIBE)
            await socket.is_silent()
        await one.subscribe("m", "mutation { publish(value: 7) }")
        assert (await two.next("s"))["data"] == {"numbers": 7}

    [event] = named(exporter, "event")
    assert event.parent is None
    assert event.attributes is not None
    assert event.attributes["graphql.operation.name"] == "Numbers"
    assert event.attributes["messaging.destination.name"] == "numbers"
    assert str(event.attributes["gqlnotify.cursor"]).endswith("-1")
    assert len(named(exporter, "subscription")) == 2
    assert len(named(exporter, "connection_init")) == 2


@pytest.mark.processes
async def test_a_publish_is_within_the_mutation_that_does_it(
    exporter: InMemorySpanExporter,
) -> None:
    async with serving_here() as address, open_socket(f"ws://{address}") as socket:
        await socket.init()
        await socket.query("mutation { publish(value: 7) }")

    [publish] = named(exporter, "publish")
    [mutation] = named(exporter, "mutation")
    assert publish.parent is not None
    assert publish.parent.span_id == mutation.context.span_id
    assert mutation.attributes is not None
    assert mutation.attributes["graphql.operation.type"] == "mutation"


@pytest.mark.processes
async def test_resolvers_run_within_the_span_of_their_operation(
    exporter: InMemorySpanExporter,
) -> None:
    async with serving_here() as address:
        async with open_socket(f"ws://{address}") as socket:
            await socket.init()
            assert await socket.query("{ inside }") == {"inside": "query"}
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            answer = await client.post("/graphql", json={"query": "{ inside }"})
            assert answer.json() == {"data": {"inside": "operation"}}


@pytest.mark.processes
async def test_a_span_holds_no_document_no_value_and_no_token(
    exporter: InMemorySpanExporter,
) -> None:
    async with serving_here() as address, open_socket(f"ws://{address}") as socket:
        await socket.init({"authorization": "Bearer my-own-token"})
        await socket.subscribe("1", 'query { hello(secret: "my-own-token") }')
        await socket.error("1")
        await socket.query("mutation ($v: Int!) { publish(value: $v) }", variables={"v": 1234})

    spans = " ".join(span.to_json() for span in exporter.get_finished_spans())
    assert "sha256:" in spans
    assert "my-own-token" not in spans
    values = [dict(span.attributes or {}) for span in exporter.get_finished_spans()]
    assert 1234 not in {value for attributes in values for value in attributes.values()}
    assert "publish(value" not in spans


def test_a_span_names_an_error_only_by_its_type(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="my-own-token"), tracing.span("failing"):
        raise ValueError("my-own-token")

    [span] = named(exporter, "failing")
    assert span.attributes == {"error.type": "ValueError"}
    assert not span.status.is_ok
    assert "my-own-token" not in span.to_json()


def test_without_a_configuration_no_attributes_are_computed() -> None:
    def attributes() -> dict[str, str]:
        raise AssertionError("nobody records this")

    with tracing.span("nothing", attributes):
        assert not trace.get_current_span().get_span_context().is_valid
    assert tracing.begin("nothing", attributes) is None
    tracing.end(None)


@pytest.mark.processes
async def test_everything_works_where_the_api_is_not_installed(tmp_path: Path) -> None:
    with serving("tests.e2e.app_without_tracing:app", tmp_path, *DIRECT) as server:
        async with open_socket(server.ws) as socket:
            await socket.init()
            await socket.subscribe("s", 'subscription { numbers(name: "n") { value } }')
            await socket.is_silent()
            async with httpx.AsyncClient(base_url=server.http) as client:
                body = {"query": 'mutation { publish(name: "n", value: 7) }'}
                assert "errors" not in (await client.post("/graphql", json=body)).json()
            assert (await socket.next("s"))["data"] == {"numbers": {"value": 7}}
        assert not server.trouble
