"""The in-process client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from gqlnotify.testing import (
    Clock,
    ControlledBroker,
    Disconnected,
    NothingArrived,
    OperationFailed,
    Result,
    Stream,
    Tokens,
    connect,
)
from tests.testing.app import MESSAGES, Message, app, topics

TEXTS = "subscription { messages { text } }"
SAY = "mutation ($text: String!) { say(text: $text) }"


def texts(results: list[Result]) -> list[str]:
    return [result.data["messages"]["text"] for result in results]


async def say(*said: str) -> None:
    for text in said:
        await topics.publish(MESSAGES, Message(author="ann", text=text))


async def test_a_subscriber_gets_what_another_client_says(ann: str, bob: str) -> None:
    async with connect(app, token=ann) as speaker, connect(app, token=bob) as listener:
        messages = await listener.subscribe(TEXTS)
        said = await speaker.execute(SAY, {"text": "hi"})

        result = await anext(messages)

    assert result.data == {"messages": {"text": "hi"}}
    assert result.cursor == said.data["say"]
    assert not result.redelivered


async def test_a_loop_ends_with_the_operation(ann: str) -> None:
    async with connect(app, token=ann) as client:
        countdown = client.subscribe("subscription { countdown(start: 3) }")

        assert [result.data["countdown"] async for result in countdown] == [3, 2, 1]


async def test_a_subscription_resumes_after_a_cursor(ann: str) -> None:
    async with connect(app, token=ann) as client:
        first = await client.execute(SAY, {"text": "one"})
        await say("two")

        messages = client.subscribe(TEXTS, after=first.data["say"])

        assert texts(await messages.take(1)) == ["two"]


async def test_errors_are_exceptions_with_their_code(tokens: Tokens) -> None:
    async with connect(app, token=tokens("guest")) as client:
        with pytest.raises(OperationFailed, match=r"FORBIDDEN.*messages") as refused:
            await anext(client.subscribe(TEXTS))
        assert refused.value.code == "FORBIDDEN"
        with pytest.raises(OperationFailed, match="no right to publish") as refused:
            await client.execute(SAY, {"text": "hi"})
    assert refused.value.errors[0]["path"] == ["say"]


async def test_a_bad_token_is_refused_with_the_close_code(tokens: Tokens) -> None:
    with pytest.raises(Disconnected, match="4403 The token has expired"):
        async with connect(app, token=tokens(lifetime=-1)):
            pass


async def test_a_wrong_path_is_named(ann: str) -> None:
    with pytest.raises(Disconnected, match=r"'/grahpql' was refused\. If the router is elsewhere"):
        async with connect(app, token=ann, path="/grahpql"):
            pass


async def test_a_mounted_application_is_served_too(ann: str) -> None:
    outer = FastAPI()
    outer.mount("/chat", app)
    async with connect(outer, token=ann, path="/chat/graphql") as client:
        messages = await client.subscribe(TEXTS)
        await client.execute(SAY, {"text": "hi"})

        assert texts(await messages.take(1)) == ["hi"]


async def test_a_stock_client_resumes_by_itself_after_a_cut(ann: str) -> None:
    async with connect(app, token=ann) as client:
        messages = await client.subscribe(TEXTS)
        client.answers_pings = False
        await say("one")
        assert texts(await messages.take(1)) == ["one"]

        await client.cut()
        await say("two")
        await client.reconnect()

        again, new = await messages.take(2)
        assert texts([again, new]) == ["one", "two"]
        assert (again.redelivered, new.redelivered) == (True, False)


async def test_with_cursors_nothing_comes_twice(ann: str) -> None:
    async with connect(app, token=ann) as client:
        messages = await client.subscribe(TEXTS)
        await say("one")
        await messages.take(1)

        await client.cut(noticed=False)
        await say("two")
        await client.reconnect(with_cursors=True)

        assert texts(await messages.take(1)) == ["two"]
        await messages.expect_nothing()


async def test_a_wait_on_a_cut_line_says_what_to_do(ann: str) -> None:
    async with connect(app, token=ann, patience=1.0) as client:
        messages = await client.subscribe(TEXTS)
        await client.cut()
        with pytest.raises(NothingArrived, match=r"The line is cut: call reconnect\(\)"):
            await anext(messages)
        with pytest.raises(RuntimeError, match=r"call reconnect\(\) first"):
            await client.cut()


async def test_a_wait_in_vain_shows_the_last_messages(ann: str) -> None:
    async with connect(app, token=ann, patience=1.0) as client:
        with pytest.raises(NothingArrived, match=r"messages \{ text \}.*(?s:.*)'connection_ack'"):
            await anext(client.subscribe(TEXTS))


async def test_only_the_token_of_one_client_expires(ann: str, bob: str) -> None:
    async with connect(app, token=ann) as first, connect(app, token=bob) as second:
        messages = await first.subscribe(TEXTS)
        others = await second.subscribe(TEXTS)

        end = await first.expire_token()
        await say("missed")
        with pytest.raises(Disconnected, match="expired"):
            await anext(messages)
        await first.reconnect()

        assert (end.code, end.reason) == (4403, "The token has expired")
        assert texts(await messages.take(1)) == texts(await others.take(1)) == ["missed"]


async def test_a_revoked_token_does_not_come_back(ann: str, tokens: Tokens) -> None:
    async with connect(app, token=ann) as client:
        assert (await client.revoke()).reason == "The token was revoked"
        with pytest.raises(Disconnected, match="revoked"):
            await client.reconnect()
        await client.reconnect(tokens("ann", subscribe="*"))


async def test_a_slow_reader_gets_everything_in_the_end(ann: str) -> None:
    async with connect(app, token=ann) as client:
        messages = await client.subscribe(TEXTS)
        with client.slow_reader():
            await say(*(f"{number} {'x' * 1000}" for number in range(300)))
            await messages.expect_nothing()
        got = texts(await messages.take(300))

    assert [int(text.split()[0]) for text in got] == list(range(300))


async def test_a_reader_that_is_slow_for_too_long_is_dropped(ann: str, clock: Clock) -> None:
    async with connect(app, token=ann) as client:
        await client.subscribe(TEXTS)
        with client.slow_reader():
            await say(*("x" * 1000 for _ in range(300)))
            await clock.advance(60)
        # It takes no close frame either.
        assert (await client.closed()).code == 1006


async def test_a_broker_that_restarts_loses_nothing(ann: str, broker: ControlledBroker) -> None:
    async with connect(app, token=ann) as client:
        messages = await client.subscribe(TEXTS)
        async with broker.away():
            with pytest.raises(OperationFailed, match="BROKER_UNAVAILABLE"):
                await client.execute(SAY, {"text": "too early"})
        async with broker.losing_live_events():
            await say("one")
        await broker.restart()
        await say("two")

        assert texts(await messages.take(2)) == ["one", "two"]


async def test_a_broker_that_forgets_makes_cursors_expire(
    ann: str, broker: ControlledBroker
) -> None:
    async with connect(app, token=ann) as client:
        said = await client.execute(SAY, {"text": "one"})
        await broker.forget()
        with pytest.raises(OperationFailed) as refused:
            await anext(client.subscribe(TEXTS, after=said.data["say"]))
    assert refused.value.code == "CURSOR_EXPIRED"


async def test_a_stream_that_was_stopped_ends(ann: str) -> None:
    async with connect(app, token=ann) as client:
        messages = await client.subscribe(TEXTS)
        loop = asyncio.create_task(all_texts(messages))
        await say("one")
        await client.heard()
        await messages.stop()
        await say("two")

        assert await loop == ["one"]


async def all_texts(messages: Stream) -> list[str]:
    return [result.data["messages"]["text"] async for result in messages]


async def test_clients_may_connect_at_the_same_time(ann: str) -> None:
    async with AsyncExitStack() as clients:
        connecting = (clients.enter_async_context(connect(app, token=ann)) for _ in range(5))
        for client in await asyncio.gather(*connecting):
            assert (await client.execute("{ me }")).data == {"me": "ann"}


async def test_an_exception_of_the_application_reaches_the_test() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with connect(broken):
            pass


async def test_a_startup_that_fails_says_why() -> None:
    def open_database() -> None:
        raise OSError("no database")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        open_database()
        yield

    with pytest.raises(RuntimeError, match=r"(?s)startup failed.*no database"):
        async with connect(FastAPI(lifespan=lifespan)):
            pass


async def test_a_token_can_expire_twice(ann: str) -> None:
    async with connect(app, token=ann) as client:
        for _ in range(2):
            assert (await client.expire_token()).code == 4403
            await client.reconnect()


async def test_a_forgotten_token_is_explained() -> None:
    with pytest.raises(Disconnected, match=r"4401 A token is required\. Pass connect\(app, token="):
        async with connect(app):
            pass
