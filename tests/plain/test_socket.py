"""A plain WebSocket gets the events of its topic, and publishes to it."""

import asyncio
import json
from secrets import token_hex
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.exceptions import InvalidStatus

from gqlnotify import Principal, Settings, TopicManager, errors, topic_router
from gqlnotify.connections.shortcut import Shortcuts
from gqlnotify.drain import Drain
from tests.e2e.conftest import SECRET
from tests.e2e.tokens import token
from tests.plain.support import BINARY, CLASSES, JSON, App, locked, served, subscribers
from tests.servers import running
from tests.waiting import wait_until

both = pytest.mark.parametrize("ws", CLASSES, ids=["direct", "portable"])


@both
async def test_a_client_gets_events_with_their_cursors(ws: Any) -> None:
    async with served(ws) as app, app.client() as client:
        await client.ready()
        cursor = await app.topics.publish("news", {"text": "é"})
        assert await client.event() == {"type": "event", "cursor": cursor, "data": {"text": "é"}}


@both
async def test_a_client_resumes_after_a_cursor(ws: Any) -> None:
    async with served(ws) as app:
        async with app.client() as client:
            start = await client.ready()
            await app.topics.publish("news", 0)
            seen = (await client.event())["cursor"]
        for number in range(1, 300):
            await app.topics.publish("news", number)
        async with app.client(after=seen) as client:
            assert await client.ready() == seen
            assert await client.data(299) == list(range(1, 300))
            await app.topics.publish("news", 300)
            assert await client.data(1) == [300]
        # The position of a client that has seen no event yet serves too.
        async with app.client(after=start) as client:
            await client.ready()
            assert await client.data(301) == list(range(301))


async def test_a_cursor_that_has_expired_closes_with_what_to_do() -> None:
    async with served(history_length=2) as app:
        first = await app.topics.publish("news", 0)
        for number in range(10):
            await app.topics.publish("news", number)
        async with app.client(after=first) as client:
            close = await client.closed()
        assert close.code == 1008
        assert close.reason.startswith("CURSOR_EXPIRED: Fetch the state, then connect without")
        async with app.client(after="nonsense") as client:
            close = await client.closed()
        assert (close.code, close.reason[:15]) == (1008, "BAD_USER_INPUT:")


@both
async def test_what_a_client_sends_is_published_with_its_subject_as_the_author(ws: Any) -> None:
    async with locked(ws) as app:
        async with app.client(token=token("alice")) as alice, app.client(token=token("bob")) as bob:
            await alice.ready()
            await bob.ready()
            for sent in ("hello", '{"text": "hi"}', "5"):
                await alice.send(sent)
            events = await bob.data(3)
            answers = [await alice.receive() for _ in range(6)]
        assert events == [
            {"author": "alice", "data": data} for data in ("hello", {"text": "hi"}, 5)
        ]
        assert [each["type"] for each in answers].count("published") == 3
        assert {each["cursor"] for each in answers if each["type"] == "published"} == {
            each["cursor"] for each in answers if each["type"] == "event"
        }


@both
async def test_binary_messages_arrive_as_binary_frames_or_as_base64(ws: Any) -> None:
    content = bytes(range(256)) * 300
    async with (
        locked(ws, message_max_bytes=200_000) as app,
        app.client(token=token("alice"), subprotocols=[BINARY]) as alice,
        app.client(token=token("bob"), subprotocols=[JSON]) as bob,
    ):
        assert alice.connection.subprotocol == BINARY
        assert bob.connection.subprotocol == JSON
        await alice.ready()
        await bob.ready()
        await bob.send(content)
        frame = await alice.frame()
        assert isinstance(frame, bytes)
        header, _, received = frame.partition(b"\n")
        assert received == content
        message = json.loads(header)
        assert message["data"] == {"author": "bob", "data": {"$binary": len(content)}}
        received_by_bob = {m["type"]: m for m in [await bob.receive(), await bob.receive()]}
        assert received_by_bob["published"]["cursor"] == message["cursor"]
        [encoded] = received_by_bob["event"]["data"]["data"].values()
        assert len(encoded) == len(content) * 4 // 3

        await bob.send('"text stays text"')
        assert (await alice.event())["data"] == {"author": "bob", "data": "text stays text"}


