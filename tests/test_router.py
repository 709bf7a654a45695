"""The router in an ordinary application: only what it adds differs from Strawberry's."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, Header, HTTPException, Request
from strawberry.exceptions import ConnectionRejectionError
from strawberry.extensions import MaskErrors, QueryDepthLimiter
from strawberry.fastapi import BaseContext
from strawberry.fastapi import GraphQLRouter as StrawberryRouter
from strawberry.schema.config import StrawberryConfig
from strawberry.types.unset import UNSET

from gqlnotify import (
    GraphQLRouter,
    TopicManager,
)
from tests.applications import (
    COUNT,
    EVENT_STREAM,
    HELLO,
    MULTIPART,
    SSE,
    application,
    client_of,
    events,
    http,
    parts,
    post,
    schema_of,
    websocket,
)
from tests.e2e.raw import open_socket
from tests.recorder import recording
from tests.servers import running

Router = type[Any]


@pytest.fixture(params=[StrawberryRouter, GraphQLRouter], ids=["strawberry", "gqlnotify"])
def router(request: pytest.FixtureRequest) -> Router:
    chosen: Router = request.param
    return chosen


# What does not change


@pytest.mark.processes
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


@pytest.mark.processes
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


@pytest.mark.processes
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


@pytest.mark.processes
async def test_the_root_value_getter_has_its_dependencies(router: Router) -> None:
    async def root_value(greeting: Annotated[Any, Depends(greeting_in_a_dict)]) -> str:
        return str(greeting["greeting"])

    app = application(router(schema_of(), root_value_getter=root_value))
    async with running(app) as origin, client_of(origin) as client:
        assert await post(client, "{ root }") == {"data": {"root": "hello in en"}}
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init()
            assert await socket.query("{ root }") == {"root": "hello in en"}


@pytest.mark.processes
async def test_a_resolver_sets_cookies_and_the_status(router: Router) -> None:
    async with http(router(schema_of())) as client:
        answer = await client.post("/graphql", json={"query": "{ withCookie }"})
    assert answer.status_code == 202
    assert answer.cookies["flavour"] == "vanilla"


@pytest.mark.processes
async def test_the_page_of_the_ide_is_served(router: Router) -> None:
    async with http(router(schema_of())) as client:
        page = await client.get("/graphql", headers={"accept": "text/html"})
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "GraphiQL" in page.text


@pytest.mark.processes
async def test_without_an_ide_its_page_is_not_found(router: Router) -> None:
    async with http(router(schema_of(), graphql_ide=None)) as client:
        assert (await client.get("/graphql", headers={"accept": "text/html"})).status_code == 404


@pytest.mark.processes
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


@pytest.mark.processes
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_queries_by_get_are_refused_if_the_application_forbids_them(
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
async def test_a_stream_that_can_not_start_gets_the_same_answer(query: str | None) -> None:
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
        # The error for a bad request is ours, with a code.
        ours_told, stock_told = events(ours.text), events(stock.text)
        assert [kind for kind, _ in ours_told] == [kind for kind, _ in stock_told]
        assert [_outline(result) for _, result in ours_told] == [
            _outline(result) for _, result in stock_told
        ]


@pytest.mark.processes
async def test_a_stream_says_that_the_query_is_missing(router: Router) -> None:
    async with http(router(schema_of(), subscription_protocols=[SSE])) as client:
        answer = await client.post("/graphql", json={}, headers=EVENT_STREAM)
    [(_, result), _] = events(answer.text)
    assert [each["message"] for each in result["errors"]] == [
        'Request data is missing a "query" value'
    ]


def _outline(result: Any) -> Any:
    return result and {**result, "errors": len(result.get("errors", ()))}


@pytest.mark.processes
async def test_multipart_subscriptions_stay_as_they_are(router: Router) -> None:
    made = router(schema_of(), subscription_protocols=["multipart-subscription"])
    async with http(made) as client:
        answer = await client.post("/graphql", json={"query": COUNT}, headers=MULTIPART)
    assert answer.headers["content-type"].startswith("multipart/mixed;")
    assert [part["data"] for part in parts(answer.text)] == [{"count": 1}, {"count": 2}]


@pytest.mark.processes
async def test_the_legacy_protocol_is_served_if_it_is_enabled(router: Router) -> None:
    made = router(schema_of(), subscription_protocols=["graphql-ws", "graphql-transport-ws"])
    async with websocket(made, subprotocols=["graphql-ws"]) as socket:
        assert socket.connection.subprotocol == "graphql-ws"
        await socket.send({"type": "connection_init"})
        assert await socket.receive() == {"type": "connection_ack"}
        await socket.send({"id": "1", "type": "start", "payload": {"query": COUNT}})
        received = [await socket.receive() for _ in range(3)]
    assert [message["type"] for message in received] == ["data", "data", "complete"]


@pytest.mark.processes
async def test_files_are_uploaded(router: Router) -> None:
    query = "mutation ($file: Upload!) { read(file: $file) }"
    operations = json.dumps({"query": query, "variables": {"file": None}})
    form = {"operations": operations, "map": json.dumps({"0": ["variables.file"]})}
    async with http(router(schema_of(), multipart_uploads_enabled=True)) as client:
        answer = await client.post("/graphql", data=form, files={"0": b"content"})
    assert answer.json() == {"data": {"read": "content"}}


@pytest.mark.processes
async def test_batches_are_answered_in_their_order(router: Router) -> None:
    config = StrawberryConfig(batching_config={"max_operations": 2})
    batch = [{"query": HELLO}, {"query": 'mutation { echo(text: "a") }'}]
    async with http(router(schema_of(config=config))) as client:
        answer = await client.post("/graphql", json=batch)
        assert [result["data"] for result in answer.json()] == [{"hello": "world"}, {"echo": "a"}]
        assert (await client.post("/graphql", json=[*batch, *batch])).status_code == 400


@pytest.mark.processes
async def test_a_batch_is_refused_where_batching_is_off(router: Router) -> None:
    async with http(router(schema_of())) as client:
        assert (await client.post("/graphql", json=[{"query": HELLO}])).status_code == 400


@pytest.mark.processes
async def test_positional_arguments_are_strawberrys(router: Router) -> None:
    made = router(schema_of(), "/api", None, False, False, 1, None, greeting_in_a_dict)
    async with running(application(made)) as origin, client_of(origin) as client:
        answer = await client.post("/graphql/api", json={"query": "{ greeting }"})
        assert answer.json() == {"data": {"greeting": "hello in en"}}
        assert (await client.get("/graphql/api", params={"query": HELLO})).status_code in {400, 405}


@pytest.mark.processes
async def test_the_routers_dependencies_guard_http(router: Router) -> None:
    def refuse() -> None:
        raise HTTPException(418)

    async with http(router(schema_of(), dependencies=[Depends(refuse)])) as client:
        assert (await client.post("/graphql", json={"query": HELLO})).status_code == 418


@pytest.mark.processes
async def test_a_socket_of_a_strange_origin_is_refused(router: Router) -> None:
    if not hasattr(router, "is_websocket_origin_allowed"):
        pytest.skip("this version of Strawberry does not check origins")
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


@pytest.mark.processes
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


@pytest.mark.processes
async def test_the_lifespans_of_all_routers_run(router: Router) -> None:
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


@pytest.mark.processes
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


@pytest.mark.processes
@pytest.mark.parametrize("payload", [UNSET, {"since": 1}, {}, None])
async def test_on_ws_connect_gives_the_payload_of_the_ack(router: Router, payload: Any) -> None:
    async with websocket(connecting(router, lambda context: payload)) as socket:
        await socket.send({"type": "connection_init"})
        acknowledgement = await socket.receive()
    assert acknowledgement["type"] == "connection_ack"
    assert acknowledgement.get("payload") == (None if payload is UNSET else payload)


@pytest.mark.processes
async def test_on_ws_connect_sees_the_connection_params(router: Router) -> None:
    made = connecting(router, lambda context: {"seen": context["connection_params"]})
    async with websocket(made) as socket:
        assert (await socket.init({"a": 1}))["payload"] == {"seen": {"a": 1}}


@pytest.mark.processes
async def test_on_ws_connect_rejects(router: Router) -> None:
    def reject(context: Any) -> None:
        raise ConnectionRejectionError

    async with websocket(connecting(router, reject)) as socket:
        await socket.send({"type": "connection_init"})
        assert (await socket.closed()).code == 4403


@pytest.mark.processes
@pytest.mark.parametrize("error", [KeyError, AttributeError, RuntimeError, ValueError])
async def test_an_error_in_on_ws_connect_is_the_servers(error: type[Exception]) -> None:
    def fail(context: Any) -> None:
        raise error("on purpose")

    async with websocket(connecting(GraphQLRouter, fail)) as socket:
        await socket.send({"type": "connection_init"})
        close = await socket.closed()
    assert close.code == 4500
    assert "on purpose" not in close.reason


@pytest.mark.processes
async def test_process_result_shapes_every_http_answer(router: Router) -> None:
    class Marking(router):  # type: ignore[misc]
        async def process_result(self, request: Any, result: Any) -> Any:
            return {**await super().process_result(request, result), "marked": True}

    async with http(Marking(schema_of(), subscription_protocols=[SSE])) as client:
        assert await post(client, HELLO) == {"data": {"hello": "world"}, "marked": True}
        answer = await client.post("/graphql", json={"query": COUNT}, headers=EVENT_STREAM)
    assert [data["marked"] for name, data in events(answer.text) if name == "next"] == [True] * 2


@pytest.mark.processes
async def test_an_encoder_may_give_bytes(router: Router) -> None:
    class Bytes(router):  # type: ignore[misc]
        def encode_json(self, data: object) -> bytes:
            return json.dumps(data, ensure_ascii=False).encode()

    async with http(Bytes(schema_of(), subscription_protocols=[SSE])) as client:
        assert await post(client, 'mutation { echo(text: "é") }') == {"data": {"echo": "é"}}
        answer = await client.post("/graphql", json={"query": COUNT}, headers=EVENT_STREAM)
        assert len(events(answer.text)) == 3


@pytest.mark.processes
async def test_an_encoder_that_returns_bytes_still_makes_text_frames() -> None:
    class Bytes(GraphQLRouter[Any, Any]):
        def encode_json(self, data: object) -> bytes:
            return json.dumps(data, ensure_ascii=False).encode()

    async with websocket(Bytes(schema_of())) as socket:
        await socket.init()
        assert await socket.query('mutation { echo(text: "é") }') == {"echo": "é"}


@pytest.mark.processes
async def test_an_answer_that_can_not_be_encoded_ends_only_its_operation() -> None:
    class Strict(GraphQLRouter[Any, Any]):
        def encode_json(self, data: object) -> str:
            text = json.dumps(data, ensure_ascii=False)
            text.encode()
            return text

    async with websocket(Strict(schema_of())) as socket:
        await socket.init()
        document = "mutation ($text: String!) { echo(text: $text) }"
        await socket.subscribe("1", document, variables={"text": "\ud800"})
        [error] = (await socket.next("1"))["errors"]
        assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
        await socket.completed("1")
        assert await socket.query(HELLO) == {"hello": "world"}


@pytest.mark.processes
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


@pytest.mark.processes
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


@pytest.mark.processes
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


@pytest.mark.processes
async def test_the_depth_limiter_limits_subscriptions(router: Router) -> None:
    made = router(schema_of(extensions=[lambda: QueryDepthLimiter(max_depth=1)]))
    deep = "nested { nested { nested { hello } } }"
    async with websocket(made) as socket:
        await socket.init()
        for operation in ("query", "subscription"):
            await socket.subscribe("1", f"{operation} {{ {deep} }}")
            assert "depth" in (await socket.error("1"))[0]["message"]
