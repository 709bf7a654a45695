"""What the router adds: topics that stream with cursors on every transport."""

import asyncio
import threading
from typing import Any

import pytest
import strawberry
from fastapi import BackgroundTasks
from strawberry.extensions import MaskErrors, SchemaExtension
from strawberry.fastapi import GraphQLRouter as StrawberryRouter

from gqlnotify import Cursor
from tests.applications import (
    ALL_PROTOCOLS,
    EVENT_STREAM,
    STREAMS,
    application,
    client_of,
    events,
    http,
    parts,
    post,
    stream_of,
    websocket,
)
from tests.e2e.raw import open_socket
from tests.message_app import (
    MESSAGE_TEXTS,
    MESSAGES,
    Message,
    MessageApp,
    next_message,
    subscribed,
)
from tests.recorder import recording
from tests.servers import patience, running
from tests.waiting import wait_until


@pytest.mark.processes
@pytest.mark.parametrize("field", ["messages", "atOnce"])
async def test_a_topic_streams_with_cursors(message_app: MessageApp, field: str) -> None:
    async with websocket(message_app.router()) as socket:
        await subscribed(socket, f"subscription {{ {field} {{ text }} }}")
        result = await next_message(message_app, socket, "hi")
        epoch = (await message_app.topics.cursor(MESSAGES)).epoch
    assert result["data"] == {field: {"text": "hi"}}
    assert result["extensions"]["cursor"].startswith(f"{epoch}-")


@pytest.mark.processes
async def test_resolvers_return_cursors_as_text_that_resumes(message_app: MessageApp) -> None:
    first = await message_app.say("first")
    async with http(message_app.router()) as client:
        mutation = await post(client, 'mutation { say(text: "second") }')
        query = await post(client, "{ oldest cursor }")
        texts = [
            (await anext(message_app.topics.subscribe(MESSAGES, after=after))).text
            for after in (query["data"]["oldest"], first)
        ]
    epoch, seq = first.epoch, first.seq
    assert mutation["data"] == {"say": f"{epoch}-{seq + 1}"}
    assert query["data"] == {"oldest": f"{epoch}-{seq - 1}", "cursor": f"{epoch}-{seq + 1}"}
    assert texts == ["first", "second"]


@pytest.mark.processes
async def test_routes_of_fastapi_return_and_take_cursors(message_app: MessageApp) -> None:
    app = application(message_app.router())

    @app.get("/bare")
    async def bare() -> Any:
        return {"cursor": await message_app.topics.cursor(MESSAGES)}

    @app.get("/typed")
    async def typed() -> dict[str, Cursor]:
        return {"cursor": await message_app.topics.cursor(MESSAGES)}

    @app.get("/after")
    async def after(after: Cursor) -> str:
        return (await anext(message_app.topics.subscribe(MESSAGES, after=after))).text

    before = await message_app.topics.cursor(MESSAGES)
    await message_app.say("hi")
    async with running(app) as origin, client_of(origin) as client:
        expected = {"cursor": f"{before.epoch}-{before.seq + 1}"}
        assert (await client.get("/bare")).json() == expected
        assert (await client.get("/typed")).json() == expected
        assert (await client.get("/after", params={"after": before})).json() == "hi"
        assert (await client.get("/after", params={"after": "1-x"})).status_code == 422


@pytest.mark.processes
async def test_a_topic_streams_under_strawberrys_router(message_app: MessageApp) -> None:
    async with websocket(StrawberryRouter(message_app.schema)) as socket:
        await subscribed(socket)
        result = await next_message(message_app, socket, "hi")
    assert result["data"] == {"messages": {"text": "hi"}}


@pytest.mark.processes
async def test_a_mapped_stream_sees_the_event_and_keeps_the_cursor(message_app: MessageApp) -> None:
    async with websocket(message_app.router()) as socket:
        first = await message_app.say("first")
        second = await message_app.say("second")
        await subscribed(socket, "subscription { texts }", extensions={"after": first})
        result = await socket.next("1")
    assert result == {"data": {"texts": "2 second"}, "extensions": {"cursor": second}}


@pytest.mark.processes
async def test_a_permission_class_guards_a_topic_stream(message_app: MessageApp) -> None:
    async with running(application(message_app.router())) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            await subscribed(socket, "subscription { guarded { text } }")
            assert (await socket.error("1"))[0]["message"] == "not you"
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init({"allowed": True})
            await socket.subscribe("1", "subscription { guarded { text } }")
            result = await next_message(message_app, socket, "hi")
    assert result["data"] == {"guarded": {"text": "hi"}}
    assert "cursor" in result["extensions"]


@pytest.mark.processes
async def test_extensions_run_around_a_topic_stream() -> None:
    record, extension = recording()
    message_app = MessageApp(extensions=[extension])
    async with websocket(message_app.router()) as socket:
        first = await message_app.say("first")
        cursor = await message_app.say("second")
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


@pytest.mark.processes
async def test_an_error_of_ours_goes_through_mask_errors_like_any_other() -> None:
    message_app = MessageApp(extensions=[MaskErrors])
    async with websocket(message_app.router()) as socket:
        await subscribed(socket, extensions={"after": "1-1"})
        assert (await socket.error("1"))[0]["message"] == "Unexpected error."


# Publishing from anywhere