async def test_a_message_that_is_not_published_gets_an_error_and_the_socket_stays() -> None:
    reader = token("alice", publish=["other"])
    async with locked() as app, app.client(token=reader) as client:
        await client.ready()
        await client.send("hello")
        error = await client.receive()
        assert (error["type"], error["code"]) == ("error", "FORBIDDEN")
        await app.topics.publish("news", 1)
        assert await client.data(1) == [1]


@pytest.mark.parametrize("message", ["text", "NaN", '"\\ud800"', "[" * 5000 + "]" * 5000])
async def test_json_that_can_not_be_published_is_refused(message: str) -> None:
    async with locked() as app, app.client(token=token(), subprotocols=[JSON]) as client:
        await client.ready()
        await client.send(message)
        error = await client.receive()
        assert (error["type"], error["code"]) == ("error", "BAD_USER_INPUT")


@pytest.mark.parametrize("subprotocol", [JSON, BINARY])
@pytest.mark.parametrize("payload", [b"no json", b'"$binary"}', b'{"a":"\xff"}'])
async def test_an_event_that_can_not_be_read_is_told_and_the_next_one_follows(
    payload: bytes, subprotocol: str
) -> None:
    async with served() as app, app.client(subprotocols=[subprotocol]) as client:
        await client.ready()
        cursor = await app.topics.publish_bytes("news", payload)
        await app.topics.publish("news", 1)
        error = await client.receive()
        assert (error["code"], error["cursor"]) == ("EVENT_UNREADABLE", cursor)
        assert await client.data(1) == [1]


async def test_nobody_publishes_where_no_tokens_are_required() -> None:
    async with served() as app, app.client() as client:
        await client.ready()
        await client.send("hello")
        assert (await client.receive())["code"] == "FORBIDDEN"


async def test_the_topics_of_the_library_itself_are_closed() -> None:
    for serve in (served, locked):
        async with (
            serve() as app,
            app.client("/notifications/gqlnotify.revoked", token=token()) as client,
        ):
            close = await client.closed()
            assert (close.code, close.reason[:10]) == (1008, "FORBIDDEN:")


async def test_an_application_publishes_in_its_own_way(caplog: pytest.LogCaptureFixture) -> None:
    async def publish(topic: str, data: Any, author: str) -> Any:
        if data == "spam":
            raise errors.BadUserInput("No spam")
        if data == "bug":
            raise ValueError("a secret")
        if data == "mistake":
            raise errors.InternalError("a secret")
        return await topics.publish(topic, f"{author}: {data}")

    topics = TopicManager()
    router = topic_router(
        topics,
        publish=publish,
        authenticate=lambda token, _: Principal(str(token), subscribe=("*",), publish=("*",)),
    )
    application = App(topics, FastAPI())
    application.app.include_router(router)
    async with (
        running(application.app) as application.origin,
        application.client(token="alice") as client,
    ):
        await client.ready()
        await client.send("spam")
        assert (await client.receive())["message"] == "No spam"
        for failing in ("bug", "mistake"):
            await client.send(failing)
            assert (await client.receive())["message"] == "Internal server error"
        await client.send("hi")
        messages = [await client.receive(), await client.receive()]
        assert "alice: hi" in [message.get("data") for message in messages]
    assert caplog.text.count("A plain WebSocket failed") == 2


@both
@pytest.mark.parametrize("how", ["include", "mount", "starlette"])
async def test_it_works_wherever_it_is_mounted(ws: Any, how: str) -> None:
    app = App.of(prefix="/ws")
    outer: Any = app.app
    if how == "mount":
        outer = FastAPI()
        outer.mount("/api", app.app)
    if how == "starlette":
        outer = Starlette(routes=[Mount("/ws", app=topic_router(app.topics))])
    path = f"{'/api' if how == 'mount' else ''}/ws/notifications/news"
    async with running(outer, ws=ws) as app.origin, app.client(path) as client:
        await client.ready()
        await app.topics.publish("news", 1)
        assert await client.data(1) == [1]


async def test_dependencies_of_the_application_apply() -> None:
    def refuse() -> None:
        raise HTTPException(403)

    topics = TopicManager()
    app = App(topics, FastAPI())
    app.app.include_router(topic_router(topics), dependencies=[Depends(refuse)])
    async with running(app.app) as app.origin:
        with pytest.raises(InvalidStatus) as refused:
            async with app.client():
                pass
        assert refused.value.response.status_code == 403


