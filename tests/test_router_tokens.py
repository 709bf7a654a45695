"""What the router adds: tokens, and rights to topics, on every transport."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import strawberry
from fastapi import BackgroundTasks, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from gqlnotify import (
    GraphQLRouter,
    Principal,
    Settings,
    TopicManager,
    errors,
)
from gqlnotify.server.websocket import WebSocketProtocol
from tests.applications import (
    ALL_PROTOCOLS,
    STREAMS,
    Query,
    application,
    bearer,
    client_of,
    http,
    post,
    stream_of,
    websocket,
)
from tests.e2e.conftest import SECRET
from tests.e2e.raw import open_socket
from tests.e2e.tokens import token
from tests.message_app import (
    MESSAGE_TEXTS,
    MESSAGES,
    Message,
    MessageApp,
    assert_forbidden,
    next_message,
)
from tests.servers import patience, running

# Over HTTP


@pytest.mark.processes
async def test_a_query_needs_a_token(message_app: MessageApp) -> None:
    async with http(message_app.locked()) as client:
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


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_needs_a_token_with_the_right(
    message_app: MessageApp, kind: str, headers: dict[str, str]
) -> None:
    async with http(message_app.locked(subscription_protocols=ALL_PROTOCOLS)) as client:
        first = await message_app.say("first")
        await message_app.say("second")
        body = {"query": MESSAGE_TEXTS, "extensions": {"after": first}}
        without_token = await client.post("/graphql", json=body, headers=headers)
        assert without_token.status_code == 401
        assert without_token.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
        stranger = {**headers, **bearer(subscribe=["elsewhere"])}
        refused = await client.post("/graphql", json=body, headers=stranger)
        assert "FORBIDDEN" in refused.text
        assert "second" not in refused.text
        async with client.stream(
            "POST", "/graphql", json=body, headers={**headers, **bearer(subscribe=["messages"])}
        ) as answer:
            result = await anext(stream_of(answer, kind))
            assert result["data"] == {"messages": {"text": "second"}}


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_keeps_its_viewer(
    message_app: MessageApp, kind: str, headers: dict[str, str]
) -> None:
    async with http(message_app.locked(subscription_protocols=ALL_PROTOCOLS)) as client:
        first = await message_app.say("first")
        await message_app.say("second")
        body = {"query": "subscription { mine }", "extensions": {"after": first}}
        async with (
            patience(),
            client.stream("POST", "/graphql", json=body, headers={**headers, **bearer()}) as answer,
        ):
            results = stream_of(answer, kind)
            assert (await anext(results))["data"] == {"mine": "alice: second"}
            await message_app.say("third")
            assert (await anext(results))["data"] == {"mine": "alice: third"}


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_ends_with_its_token(
    message_app: MessageApp, kind: str, headers: dict[str, str]
) -> None:
    async with http(message_app.locked(subscription_protocols=ALL_PROTOCOLS)) as client:
        headers = {**headers, **bearer(expires_in=2)}
        # The response ends only because the token expires: no event is published.
        async with patience():
            answer = await client.post("/graphql", json={"query": MESSAGE_TEXTS}, headers=headers)
    assert answer.status_code == 200
    assert "The token has expired" in answer.text


@strawberry.type
class Torrent:
    @strawberry.subscription
    async def torrent(self) -> AsyncIterator[str]:
        while True:
            yield "x" * 1000


def torrent(**options: Any) -> GraphQLRouter[Any, Any]:
    settings = Settings(jwt_secret=SECRET)  # type: ignore[arg-type]
    return GraphQLRouter(
        strawberry.Schema(Query, subscription=Torrent), settings=settings, **options
    )


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_that_never_pauses_ends_with_its_token(
    kind: str, headers: dict[str, str]
) -> None:
    body = {"query": "subscription { torrent }"}
    async with http(torrent(subscription_protocols=ALL_PROTOCOLS)) as client, patience():
        headers = {**headers, **bearer(exp=time.time() + 0.5)}
        async with client.stream("POST", "/graphql", json=body, headers=headers) as answer:
            results = [result async for result in stream_of(answer, kind)]
    assert len(results) > 2
    assert results[-1]["errors"][0]["message"] == "The token has expired"


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_that_never_pauses_ends_when_its_token_is_revoked(
    kind: str, headers: dict[str, str]
) -> None:
    router = torrent(subscription_protocols=ALL_PROTOCOLS)
    assert router.revocations is not None
    body = {"query": "subscription { torrent }"}
    async with http(router) as client, patience():
        headers = {**headers, **bearer(jti="a")}
        async with client.stream("POST", "/graphql", json=body, headers=headers) as answer:
            results = stream_of(answer, kind)
            await anext(results)
            await router.revocations.revoke(token_id="a")
            last = [result async for result in results][-1]
    assert last["errors"][0]["extensions"]["code"] == "TOKEN_REVOKED"


@pytest.mark.processes
@pytest.mark.parametrize("ws", ["auto", WebSocketProtocol])
@pytest.mark.parametrize("how", ["expires", "is revoked"])
async def test_a_socket_that_never_pauses_ends_with_its_token(ws: Any, how: str) -> None:
    router = torrent()
    assert router.revocations is not None
    async with (
        running(application(router), ws=ws) as origin,
        open_socket(f"ws://{origin}") as socket,
        patience(),
    ):
        exp = time.time() + (0.5 if how == "expires" else 600)
        await socket.init({"token": token(exp=exp, jti="a")})
        await socket.subscribe("1", "subscription { torrent }")
        await socket.next("1")
        if how == "is revoked":
            await router.revocations.revoke(token_id="a")
        assert (await socket.closed()).code == 4403


@pytest.mark.processes
async def test_publishing_needs_the_right(message_app: MessageApp) -> None:
    async with http(message_app.locked()) as client:
        say = 'mutation { say(text: "hi") }'
        assert "errors" not in await post(client, say, headers=bearer(publish=["messages"]))
        before = await message_app.topics.cursor(MESSAGES)
        refused = await post(client, say, headers=bearer(publish=["elsewhere"]))
        assert refused["errors"][0]["extensions"]["code"] == "FORBIDDEN"
        assert await message_app.topics.cursor(MESSAGES) == before


# Publishing from threads


class Workshop:
    """An application whose resolvers and routes publish from threads."""

    def __init__(self) -> None:  # noqa: C901 - a schema, whose fields need `topics`
        topics = self.topics = TopicManager(settings=Settings(broker_url="memory://"))

        def publish(**options: Any) -> str:
            return str(topics.publish_sync(MESSAGES, Message(text="from a thread"), **options))

        async def in_executor(work: Callable[[], Any]) -> Any:
            return await asyncio.get_running_loop().run_in_executor(None, work)

        @strawberry.type
        class Mutation:
            @strawberry.mutation
            async def bare(self) -> str:
                return str(await in_executor(publish))

            @strawberry.mutation
            async def bare_with_a_loop_of_its_own(self) -> str:
                async def elsewhere() -> str:
                    return publish()

                return str(await in_executor(lambda: asyncio.run(elsewhere())))

            @strawberry.mutation
            async def to_thread(self) -> str:
                return await asyncio.to_thread(publish)

            @strawberry.mutation
            async def trusted_to_thread(self) -> str:
                return await asyncio.to_thread(publish, trusted=True)

            @strawberry.mutation
            async def copied(self) -> str:
                context = copy_context()
                return str(await in_executor(lambda: context.run(publish)))

            @strawberry.mutation
            async def worker(self) -> str:
                return await run_in_threadpool(publish)

            @strawberry.mutation
            async def later(self) -> str:
                return await asyncio.create_task(asyncio.to_thread(publish))

        @strawberry.type
        class Subscription:
            @strawberry.subscription
            async def made_in_a_bare_thread(
                self, after: str | None = None
            ) -> AsyncIterator[Message]:
                stream: Any = await in_executor(lambda: topics.subscribe(MESSAGES, after=after))
                return stream  # type: ignore[no-any-return]

            @strawberry.subscription
            async def wrapped(self, after: str | None = None) -> AsyncIterator[Message]:
                stream = await in_executor(lambda: topics.subscribe(MESSAGES, after=after))
                async for message in stream:
                    yield message

        self.publish = publish
        self.schema = strawberry.Schema(Query, Mutation, Subscription)

    def application(self) -> FastAPI:
        app = application(GraphQLRouter(self.schema, topics=self.topics, settings=LOCKED))

        @app.post("/route")
        def route(tasks: BackgroundTasks) -> str:
            tasks.add_task(self.publish)
            return self.publish()

        return app


LOCKED = Settings(jwt_secret=SECRET)  # type: ignore[arg-type]


@pytest.mark.processes
@pytest.mark.parametrize("field", ["bare", "bareWithALoopOfItsOwn"])
@pytest.mark.parametrize("rights", [["messages"], []])
async def test_a_thread_that_does_not_know_its_viewer_publishes_nothing(
    field: str, rights: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    workshop = Workshop()
    async with running(workshop.application()) as origin, client_of(origin) as client:
        before = await workshop.topics.cursor(MESSAGES)
        refused = await post(client, f"mutation {{ {field} }}", headers=bearer(publish=rights))
        assert refused["errors"][0]["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
        assert await workshop.topics.cursor(MESSAGES) == before
    assert "asyncio.to_thread" in caplog.text


@pytest.mark.processes
@pytest.mark.parametrize("field", ["toThread", "trustedToThread", "copied", "worker", "later"])
async def test_a_thread_that_knows_its_viewer_needs_the_right_and_no_more(field: str) -> None:
    workshop = Workshop()
    async with running(workshop.application()) as origin, client_of(origin) as client:
        before = await workshop.topics.cursor(MESSAGES)
        mutation = f"mutation {{ {field} }}"
        refused = await post(client, mutation, headers=bearer(publish=["elsewhere"]))
        assert refused["errors"][0]["extensions"]["code"] == "FORBIDDEN"
        assert await workshop.topics.cursor(MESSAGES) == before
        done = await post(client, mutation, headers=bearer(publish=["messages"]))
        assert done["data"] == {field: await workshop.topics.cursor(MESSAGES)}


@pytest.mark.processes
async def test_the_applications_own_code_publishes_from_its_threads() -> None:
    workshop = Workshop()
    async with running(workshop.application()) as origin, client_of(origin) as client:
        before = await workshop.topics.cursor(MESSAGES)
        assert (await client.post("/route")).status_code == 200
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: workshop.publish(trusted=True))
        after = await workshop.topics.cursor(MESSAGES)
        assert after.seq == before.seq + 3
        with pytest.raises(errors.UnknownViewer, match="trusted=True"):
            await loop.run_in_executor(None, workshop.publish)


@pytest.mark.processes
@pytest.mark.parametrize("field", ["madeInABareThread", "wrapped"])
async def test_a_stream_that_was_made_in_a_bare_thread_needs_the_right(field: str) -> None:
    workshop = Workshop()
    document = f"subscription ($after: String) {{ {field}(after: $after) {{ text }} }}"
    async with running(workshop.application()) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            await assert_forbidden(socket, document, subscribe=["elsewhere"])
        async with open_socket(f"ws://{origin}") as socket, patience():
            after = await workshop.topics.cursor(MESSAGES)
            await socket.init({"token": token(subscribe=["messages"])})
            await socket.subscribe("1", document, variables={"after": after})
            await workshop.topics.publish(MESSAGES, Message(text="hi"))
            assert (await socket.next("1"))["data"] == {field: {"text": "hi"}}


@pytest.mark.processes
async def test_the_page_of_the_ide_needs_no_token(message_app: MessageApp) -> None:
    async with http(message_app.locked()) as client:
        page = await client.get("/graphql", headers={"accept": "text/html"})
    assert page.status_code == 200


def test_the_page_that_a_subclass_gets_from_strawberry_keeps_no_token() -> None:
    html = GraphQLRouter(strawberry.Schema(Query)).graphql_ide_html
    assert "shouldPersistHeaders: false" in html
    assert "shouldPersistHeaders: true" not in html


@pytest.mark.processes
async def test_accepting_html_runs_no_query_without_a_token(message_app: MessageApp) -> None:
    async with http(message_app.locked()) as client:
        for accept in ("text/html", "*/*"):
            headers = {"accept": accept}
            got = await client.get("/graphql", params={"query": "{ cursor }"}, headers=headers)
            assert got.status_code == 401
            assert (await client.post("/graphql", json={}, headers=headers)).status_code == 401
            empty = await client.get("/graphql", params={"query": ""}, headers=headers)
            assert empty.status_code == 401


@pytest.mark.processes
async def test_a_refused_request_reveals_nothing_of_the_schema(message_app: MessageApp) -> None:
    async with http(message_app.locked()) as client:
        answer = await client.post("/graphql", json={"query": "{ mee }"})
    assert "me" not in answer.json()["errors"][0]["message"].split()


# Rights on sockets


@pytest.mark.processes
async def test_a_topic_that_is_wrapped_is_still_refused_without_the_right(
    message_app: MessageApp,
) -> None:
    async with websocket(message_app.locked()) as socket:
        await assert_forbidden(socket, "subscription { wrapped }", subscribe=["elsewhere"])


@pytest.mark.processes
async def test_a_topic_that_is_wrapped_streams_with_the_right(message_app: MessageApp) -> None:
    async with websocket(message_app.locked()) as socket:
        await socket.init({"token": token(subscribe=["messages"])})
        await socket.subscribe("1", "subscription { wrapped }")
        assert (await next_message(message_app, socket, "hi"))["data"] == {"wrapped": "HI"}


@pytest.mark.processes
async def test_authorize_refuses_in_a_resolver(message_app: MessageApp) -> None:
    async with websocket(message_app.locked()) as socket:
        document = "subscription { askedFirst { text } }"
        await assert_forbidden(socket, document, subscribe=["messages"])


@pytest.mark.processes
async def test_each_socket_keeps_its_own_viewer(message_app: MessageApp) -> None:
    async with (
        running(application(message_app.locked())) as origin,
        open_socket(f"ws://{origin}") as one,
        open_socket(f"ws://{origin}") as other,
    ):
        await one.init({"token": token("one")})
        await other.init({"token": token("other")})
        assert await one.query("{ me }") == {"me": "one"}
        assert await other.query("{ me }") == {"me": "other"}
        assert await one.query("{ me }") == {"me": "one"}


@pytest.mark.processes
async def test_a_token_in_the_headers_of_the_handshake_is_accepted(message_app: MessageApp) -> None:
    async with websocket(message_app.locked(), additional_headers=bearer()) as socket:
        await socket.init()
        assert await socket.query("{ me }") == {"me": "alice"}


@pytest.mark.processes
async def test_a_token_that_outlives_every_timer_is_accepted(message_app: MessageApp) -> None:
    settings = Settings(jwt_secret=SECRET, jwt_max_lifetime=1e12)  # type: ignore[arg-type]
    async with websocket(message_app.router(settings=settings)) as socket:
        await socket.init({"token": token(exp=253_402_300_799)})
        assert await socket.query("{ me }") == {"me": "alice"}


@pytest.mark.processes
@pytest.mark.parametrize("exp", [10**20, -1, 1e308, "soon", None, True])
async def test_an_expiry_that_is_not_a_time_is_refused_on_a_socket(
    message_app: MessageApp, exp: Any
) -> None:
    async with websocket(message_app.locked()) as socket:
        await socket.send({"type": "connection_init", "payload": {"token": token(exp=exp)}})
        assert (await socket.closed()).code in {4401, 4403}


@pytest.mark.processes
async def test_an_open_server_has_no_viewer(message_app: MessageApp) -> None:
    async with http(message_app.router()) as client:
        result = await post(client, "{ me }")
    assert result["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_the_legacy_protocol_and_tokens_do_not_mix(message_app: MessageApp) -> None:
    with pytest.raises(ValueError, match="graphql-ws"):
        message_app.locked(subscription_protocols=["graphql-ws"])


# The hooks `authenticate` and `may`


def by_name(given: str | None, connection: Any) -> Principal:
    if given is None:
        raise errors.Unauthenticated("Who are you?")
    assert connection.headers["host"]
    return Principal(given, subscribe=("*",))


async def by_name_later(given: str | None, connection: Any) -> Principal:
    await asyncio.sleep(0)
    return by_name(given, connection)


@pytest.mark.processes
@pytest.mark.parametrize("authenticate", [by_name, by_name_later])
async def test_a_hook_replaces_the_check_of_the_token(
    message_app: MessageApp, authenticate: Any
) -> None:
    app = application(message_app.router(authenticate=authenticate))
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


@pytest.mark.processes
@pytest.mark.parametrize("may", [only_alice, only_alice_later])
async def test_a_hook_replaces_the_decision_on_rights(message_app: MessageApp, may: Any) -> None:
    async with running(application(message_app.locked(may=may))) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            await assert_forbidden(socket, MESSAGE_TEXTS, subject="bob")
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init({"token": token("alice", subscribe=[])})
            await socket.subscribe("1", MESSAGE_TEXTS)
            await next_message(message_app, socket, "hi")
            await socket.complete("1")


@pytest.mark.processes
async def test_a_hook_that_waits_does_not_mix_up_two_answers(message_app: MessageApp) -> None:
    both = asyncio.Barrier(2)

    async def slowly(given: str | None, connection: Any) -> Principal:
        await both.wait()
        return Principal(str(given))

    def getter(request: Request, response: Response) -> None:
        response.headers["x-for"] = request.headers["authorization"]

    router = message_app.router(authenticate=slowly, context_getter=getter)
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


async def test_a_request_is_refused_if_a_hook_fails(message_app: MessageApp) -> None:
    def fail(given: str | None, connection: Any) -> Principal:
        raise RuntimeError("on purpose")

    app = application(message_app.router(authenticate=fail))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.post("/graphql", json={"query": "{ cursor }"})
    assert answer.status_code == 500
    assert "data" not in answer.text


@pytest.mark.processes
async def test_a_socket_ends_with_its_principal(message_app: MessageApp) -> None:
    def briefly(given: str | None, connection: Any) -> Principal:
        return Principal("brief", expires_at=datetime.now(UTC) + timedelta(milliseconds=100))

    async with websocket(message_app.router(authenticate=briefly)) as socket:
        await socket.init()
        assert (await socket.closed()).code == 4403