@pytest.mark.processes
async def test_a_route_a_background_task_and_a_thread_publish(message_app: MessageApp) -> None:
    app = application(message_app.router())

    @app.post("/route")
    async def route() -> str:
        return await message_app.say("route")

    @app.post("/background")
    async def background(tasks: BackgroundTasks) -> None:
        tasks.add_task(message_app.say, "background")

    @app.post("/thread")
    def thread() -> str:
        assert threading.current_thread() is not threading.main_thread()
        return str(message_app.topics.publish_sync(MESSAGES, Message(text="thread")))

    async with running(app) as origin, client_of(origin) as client:
        after = await message_app.topics.cursor(MESSAGES)
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


@pytest.mark.processes
@pytest.mark.parametrize("extensions", [(), (MaskErrors,)], ids=["plain", "masked"])
async def test_publishing_an_invalid_value_is_a_server_error(
    extensions: tuple[type[SchemaExtension], ...], caplog: pytest.LogCaptureFixture
) -> None:
    message_app, secret = MessageApp(), "hunter2"

    @strawberry.type
    class Mutation:
        @strawberry.mutation
        async def say(self, text: str) -> str:
            wrong: Any = {text: text + secret}
            return str(await message_app.topics.publish(MESSAGES, wrong))

        @strawberry.mutation
        async def by_name(self, text: str) -> str:
            return str(await message_app.topics.publish("messages", {text: {text + secret}}))

    message_app.schema = strawberry.Schema(
        message_app.schema.query, Mutation, message_app.schema.subscription, extensions=extensions
    )
    app = application(message_app.router())
    async with running(app) as origin, client_of(origin) as client:
        for field in ("say", "byName"):
            document = f'mutation {{ {field}(text: "text") }}'
            async with open_socket(f"ws://{origin}") as socket:
                await socket.init()
                await socket.subscribe("1", document)
                answers = [await post(client, document), await socket.next("1")]
            for answer in answers:
                [error] = answer["errors"]
                masked = "Unexpected error." if extensions else "Internal server error"
                assert error["message"] == masked
                if not extensions:
                    assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
    assert "Topic 'messages' has the type Message, and this dict would not arrive" in caplog.text
    assert "This dict for 'messages' would not arrive" in caplog.text
    assert secret not in caplog.text


@pytest.mark.processes
async def test_an_event_published_by_name_reaches_the_topics_subscribers(
    message_app: MessageApp,
) -> None:
    async with websocket(message_app.router()) as socket:
        before = await message_app.topics.cursor(MESSAGES)
        await message_app.topics.publish("messages", {"text": "by name"})
        await asyncio.to_thread(
            message_app.topics.publish_sync, "messages", {"text": "from a thread"}
        )
        await subscribed(socket, extensions={"after": before})
        results = [await socket.next("1") for _ in range(2)]
    texts = [result["data"]["messages"]["text"] for result in results]
    assert texts == ["by name", "from a thread"]


async def test_a_publish_without_await_is_reported_with_its_line(
    message_app: MessageApp,
) -> None:
    async def careless() -> None:
        message_app.topics.publish(MESSAGES, Message(text="lost"))  # type: ignore[unused-coroutine]

    with pytest.warns(RuntimeWarning, match="TopicManager.publish' was never awaited") as caught:
        await careless()
    line = careless.__code__.co_firstlineno + 1
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]
    assert (await message_app.topics._broker.head("messages")).seq == 0


@pytest.mark.processes
@pytest.mark.parametrize("after", ["a cursor", 7])
async def test_a_generator_of_the_application_can_not_resume_and_says_so(
    message_app: MessageApp, after: Any
) -> None:
    cursor = await message_app.say("one")
    extensions = {"after": cursor if after == "a cursor" else after}
    async with websocket(message_app.router()) as socket:
        await subscribed(socket, "subscription { wrapped }", extensions=extensions)
        [error] = await socket.error("1")
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "no cursors" in error["message"]


# Resuming over HTTP streams


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_carries_cursors_and_resumes(
    message_app: MessageApp, kind: str, headers: dict[str, str]
) -> None:
    async with http(message_app.router(subscription_protocols=ALL_PROTOCOLS)) as client:
        first, second = await message_app.say("first"), await message_app.say("second")
        body = {"query": MESSAGE_TEXTS, "extensions": {"after": first}}
        async with patience(), client.stream("POST", "/graphql", json=body, headers=headers) as it:
            results = stream_of(it, kind)
            assert await anext(results) == {
                "data": {"messages": {"text": "second"}},
                "extensions": {"cursor": second},
            }
            third = await message_app.say("third")
            assert (await anext(results))["extensions"] == {"cursor": third}


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_an_expired_cursor_is_reported_over_http(
    message_app: MessageApp, kind: str, headers: dict[str, str]
) -> None:
    async with http(message_app.router(subscription_protocols=ALL_PROTOCOLS)) as client:
        body = {"query": MESSAGE_TEXTS, "extensions": {"after": "1-1"}}
        answer = await client.post("/graphql", json=body, headers=headers)
    results = parts(answer.text) if kind == "multipart" else [events(answer.text)[0][1]]
    assert results[0]["errors"][0]["extensions"]["code"] == "CURSOR_EXPIRED"


@pytest.mark.processes
async def test_a_client_that_leaves_an_http_stream_leaves_nothing(
    message_app: MessageApp,
) -> None:
    async with http(message_app.router(subscription_protocols=ALL_PROTOCOLS)) as client:
        first = await message_app.say("first")
        await message_app.say("second")
        body = {"query": MESSAGE_TEXTS, "extensions": {"after": first}}
        async with client.stream("POST", "/graphql", json=body, headers=EVENT_STREAM) as answer:
            await anext(stream_of(answer, "sse"))
            assert message_app.topics.live_topics.by_name
        await wait_until(lambda: not message_app.topics.live_topics.by_name)
