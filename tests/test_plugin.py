"""The router in an ordinary application: what changes with the import is only what it adds."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx
import pytest
import strawberry
from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, Response
from strawberry.exceptions import ConnectionRejectionError
from strawberry.extensions import MaskErrors, QueryDepthLimiter, SchemaExtension
from strawberry.fastapi import BaseContext
from strawberry.fastapi import GraphQLRouter as StrawberryRouter
from strawberry.file_uploads import Upload
from strawberry.permission import BasePermission
from strawberry.schema.config import StrawberryConfig
from strawberry.types import Info
from strawberry.types.unset import UNSET

from gqlnotify import (
    GraphQLRouter,
    Principal,
    Settings,
    Topic,
    TopicManager,
    authorize,
    current_principal,
    errors,
)
from tests.e2e.conftest import SECRET
from tests.e2e.raw import Socket, open_socket
from tests.e2e.tokens import token
from tests.servers import patience, running
from tests.waiting import wait_until

Router = type[Any]

EVENT_STREAM = {"accept": "text/event-stream"}
MULTIPART = {"accept": "multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/json"}
SSE = "graphql-sse"
HELLO = "{ hello }"
COUNT = "subscription { count(to: 2) }"


@pytest.fixture(params=[StrawberryRouter, GraphQLRouter], ids=["strawberry", "gqlnotify"])
def router(request: pytest.FixtureRequest) -> Router:
    chosen: Router = request.param
    return chosen


def secret() -> int:
    raise ValueError("a secret of the house")


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "world"

    @strawberry.field
    def fails(self) -> str | None:
        raise ValueError("a secret of the house")

    @strawberry.field
    def nested(self) -> "Query":
        return Query()

    @strawberry.field
    def greeting(self, info: Info) -> str:
        context = info.context
        return str(context["greeting"] if isinstance(context, dict) else context.greeting)

    @strawberry.field
    def root(self, info: Info) -> str:
        return str(info.root_value)

    @strawberry.field
    def parameters(self, info: Info) -> str:
        context = info.context
        found = context if isinstance(context, dict) else vars(context)
        return json.dumps(found.get("connection_params"))

    @strawberry.field
    def with_cookie(self, info: Info) -> bool:
        info.context["response"].set_cookie("flavour", "vanilla")
        info.context["response"].status_code = 202
        return True


@strawberry.type
class Mutation:
    @strawberry.mutation
    def echo(self, text: str) -> str:
        return text

    @strawberry.mutation
    async def read(self, file: Upload) -> str:
        content: bytes = await file.read()  # type: ignore[attr-defined]
        await file.close()  # type: ignore[attr-defined]
        return content.decode()


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(1, to + 1):
            yield number

    @strawberry.subscription
    async def greetings(self, info: Info) -> AsyncIterator[str]:
        context = info.context
        yield str(context["greeting"] if isinstance(context, dict) else context.greeting)

    @strawberry.subscription
    async def fails(self) -> AsyncIterator[int]:
        yield secret()

    @strawberry.subscription
    async def nested(self) -> AsyncIterator[Query]:
        yield Query()


def schema_of(**options: Any) -> strawberry.Schema:
    return strawberry.Schema(Query, Mutation, Subscription, **options)


def application(router: Any, **options: Any) -> FastAPI:
    app = FastAPI(**options)
    app.include_router(router, prefix="/graphql")
    return app


def client_of(origin: str, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://{origin}", trust_env=False, timeout=30, verify=False, **options
    )


@asynccontextmanager
async def http(router: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with running(application(router)) as origin, client_of(origin, **options) as client:
        yield client


@asynccontextmanager
async def websocket(router: Any, **options: Any) -> AsyncIterator[Socket]:
    async with (
        running(application(router)) as origin,
        open_socket(f"ws://{origin}", **options) as socket,
    ):
        yield socket


async def post(client: httpx.AsyncClient, query: str, **options: Any) -> Any:
    answer = await client.post("/graphql", json={"query": query}, **options)
    return answer.json()


def events(text: str) -> list[tuple[str, Any]]:
    """Read server-sent events: the name of each and its JSON."""
    found: list[tuple[str, Any]] = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            found.append((fields["event"], json.loads(fields.get("data") or "null")))
    return found


def parts(text: str) -> list[Any]:
    """Read the payloads of a multipart subscription."""
    bodies = (part.partition("\r\n\r\n")[2] for part in text.split("--graphql"))
    payloads = (json.loads(body) for body in bodies if body.strip())
    return [payload["payload"] for payload in payloads if payload]


# What stays as it is


async def test_queries_and_mutations_over_http_stay_as_they_are(router: Router) -> None:
    async with http(router(schema_of())) as client:
        assert await post(client, HELLO) == {"data": {"hello": "world"}}
        assert await post(client, 'mutation { echo(text: "a") }') == {"data": {"echo": "a"}}
        by_get = await client.get("/graphql", params={"query": HELLO})
        assert by_get.json() == {"data": {"hello": "world"}}
        assert by_get.headers["content-type"].startswith("application/json")
        result = await post(client, "{ fails }")
        assert result["data"] == {"fails": None}
        assert result["errors"][0]["message"] == "a secret of the house"
        assert (await post(client, "{ unknown }"))["data"] is None


async def test_operations_over_websocket_stay_as_they_are(router: Router) -> None:
    async with websocket(router(schema_of())) as socket:
        await socket.init()
        assert await socket.query(HELLO) == {"hello": "world"}
        assert await socket.query('mutation { echo(text: "a") }') == {"echo": "a"}
        await socket.subscribe("1", COUNT)
        assert await socket.next("1") == {"data": {"count": 1}}
        assert await socket.next("1") == {"data": {"count": 2}}
        await socket.completed("1")


def greeting_in_a_dict(accept_language: Annotated[str, Header()] = "en") -> dict[str, Any]:
    return {"greeting": f"hello in {accept_language}"}


class Greeting(BaseContext):
    def __init__(self, accept_language: Annotated[str, Header()] = "en") -> None:
        super().__init__()
        self.greeting = f"hello in {accept_language}"


async def greeting_later(accept_language: Annotated[str, Header()] = "en") -> dict[str, Any]:
    return greeting_in_a_dict(accept_language)


def greeting_in_an_object(context: Annotated[Greeting, Depends()]) -> Greeting:
    return context


@pytest.mark.parametrize(
    "getter", [greeting_in_a_dict, greeting_later, greeting_in_an_object, Greeting]
)
async def test_the_context_getter_has_its_dependencies(
    router: Router, getter: Callable[..., Any]
) -> None:
    app = application(router(schema_of(), context_getter=getter))
    headers = {"accept-language": "nl"}
    async with running(app) as origin, client_of(origin, headers=headers) as client:
        assert await post(client, "{ greeting }") == {"data": {"greeting": "hello in nl"}}
        async with open_socket(f"ws://{origin}", additional_headers=headers) as socket:
            await socket.init({"a": 1})
            assert await socket.query("{ greeting }") == {"greeting": "hello in nl"}
            assert await socket.query("{ parameters }") == {"parameters": '{"a": 1}'}
            await socket.subscribe("1", "subscription { greetings }")
            assert await socket.next("1") == {"data": {"greetings": "hello in nl"}}


async def test_an_unusable_context_is_refused(router: Router) -> None:
    app = application(router(schema_of(), context_getter=lambda: "no context"))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.post("/graphql", json={"query": HELLO})).status_code == 500


async def test_the_root_value_getter_has_its_dependencies(router: Router) -> None:
    async def root_value(greeting: Annotated[Any, Depends(greeting_in_a_dict)]) -> str:
        return str(greeting["greeting"])

    app = application(router(schema_of(), root_value_getter=root_value))
    async with running(app) as origin, client_of(origin) as client:
        assert await post(client, "{ root }") == {"data": {"root": "hello in en"}}
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            assert await socket.query("{ root }") == {"root": "hello in en"}


async def test_a_resolver_sets_cookies_and_the_status(router: Router) -> None:
    async with http(router(schema_of())) as client:
        answer = await client.post("/graphql", json={"query": "{ withCookie }"})
    assert answer.status_code == 202
    assert answer.cookies["flavour"] == "vanilla"


async def test_the_page_of_the_ide_is_served(router: Router) -> None:
    async with http(router(schema_of())) as client:
        page = await client.get("/graphql", headers={"accept": "text/html"})
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "GraphiQL" in page.text


async def test_without_an_ide_its_page_is_not_found(router: Router) -> None:
    async with http(router(schema_of(), graphql_ide=None)) as client:
        assert (await client.get("/graphql", headers={"accept": "text/html"})).status_code == 404


async def test_server_sent_events_stay_as_they_are(router: Router) -> None:
    async with http(router(schema_of(), subscription_protocols=[SSE])) as client:
        answer = await client.post("/graphql", json={"query": COUNT}, headers=EVENT_STREAM)
        assert answer.headers["content-type"].startswith("text/event-stream")
        streamed = events(answer.text)
        single = await client.post("/graphql", json={"query": HELLO}, headers=EVENT_STREAM)
        by_get = await client.get("/graphql", params={"query": COUNT}, headers=EVENT_STREAM)
        mutation = await client.get(
            "/graphql", params={"query": 'mutation { echo(text: "a") }'}, headers=EVENT_STREAM
        )
    assert [(name, data and data["data"]) for name, data in streamed] == [
        ("next", {"count": 1}),
        ("next", {"count": 2}),
        ("complete", None),
    ]
    assert [name for name, _ in events(single.text)] == ["next", "complete"]
    assert by_get.text == answer.text
    assert '"echo":"a"' not in mutation.text


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_queries_by_get_are_refused_where_the_application_says_so(
    router: Router, method: str
) -> None:
    made = router(
        schema_of(), allow_queries_via_get=False, graphql_ide=None, subscription_protocols=[SSE]
    )
    async with http(made) as client:
        for headers in ({}, EVENT_STREAM):
            sent = {"params": {"query": HELLO}} if method == "GET" else {"json": {"query": HELLO}}
            answer = await client.request(method, "/graphql", headers=headers, **sent)  # type: ignore[arg-type]
            assert ("world" in answer.text) is (method == "POST")


@pytest.mark.parametrize(
    "query", [None, "{", "{ unknown }", "query A { hello }", "subscription { fails }"]
)
async def test_a_stream_that_cannot_begin_answers_the_same(query: str | None) -> None:
    body = {"query": query, "operationName": "B" if query and "A" in query else None}
    answers = []
    for router in (StrawberryRouter, GraphQLRouter):
        app = application(router(schema_of(), subscription_protocols=[SSE]))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answers.append(await client.post("/graphql", json=body, headers=EVENT_STREAM))
    stock, ours = answers
    assert ours.status_code < 500
    if stock.status_code == 200:
        # The words for a mistake are ours, with a code.
        ours_told, stock_told = events(ours.text), events(stock.text)
        assert [kind for kind, _ in ours_told] == [kind for kind, _ in stock_told]
        assert [_outline(result) for _, result in ours_told] == [
            _outline(result) for _, result in stock_told
        ]


def _outline(result: Any) -> Any:
    return result and {**result, "errors": len(result.get("errors", ()))}


async def test_multipart_subscriptions_stay_as_they_are(router: Router) -> None:
    made = router(schema_of(), subscription_protocols=["multipart-subscription"])
    async with http(made) as client:
        answer = await client.post("/graphql", json={"query": COUNT}, headers=MULTIPART)
    assert answer.headers["content-type"].startswith("multipart/mixed;boundary=graphql")
    assert [part["data"] for part in parts(answer.text)] == [{"count": 1}, {"count": 2}]


async def test_the_legacy_protocol_is_spoken_where_it_is_asked_for(router: Router) -> None:
    made = router(schema_of(), subscription_protocols=["graphql-ws", "graphql-transport-ws"])
    async with websocket(made, subprotocols=["graphql-ws"]) as socket:
        assert socket.connection.subprotocol == "graphql-ws"
        await socket.send({"type": "connection_init"})
        assert await socket.receive() == {"type": "connection_ack"}
        await socket.send({"id": "1", "type": "start", "payload": {"query": COUNT}})
        received = [await socket.receive() for _ in range(3)]
    assert [message["type"] for message in received] == ["data", "data", "complete"]


async def test_files_are_uploaded(router: Router) -> None:
    query = "mutation ($file: Upload!) { read(file: $file) }"
    operations = json.dumps({"query": query, "variables": {"file": None}})
    form = {"operations": operations, "map": json.dumps({"0": ["variables.file"]})}
    async with http(router(schema_of(), multipart_uploads_enabled=True)) as client:
        answer = await client.post("/graphql", data=form, files={"0": b"content"})
    assert answer.json() == {"data": {"read": "content"}}


async def test_batches_are_answered_in_their_order(router: Router) -> None:
    config = StrawberryConfig(batching_config={"max_operations": 2})
    batch = [{"query": HELLO}, {"query": 'mutation { echo(text: "a") }'}]
    async with http(router(schema_of(config=config))) as client:
        answer = await client.post("/graphql", json=batch)
        assert [result["data"] for result in answer.json()] == [{"hello": "world"}, {"echo": "a"}]
        assert (await client.post("/graphql", json=[*batch, *batch])).status_code == 400


async def test_a_batch_is_refused_where_batching_is_off(router: Router) -> None:
    async with http(router(schema_of())) as client:
        assert (await client.post("/graphql", json=[{"query": HELLO}])).status_code == 400


async def test_positional_arguments_are_strawberrys(router: Router) -> None:
    made = router(schema_of(), "/api", None, False, False, 1, None, greeting_in_a_dict)
    async with running(application(made)) as origin, client_of(origin) as client:
        answer = await client.post("/graphql/api", json={"query": "{ greeting }"})
        assert answer.json() == {"data": {"greeting": "hello in en"}}
        assert (await client.get("/graphql/api", params={"query": HELLO})).status_code in {400, 405}


async def test_the_routers_dependencies_guard_http(router: Router) -> None:
    def refuse() -> None:
        raise HTTPException(418)

    async with http(router(schema_of(), dependencies=[Depends(refuse)])) as client:
        assert (await client.post("/graphql", json={"query": HELLO})).status_code == 418


async def test_a_socket_of_a_strange_origin_is_refused(router: Router) -> None:
    app = application(router(schema_of(), allowed_origins=["https://friend.example"]))
    async with running(app) as origin:
        friend = {"origin": "https://friend.example"}
        async with open_socket(f"ws://{origin}", additional_headers=friend) as socket:
            await socket.init()
        with pytest.raises(Exception, match="403"):
            async with open_socket(
                f"ws://{origin}", additional_headers={"origin": "https://stranger.example"}
            ):
                pass


async def test_the_limits_given_to_the_constructor_apply(router: Router) -> None:
    made = router(
        schema_of(),
        max_subscriptions_per_connection=0,
        connection_init_wait_timeout=timedelta(milliseconds=50),
    )
    async with running(application(made)) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            await socket.subscribe("1", HELLO)
            assert "limit" in (await socket.error("1"))[0]["message"].lower()
        async with open_socket(f"ws://{origin}") as socket:
            assert (await socket.closed()).code == 4408


async def test_everybodys_lifespan_runs(router: Router) -> None:
    ran: list[str] = []

    def lifespan_of(name: str) -> Any:
        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[None]:
            ran.append(f"{name} starts")
            yield
            ran.append(f"{name} ends")

        return lifespan

    made = router(schema_of(), lifespan=lifespan_of("router"))
    async with running(application(made, lifespan=lifespan_of("app"))):
        assert sorted(ran) == ["app starts", "router starts"]
    assert sorted(ran[2:]) == ["app ends", "router ends"]


async def test_the_state_of_a_lifespan_reaches_the_request() -> None:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        yield {"greeting": "from the lifespan"}

    def getter(request: Request) -> dict[str, Any]:
        return {"greeting": request.state.greeting}

    made = GraphQLRouter(
        schema_of(), context_getter=getter, lifespan=lifespan, topics=TopicManager()
    )
    async with http(made) as client:
        assert await post(client, "{ greeting }") == {"data": {"greeting": "from the lifespan"}}


# Hooks of subclasses


def connecting(router: Router, decide: Callable[[Any], Any]) -> Any:
    class Deciding(router):  # type: ignore[misc]
        async def on_ws_connect(self, context: Any) -> Any:
            return decide(context)

    return Deciding(schema_of())


@pytest.mark.parametrize("payload", [UNSET, {"since": 1}, {}, None])
async def test_on_ws_connect_gives_the_payload_of_the_ack(router: Router, payload: Any) -> None:
    async with websocket(connecting(router, lambda context: payload)) as socket:
        await socket.send({"type": "connection_init"})
        acknowledgement = await socket.receive()
    assert acknowledgement["type"] == "connection_ack"
    assert acknowledgement.get("payload") == (None if payload is UNSET else payload)


async def test_on_ws_connect_sees_the_connection_params(router: Router) -> None:
    made = connecting(router, lambda context: {"seen": context["connection_params"]})
    async with websocket(made) as socket:
        assert (await socket.init({"a": 1}))["payload"] == {"seen": {"a": 1}}


async def test_on_ws_connect_rejects(router: Router) -> None:
    def reject(context: Any) -> None:
        raise ConnectionRejectionError

    async with websocket(connecting(router, reject)) as socket:
        await socket.send({"type": "connection_init"})
        assert (await socket.closed()).code == 4403


@pytest.mark.parametrize("error", [KeyError, AttributeError, RuntimeError, ValueError])
async def test_an_error_in_on_ws_connect_is_the_servers(error: type[Exception]) -> None:
    def fail(context: Any) -> None:
        raise error("on purpose")

    async with websocket(connecting(GraphQLRouter, fail)) as socket:
        await socket.send({"type": "connection_init"})
        close = await socket.closed()
    assert close.code == 4500
    assert "on purpose" not in close.reason


async def test_process_result_shapes_every_http_answer(router: Router) -> None:
    class Marking(router):  # type: ignore[misc]
        async def process_result(self, request: Any, result: Any) -> Any:
            return {**await super().process_result(request, result), "marked": True}

    async with http(Marking(schema_of(), subscription_protocols=[SSE])) as client:
        assert await post(client, HELLO) == {"data": {"hello": "world"}, "marked": True}
        answer = await client.post("/graphql", json={"query": COUNT}, headers=EVENT_STREAM)
    assert [data["marked"] for name, data in events(answer.text) if name == "next"] == [True] * 2


async def test_an_encoder_may_give_bytes(router: Router) -> None:
    class Bytes(router):  # type: ignore[misc]
        def encode_json(self, data: object) -> bytes:
            return json.dumps(data, ensure_ascii=False).encode()

    async with http(Bytes(schema_of(), subscription_protocols=[SSE])) as client:
        assert await post(client, 'mutation { echo(text: "é") }') == {"data": {"echo": "é"}}
        answer = await client.post("/graphql", json={"query": COUNT}, headers=EVENT_STREAM)
        assert len(events(answer.text)) == 3


async def test_an_encoder_that_gives_bytes_still_makes_text_frames() -> None:
    class Bytes(GraphQLRouter[Any, Any]):
        def encode_json(self, data: object) -> bytes:
            return json.dumps(data, ensure_ascii=False).encode()

    async with websocket(Bytes(schema_of())) as socket:
        await socket.init()
        assert await socket.query('mutation { echo(text: "é") }') == {"echo": "é"}


async def test_an_answer_that_cannot_be_encoded_ends_its_operation_alone() -> None:
    class Strict(GraphQLRouter[Any, Any]):
        def encode_json(self, data: object) -> str:
            text = json.dumps(data, ensure_ascii=False)
            text.encode()
            return text

    async with websocket(Strict(schema_of())) as socket:
        await socket.init()
        await socket.subscribe("1", r'mutation { echo(text: "\\ud800") }'.replace("\\\\", "\\"))
        await socket.error("1")
        assert await socket.query(HELLO) == {"hello": "world"}


async def test_a_decoder_is_used_on_every_transport(router: Router) -> None:
    class Deciding(router):  # type: ignore[misc]
        def decode_json(self, data: str | bytes) -> Any:
            text = data if isinstance(data, str) else data.decode()
            return json.loads(text.replace("{ hallo }", HELLO))

    app = application(Deciding(schema_of()))
    async with running(app) as origin, client_of(origin) as client:
        assert await post(client, "{ hallo }") == {"data": {"hello": "world"}}
        if router is GraphQLRouter:
            async with open_socket(f"ws://{origin}") as socket:
                await socket.init()
                assert await socket.query("{ hallo }") == {"hello": "world"}


# Strawberry's extensions


class Recorder(SchemaExtension):
    record: list[str]

    def on_operation(self) -> Iterator[None]:
        self.record.append("operation begins")
        try:
            yield
        finally:
            self.record.append("operation ends")

    def on_validate(self) -> Iterator[None]:
        self.record.append("validate")
        yield

    def on_parse(self) -> Iterator[None]:
        self.record.append("parse")
        yield

    def on_execute(self) -> Iterator[None]:
        self.record.append("execute begins")
        yield
        self.record.append("execute ends")

    def on_stream_result(self, result: Any) -> Iterator[None]:
        self.record.append(f"result {result.data}")
        yield
        self.record.append("result sent")

    def resolve(self, _next: Any, root: Any, info: Any, *args: Any, **kwargs: Any) -> Any:
        self.record.append(f"resolve {info.field_name}")
        return _next(root, info, *args, **kwargs)

    def get_results(self) -> dict[str, Any]:
        return {"recorded": True}


def recording() -> tuple[list[str], type[SchemaExtension]]:
    record: list[str] = []
    return record, type("Recording", (Recorder,), {"record": record})


@pytest.mark.parametrize("document", [HELLO, COUNT, "subscription { nested { hello } }", "{ no }"])
async def test_extensions_run_as_under_strawberry(document: str) -> None:
    records, payloads = [], []
    for router in (StrawberryRouter, GraphQLRouter):
        record, extension = recording()
        async with websocket(router(schema_of(extensions=[extension]))) as socket:
            await socket.init()
            await socket.subscribe("1", document)
            received: list[dict[str, Any]] = []
            while not received or received[-1]["type"] not in {"complete", "error"}:
                received.append(await socket.receive())
        records.append(record)
        payloads.append(received)
    stock, ours = records
    assert ours == stock
    assert payloads[1] == payloads[0]


async def test_masked_errors_stay_masked(router: Router) -> None:
    made = router(schema_of(extensions=[MaskErrors]), subscription_protocols=[
        "graphql-transport-ws", SSE,
    ])  # fmt: skip
    app = application(made)
    async with running(app) as origin, client_of(origin) as client:
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            for query in ("{ fails }", "subscription { fails }"):
                await socket.subscribe("1", query)
                message = await socket.receive()
                assert "secret" not in json.dumps(message)
                assert "Unexpected error" in json.dumps(message)
                if message["type"] == "next":
                    await socket.completed("1")
        answer = await client.post(
            "/graphql", json={"query": "subscription { fails }"}, headers=EVENT_STREAM
        )
        assert "secret" not in answer.text


async def test_the_depth_limiter_limits_subscriptions_too(router: Router) -> None:
    made = router(schema_of(extensions=[lambda: QueryDepthLimiter(max_depth=1)]))
    deep = "nested { nested { nested { hello } } }"
    async with websocket(made) as socket:
        await socket.init()
        for operation in ("query", "subscription"):
            await socket.subscribe("1", f"{operation} {{ {deep} }}")
            assert "depth" in (await socket.error("1"))[0]["message"]


# Topics


@strawberry.type
class Message:
    text: str


MESSAGES = Topic("messages", Message)


class Allowed(BasePermission):
    message = "not you"

    def has_permission(self, source: Any, info: Info, **kwargs: Any) -> bool:
        return bool(info.context["connection_params"].get("allowed"))


class House:
    """An application with one topic."""

    def __init__(self, **options: Any) -> None:  # noqa: C901 - a schema, whose fields need `topics`
        topics = self.topics = TopicManager(
            settings=Settings(broker_url="memory://", topic_linger=0)
        )

        @strawberry.type
        class Query:
            @strawberry.field
            def me(self) -> str:
                return current_principal().subject

            @strawberry.field
            async def cursor(self) -> str:
                return await topics.cursor(MESSAGES)

        @strawberry.type
        class Mutation:
            @strawberry.mutation
            async def say(self, text: str) -> str:
                return str(await topics.publish(MESSAGES, Message(text=text)))

            @strawberry.mutation
            async def say_later(self, info: Info, text: str) -> bool:
                async def publish() -> None:
                    await topics.publish(MESSAGES, Message(text=text))

                info.context["background_tasks"].add_task(publish)
                return True

        @strawberry.type
        class Subscription:
            @strawberry.subscription
            async def messages(self, after: str | None = None) -> AsyncIterator[Message]:
                return topics.subscribe(MESSAGES, after=after)

            @strawberry.subscription
            def at_once(self) -> AsyncIterator[Message]:
                return topics.subscribe(MESSAGES)

            @strawberry.subscription(permission_classes=[Allowed])  # type: ignore[untyped-decorator]
            async def guarded(self) -> AsyncIterator[Message]:
                return topics.subscribe(MESSAGES)

            @strawberry.subscription
            async def wrapped(self) -> AsyncIterator[str]:
                async for message in topics.subscribe(MESSAGES):
                    yield message.text.upper()

            @strawberry.subscription
            async def texts(self) -> AsyncIterator[str]:
                return topics.subscribe(MESSAGES).map(
                    lambda message, event: f"{event.cursor.seq} {message.text}"
                )

            @strawberry.subscription
            async def mine(self) -> AsyncIterator[str]:
                return topics.subscribe(MESSAGES, per_viewer=True).map(
                    lambda message, event: f"{current_principal().subject}: {message.text}"
                )

            @strawberry.subscription
            async def asked_first(self) -> AsyncIterator[Message]:
                await authorize("subscribe", "elsewhere")
                return topics.subscribe(MESSAGES)

        self.schema = strawberry.Schema(Query, Mutation, Subscription, **options)

    async def say(self, text: str) -> str:
        return str(await self.topics.publish(MESSAGES, Message(text=text)))

    def router(self, **options: Any) -> GraphQLRouter[Any, Any]:
        return GraphQLRouter(self.schema, topics=self.topics, **options)

    def locked(self, **options: Any) -> GraphQLRouter[Any, Any]:
        settings = Settings(jwt_secret=SECRET)  # type: ignore[arg-type]
        return self.router(settings=settings, **options)


@pytest.fixture
def house() -> House:
    return House()


MESSAGE_TEXTS = "subscription { messages { text } }"


async def subscribed(socket: Socket, document: str = MESSAGE_TEXTS, **payload: Any) -> None:
    await socket.init()
    await socket.subscribe("1", document, **payload)


async def next_message(house: House, socket: Socket, text: str) -> Any:
    """Publish until it is seen: nothing says from outside when a subscription has begun."""
    receiving = asyncio.create_task(socket.next("1"))
    while not receiving.done():
        await house.say(text)
        await asyncio.wait([receiving], timeout=0.02)
    return await receiving


@pytest.mark.parametrize("field", ["messages", "atOnce"])
async def test_a_topic_streams_with_cursors(house: House, field: str) -> None:
    async with websocket(house.router()) as socket:
        await subscribed(socket, f"subscription {{ {field} {{ text }} }}")
        result = await next_message(house, socket, "hi")
    assert result["data"] == {field: {"text": "hi"}}
    epoch, _ = (await house.topics.cursor(MESSAGES)).split("-")
    assert result["extensions"]["cursor"].startswith(f"{epoch}-")


async def test_a_topic_streams_under_strawberrys_router_too(house: House) -> None:
    async with websocket(StrawberryRouter(house.schema)) as socket:
        await subscribed(socket)
        result = await next_message(house, socket, "hi")
    assert result["data"] == {"messages": {"text": "hi"}}


async def test_a_mapped_stream_sees_the_event_and_keeps_the_cursor(house: House) -> None:
    async with websocket(house.router()) as socket:
        first = await house.say("first")
        second = await house.say("second")
        await subscribed(socket, "subscription { texts }", extensions={"after": first})
        result = await socket.next("1")
    assert result == {"data": {"texts": "2 second"}, "extensions": {"cursor": second}}


async def test_a_permission_class_guards_a_topic_stream(house: House) -> None:
    async with running(application(house.router())) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            await subscribed(socket, "subscription { guarded { text } }")
            assert (await socket.error("1"))[0]["message"] == "not you"
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init({"allowed": True})
            await socket.subscribe("1", "subscription { guarded { text } }")
            result = await next_message(house, socket, "hi")
    assert result["data"] == {"guarded": {"text": "hi"}}
    assert "cursor" in result["extensions"]


async def test_extensions_run_around_a_topic_stream() -> None:
    record, extension = recording()
    house = House(extensions=[extension])
    async with websocket(house.router()) as socket:
        first = await house.say("first")
        cursor = await house.say("second")
        await subscribed(socket, extensions={"after": first})
        result = await socket.next("1")
        await socket.complete("1")
    assert result["extensions"] == {"recorded": True, "cursor": cursor}
    joining = [
        "operation begins",
        "parse",
        "validate",
        "execute begins",
        "execute ends",
        "operation ends",
    ]
    event = [
        "operation begins",
        "execute begins",
        "resolve messages",
        "resolve text",
        "execute ends",
        "result {'messages': {'text': 'second'}}",
        "result sent",
        "operation ends",
    ]
    assert record == joining + event


async def test_an_error_of_ours_goes_through_mask_errors_as_any_other() -> None:
    house = House(extensions=[MaskErrors])
    async with websocket(house.router()) as socket:
        await subscribed(socket, extensions={"after": "1-1"})
        assert (await socket.error("1"))[0]["message"] == "Unexpected error."


# Publishing from anywhere


async def test_a_route_a_background_task_and_a_thread_publish(house: House) -> None:
    app = application(house.router())

    @app.post("/route")
    async def route() -> str:
        return await house.say("route")

    @app.post("/background")
    async def background(tasks: BackgroundTasks) -> None:
        tasks.add_task(house.say, "background")

    @app.post("/thread")
    def thread() -> str:
        assert threading.current_thread() is not threading.main_thread()
        return str(house.topics.publish_sync(MESSAGES, Message(text="thread")))

    async with running(app) as origin, client_of(origin) as client:
        after = await house.topics.cursor(MESSAGES)
        async with open_socket(f"ws://{origin}") as socket:
            await subscribed(socket, extensions={"after": after})
            for path in ("route", "background", "thread"):
                assert (await client.post(f"/{path}")).status_code == 200
                result = await socket.next("1")
                assert result["data"] == {"messages": {"text": path}}
            await post(client, 'mutation { say(text: "resolver") }')
            assert (await socket.next("1"))["data"] == {"messages": {"text": "resolver"}}
            await post(client, 'mutation { sayLater(text: "later") }')
            assert (await socket.next("1"))["data"] == {"messages": {"text": "later"}}


# Resuming over HTTP streams


async def stream_of(answer: httpx.Response, kind: str) -> AsyncIterator[Any]:
    """Yield the results of a stream as they come."""
    async for line in answer.aiter_lines():
        if kind == "sse" and line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))
        if kind == "multipart" and line.startswith('{"payload"'):
            yield json.loads(line)["payload"]


STREAMS = [("sse", EVENT_STREAM), ("multipart", MULTIPART)]
ALL_PROTOCOLS = ["graphql-transport-ws", SSE, "multipart-subscription"]


@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_carries_cursors_and_resumes(
    house: House, kind: str, headers: dict[str, str]
) -> None:
    async with http(house.router(subscription_protocols=ALL_PROTOCOLS)) as client:
        first, second = await house.say("first"), await house.say("second")
        body = {"query": MESSAGE_TEXTS, "extensions": {"after": first}}
        async with patience(), client.stream("POST", "/graphql", json=body, headers=headers) as it:
            results = stream_of(it, kind)
            assert await anext(results) == {
                "data": {"messages": {"text": "second"}},
                "extensions": {"cursor": second},
            }
            third = await house.say("third")
            assert (await anext(results))["extensions"] == {"cursor": third}


@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_cursor_that_expired_is_told_over_http(
    house: House, kind: str, headers: dict[str, str]
) -> None:
    async with http(house.router(subscription_protocols=ALL_PROTOCOLS)) as client:
        body = {"query": MESSAGE_TEXTS, "extensions": {"after": "1-1"}}
        answer = await client.post("/graphql", json=body, headers=headers)
    results = parts(answer.text) if kind == "multipart" else [events(answer.text)[0][1]]
    assert results[0]["errors"][0]["extensions"]["code"] == "CURSOR_EXPIRED"


async def test_a_client_that_leaves_an_http_stream_leaves_nothing_behind(house: House) -> None:
    async with http(house.router(subscription_protocols=ALL_PROTOCOLS)) as client:
        first = await house.say("first")
        await house.say("second")
        body = {"query": MESSAGE_TEXTS, "extensions": {"after": first}}
        async with client.stream("POST", "/graphql", json=body, headers=EVENT_STREAM) as answer:
            await anext(stream_of(answer, "sse"))
            assert house.topics._feeds
        await wait_until(lambda: not house.topics._feeds)


# Tokens over HTTP


def bearer(**options: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {token(**options)}"}


async def test_a_query_needs_a_token(house: House) -> None:
    async with http(house.locked()) as client:
        assert await post(client, "{ me }", headers=bearer()) == {"data": {"me": "alice"}}
        for headers in ({}, {"authorization": "Bearer x"}, bearer(expires_in=-60)):
            for method, sent in (
                ("POST", {"json": {"query": "{ me }"}}),
                ("GET", {"params": {"query": "{ me }"}}),
            ):
                answer = await client.request(method, "/graphql", headers=headers, **sent)  # type: ignore[arg-type]
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.headers["content-type"].startswith("application/")
                [error] = answer.json()["errors"]
                assert error["extensions"]["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_needs_a_token_with_the_right(
    house: House, kind: str, headers: dict[str, str]
) -> None:
    async with http(house.locked(subscription_protocols=ALL_PROTOCOLS)) as client:
        first = await house.say("first")
        await house.say("second")
        body = {"query": MESSAGE_TEXTS, "extensions": {"after": first}}
        nobody = await client.post("/graphql", json=body, headers=headers)
        assert nobody.status_code == 401
        assert nobody.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
        stranger = {**headers, **bearer(subscribe=["elsewhere"])}
        refused = await client.post("/graphql", json=body, headers=stranger)
        assert "FORBIDDEN" in refused.text
        assert "second" not in refused.text
        async with client.stream(
            "POST", "/graphql", json=body, headers={**headers, **bearer(subscribe=["messages"])}
        ) as answer:
            result = await anext(stream_of(answer, kind))
            assert result["data"] == {"messages": {"text": "second"}}


@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_keeps_its_viewer(
    house: House, kind: str, headers: dict[str, str]
) -> None:
    async with http(house.locked(subscription_protocols=ALL_PROTOCOLS)) as client:
        first = await house.say("first")
        await house.say("second")
        body = {"query": "subscription { mine }", "extensions": {"after": first}}
        async with (
            patience(),
            client.stream("POST", "/graphql", json=body, headers={**headers, **bearer()}) as answer,
        ):
            results = stream_of(answer, kind)
            assert (await anext(results))["data"] == {"mine": "alice: second"}
            await house.say("third")
            assert (await anext(results))["data"] == {"mine": "alice: third"}


@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_ends_with_its_token(
    house: House, kind: str, headers: dict[str, str]
) -> None:
    async with http(house.locked(subscription_protocols=ALL_PROTOCOLS)) as client:
        headers = {**headers, **bearer(expires_in=2)}
        # Reading it to its end is the proof: no event comes.
        async with asyncio.timeout(10):
            await client.post("/graphql", json={"query": MESSAGE_TEXTS}, headers=headers)


async def test_publishing_needs_the_right(house: House) -> None:
    async with http(house.locked()) as client:
        say = 'mutation { say(text: "hi") }'
        assert "errors" not in await post(client, say, headers=bearer(publish=["messages"]))
        before = await house.topics.cursor(MESSAGES)
        refused = await post(client, say, headers=bearer(publish=["elsewhere"]))
        assert refused["errors"][0]["extensions"]["code"] == "FORBIDDEN"
        assert await house.topics.cursor(MESSAGES) == before


async def test_the_page_of_the_ide_needs_no_token_and_keeps_none(house: House) -> None:
    async with http(house.locked()) as client:
        page = await client.get("/graphql", headers={"accept": "text/html"})
    assert page.status_code == 200
    assert "shouldPersistHeaders: false" in page.text
    assert "shouldPersistHeaders: true" not in page.text


async def test_asking_for_html_opens_no_query_without_a_token(house: House) -> None:
    async with http(house.locked()) as client:
        for accept in ("text/html", "*/*"):
            headers = {"accept": accept}
            got = await client.get("/graphql", params={"query": "{ cursor }"}, headers=headers)
            assert got.status_code == 401
            assert (await client.post("/graphql", json={}, headers=headers)).status_code == 401
            empty = await client.get("/graphql", params={"query": ""}, headers=headers)
            assert empty.status_code == 401


async def test_a_refused_request_reveals_nothing_of_the_schema(house: House) -> None:
    async with http(house.locked()) as client:
        answer = await client.post("/graphql", json={"query": "{ mee }"})
    assert "me" not in answer.json()["errors"][0]["message"].split()


# Rights on sockets


async def test_a_topic_that_is_wrapped_is_still_refused_without_the_right(house: House) -> None:
    async with websocket(house.locked()) as socket:
        await socket.init({"token": token(subscribe=["elsewhere"])})
        await socket.subscribe("1", "subscription { wrapped }")
        [error] = await socket.error("1")
        assert error["extensions"]["code"] == "FORBIDDEN"


async def test_a_topic_that_is_wrapped_streams_with_the_right(house: House) -> None:
    async with websocket(house.locked()) as socket:
        await socket.init({"token": token(subscribe=["messages"])})
        await socket.subscribe("1", "subscription { wrapped }")
        assert (await next_message(house, socket, "hi"))["data"] == {"wrapped": "HI"}


async def test_authorize_refuses_in_a_resolver(house: House) -> None:
    async with websocket(house.locked()) as socket:
        await socket.init({"token": token(subscribe=["messages"])})
        await socket.subscribe("1", "subscription { askedFirst { text } }")
        [error] = await socket.error("1")
        assert error["extensions"]["code"] == "FORBIDDEN"


async def test_each_socket_keeps_its_own_viewer(house: House) -> None:
    async with (
        running(application(house.locked())) as origin,
        open_socket(f"ws://{origin}") as one,
        open_socket(f"ws://{origin}") as other,
    ):
        await one.init({"token": token("one")})
        await other.init({"token": token("other")})
        assert await one.query("{ me }") == {"me": "one"}
        assert await other.query("{ me }") == {"me": "other"}
        assert await one.query("{ me }") == {"me": "one"}


async def test_a_token_in_the_headers_of_the_handshake_will_do(house: House) -> None:
    async with websocket(house.locked(), additional_headers=bearer()) as socket:
        await socket.init()
        assert await socket.query("{ me }") == {"me": "alice"}


async def test_a_token_that_outlives_every_timer_will_do(house: House) -> None:
    async with websocket(house.locked()) as socket:
        await socket.init({"token": token(exp=253_402_300_799)})
        assert await socket.query("{ me }") == {"me": "alice"}


@pytest.mark.parametrize("exp", [10**20, -1, 1e308, "soon", None, True])
async def test_an_expiry_that_is_no_time_is_refused(house: House, exp: Any) -> None:
    async with websocket(house.locked()) as socket:
        await socket.send({"type": "connection_init", "payload": {"token": token(exp=exp)}})
        assert (await socket.closed()).code in {4401, 4403}


async def test_an_open_server_has_no_viewer(house: House) -> None:
    async with http(house.router()) as client:
        result = await post(client, "{ me }")
    assert result["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_the_legacy_protocol_and_tokens_do_not_mix(house: House) -> None:
    with pytest.raises(ValueError, match="graphql-ws"):
        house.locked(subscription_protocols=["graphql-ws"])


# The two hooks


def by_name(given: str | None, connection: Any) -> Principal:
    if given is None:
        raise errors.Unauthenticated("Who are you?")
    assert connection.headers["host"]
    return Principal(given, subscribe=("*",))


async def by_name_later(given: str | None, connection: Any) -> Principal:
    await asyncio.sleep(0)
    return by_name(given, connection)


@pytest.mark.parametrize("authenticate", [by_name, by_name_later])
async def test_a_hook_replaces_the_check_of_the_token(house: House, authenticate: Any) -> None:
    app = application(house.router(authenticate=authenticate))
    async with running(app) as origin, client_of(origin) as client:
        headers = {"authorization": "Bearer carol"}
        assert await post(client, "{ me }", headers=headers) == {"data": {"me": "carol"}}
        refused = await client.post("/graphql", json={"query": "{ me }"})
        assert refused.status_code == 401
        assert refused.json()["errors"][0]["message"] == "Who are you?"
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init({"token": "carol"})
            assert await socket.query("{ me }") == {"me": "carol"}
        async with open_socket(f"ws://{origin}") as socket:
            await socket.send({"type": "connection_init"})
            close = await socket.closed()
            assert (close.code, close.reason) == (4401, "Who are you?")


def only_alice(principal: Principal, action: str, topic: str) -> bool:
    return (principal.subject, action, topic) == ("alice", "subscribe", "messages")


async def only_alice_later(principal: Principal, action: str, topic: str) -> bool:
    await asyncio.sleep(0)
    return only_alice(principal, action, topic)


@pytest.mark.parametrize("may", [only_alice, only_alice_later])
async def test_a_hook_replaces_the_decision_on_rights(house: House, may: Any) -> None:
    async with running(application(house.locked(may=may))) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init({"token": token("bob")})
            await socket.subscribe("1", MESSAGE_TEXTS)
            assert (await socket.error("1"))[0]["extensions"]["code"] == "FORBIDDEN"
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init({"token": token("alice", subscribe=[])})
            await socket.subscribe("1", MESSAGE_TEXTS)
            await next_message(house, socket, "hi")
            await socket.complete("1")


async def test_a_hook_that_waits_does_not_mix_up_two_answers(house: House) -> None:
    both = asyncio.Barrier(2)

    async def slowly(given: str | None, connection: Any) -> Principal:
        await both.wait()
        return Principal(str(given))

    def getter(request: Request, response: Response) -> None:
        response.headers["x-for"] = request.headers["authorization"]

    router = house.router(authenticate=slowly, context_getter=getter)
    async with http(router) as client, patience():
        names = ["one", "other"]
        answers = await asyncio.gather(
            *(
                client.post("/graphql", json={"query": "{ me }"}, headers={"authorization": name})
                for name in names
            )
        )
    assert [answer.json()["data"]["me"] for answer in answers] == names
    assert [answer.headers["x-for"] for answer in answers] == names


async def test_a_hooks_failure_is_not_a_pass(house: House) -> None:
    def fail(given: str | None, connection: Any) -> Principal:
        raise RuntimeError("on purpose")

    app = application(house.router(authenticate=fail))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.post("/graphql", json={"query": "{ cursor }"})
    assert answer.status_code == 500
    assert "data" not in answer.text


async def test_a_socket_ends_with_its_principal(house: House) -> None:
    def briefly(given: str | None, connection: Any) -> Principal:
        return Principal("brief", expires_at=datetime.now(UTC) + timedelta(milliseconds=100))

    async with websocket(house.router(authenticate=briefly)) as socket:
        await socket.init()
        assert (await socket.closed()).code == 4403