async def test_a_socket_needs_no_open_call_under_the_class_of_gqlnotify() -> None:
    async with served(CLASSES[0]) as app, app.client() as client:
        await client.ready()
        await wait_until(lambda: not calls())
        await app.topics.publish("news", 1)
        assert await client.data(1) == [1]
    # The paths of topics do not fill the table of shortcuts.
    assert not Shortcuts.of(asyncio.get_running_loop())._by_path


def calls() -> list[Any]:
    return [task for task in asyncio.all_tasks() if "run_asgi" in repr(task)]


@both
async def test_a_message_that_is_too_large_closes(ws: Any) -> None:
    async with locked(ws, message_max_bytes=1000) as app, app.client(token=token()) as client:
        await client.ready()
        await client.send("x" * 1001)
        assert (await client.closed()).code == 1009


@both
async def test_too_many_messages_close(ws: Any) -> None:
    async with (
        locked(ws, message_rate=1, message_burst=5) as app,
        app.client(token=token(publish=[])) as client,
    ):
        await client.ready()
        for _ in range(5):
            await client.send("x")
        for _ in range(5):
            assert (await client.receive())["code"] == "FORBIDDEN"
        await client.send("x")
        assert (await client.closed()).code == 1008


@both
async def test_sockets_are_counted_and_limited(ws: Any) -> None:
    limits = {"max_connections": 2, "max_connections_per_subject": 1}
    async with locked(ws, **limits) as app:
        async with app.client(token=token("alice")) as alice:
            await alice.ready()
            async with app.client(token=token("alice")) as second:
                close = await second.closed()
                assert (close.code, close.reason) == (1013, "Too many connections of this subject")
        async with app.client(token=token("alice")) as alice:
            await alice.ready()


async def test_a_page_of_another_origin_gets_no_socket() -> None:
    async with served(allowed_origins=("https://good.example",)) as app:
        with pytest.raises(InvalidStatus) as refused:
            async with app.client(headers={"origin": "https://evil.example"}):
                pass
        assert refused.value.response.status_code == 403
        async with app.client(headers={"origin": "https://good.example"}) as client:
            await client.ready()


async def test_a_silent_peer_is_pinged_and_dropped() -> None:
    async with (
        served(CLASSES[0], ping_interval=0.1, ping_timeout=0.3) as app,
        app.client() as alive,
        app.client() as dead,
    ):
        await alive.ready()
        await dead.ready()
        dead.connection.transport.pause_reading()
        await wait_until(lambda: subscribers(app.topics) == 1)
        await app.topics.publish("news", 1)
        assert await alive.data(1) == [1]
        dead.connection.transport.abort()


@both
async def test_a_peer_that_does_not_read_is_dropped_and_hurts_nobody(
    ws: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gqlnotify.websocket.connection.CLOSE_SECONDS", 0.1)
    # Random, because uvicorn's own class compresses.
    text = token_hex(50_000)
    async with (
        served(ws, send_timeout=0.3) as app,
        app.client() as reader,
        app.client() as stuck,
    ):
        await reader.ready()
        await stuck.ready()
        stuck.connection.transport.pause_reading()
        for number in range(100):
            await app.topics.publish("news", {"number": number, "text": text})
            assert (await reader.event())["data"]["number"] == number
        await wait_until(lambda: subscribers(app.topics) == 1)
        stuck.connection.transport.abort()


async def test_a_message_that_is_being_published_is_answered_before_a_drain_closes() -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def publish(topic: str, data: Any, author: str) -> Any:
        began.set()
        await go_on.wait()
        return await topics.publish(topic, data)

    settings = Settings(jwt_secret=SecretStr(SECRET), drain_window=0)
    topics = TopicManager(settings=settings)
    app = App(topics, FastAPI())
    app.app.include_router(topic_router(topics, publish=publish, settings=settings))
    server = running(app.app, ws=CLASSES[0])
    app.origin = await server.__aenter__()
    async with app.client(token=token()) as client:
        await client.ready()
        await client.send("last words")
        await began.wait()
        stopping = asyncio.create_task(server.__aexit__(None, None, None))
        await wait_until(lambda: Drain.of(asyncio.get_running_loop()).begun)
        await client.send("too late")
        go_on.set()
        messages = [await client.receive(), await client.receive()]
        assert {message["type"] for message in messages} == {"event", "published"}
        assert (await client.closed()).code == 1012
    await stopping
