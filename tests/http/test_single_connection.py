"""One stream carries the results of several operations, for the subject that reserved it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest

from gqlnotify import GraphQLRouter, Settings
from gqlnotify.http.single_connection import STREAM_HEADER
from tests.applications import ALL_PROTOCOLS, EVENT_STREAM, bearer, http
from tests.e2e.conftest import SECRET
from tests.message_app import MESSAGE_TEXTS, MESSAGES, MessageApp
from tests.waiting import wait_until

pytestmark = pytest.mark.processes


def router(message_app: MessageApp, **options: Any) -> GraphQLRouter[Any, Any]:
    settings = Settings(jwt_secret=SECRET, **options)  # type: ignore[arg-type]
    return message_app.router(settings=settings, subscription_protocols=ALL_PROTOCOLS)


class Client:
    """A client with one stream."""

    def __init__(self, http: httpx.AsyncClient, token: str, **claims: Any) -> None:
        self._http = http
        self.headers = {STREAM_HEADER: token, **bearer(**claims)}
        self.lines: AsyncIterator[str]

    async def run(self, id_: str | None, query: str, **extensions: Any) -> httpx.Response:
        named = extensions if id_ is None else {**extensions, "operationId": id_}
        body = {"query": query, "extensions": named}
        return await self._http.post("/graphql", json=body, headers=self.headers)

    async def stop(self, id_: str) -> httpx.Response:
        params = {"operationId": id_}
        return await self._http.delete("/graphql", params=params, headers=self.headers)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[httpx.Response]:
        headers = {**self.headers, **EVENT_STREAM}
        async with self._http.stream("GET", "/graphql", headers=headers) as answer:
            self.lines = answer.aiter_lines()
            yield answer

    async def event(self) -> tuple[str, str, Any]:
        """Return the kind, the operation and the payload of the next event."""
        async for line in self.lines:
            if line.startswith("event: "):
                data = json.loads((await anext(self.lines)).removeprefix("data: "))
                return line.removeprefix("event: "), data["id"], data.get("payload")
        raise AssertionError("the stream has ended")


async def reserved(http: httpx.AsyncClient, **claims: Any) -> Client:
    answer = await http.put("/graphql", headers=bearer(**claims))
    assert answer.status_code == 201, answer.text
    return Client(http, answer.text, **claims)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    [error] = answer.json()["errors"]
    return answer.status_code, error["extensions"]["code"]


@pytest.fixture
async def client(message_app: MessageApp) -> AsyncIterator[httpx.AsyncClient]:
    async with http(router(message_app)) as client:
        yield client


async def test_operations_of_every_kind_share_a_stream(
    message_app: MessageApp, client: httpx.AsyncClient
) -> None:
    alice = await reserved(client)
    async with alice.stream() as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (await alice.run("q", "{ me }")).status_code == 202
        assert await alice.event() == ("next", "q", {"data": {"me": "alice"}})
        assert await alice.event() == ("complete", "q", None)

        await alice.run("s", MESSAGE_TEXTS)
        await alice.run("own", "subscription { mine }")
        await wait_until(lambda: subscribers(message_app) == 2)
        await alice.run("m", 'mutation { say(text: "hi") }')
        events = [await alice.event() for _ in range(4)]
    by_id = {id_: payload for kind, id_, payload in events if kind == "next"}
    assert by_id["s"]["data"] == {"messages": {"text": "hi"}}
    assert by_id["own"]["data"] == {"mine": "alice: hi"}
    assert by_id["s"]["extensions"]["cursor"] == by_id["m"]["data"]["say"]


def subscribers(message_app: MessageApp) -> int:
    topic = message_app.topics.live_topics.by_name.get(MESSAGES.name)
    return len(topic.subscribers) if topic else 0


async def test_an_operation_may_begin_before_its_stream_and_resume(
    message_app: MessageApp, client: httpx.AsyncClient
) -> None:
    start = await message_app.say("start")
    await message_app.say("missed")
    alice = await reserved(client)
    await alice.run("s", MESSAGE_TEXTS, after=start)
    async with alice.stream():
        _, _, payload = await alice.event()
    assert payload["data"] == {"messages": {"text": "missed"}}


async def test_a_stopped_operation_sends_nothing_more(
    message_app: MessageApp, client: httpx.AsyncClient
) -> None:
    alice = await reserved(client)
    async with alice.stream():
        await alice.run("s", MESSAGE_TEXTS)
        await wait_until(lambda: subscribers(message_app) == 1)
        assert (await alice.stop("s")).status_code == 200
        await wait_until(lambda: subscribers(message_app) == 0)
        assert (await alice.stop("unknown")).status_code == 200
        assert (await alice.run("s", "{ me }")).status_code == 202
        assert (await alice.event())[2] == {"data": {"me": "alice"}}


async def test_the_stream_belongs_to_the_subject_that_reserved_it(
    client: httpx.AsyncClient,
) -> None:
    alice = await reserved(client)
    thief = Client(client, alice.headers[STREAM_HEADER], subject="mallory")
    async with thief.stream() as answer:
        await answer.aread()
        assert refusal(answer) == (404, "NOT_RESERVED")
    assert refusal(await thief.run("m", "{ me }")) == (404, "NOT_RESERVED")
    assert refusal(await thief.stop("m")) == (404, "NOT_RESERVED")
    without = await client.post("/graphql", json={}, headers={STREAM_HEADER: "x"})
    assert refusal(without) == (401, "UNAUTHENTICATED")
    assert (await client.put("/graphql")).status_code == 401


async def test_a_stream_is_open_only_once_and_an_operation_runs_only_once(
    client: httpx.AsyncClient,
) -> None:
    alice = await reserved(client)
    async with alice.stream():
        again = await client.get("/graphql", headers={**alice.headers, **EVENT_STREAM})
        assert refusal(again) == (409, "STREAM_CONFLICT")
        assert (await alice.run("s", MESSAGE_TEXTS)).status_code == 202
        assert refusal(await alice.run("s", MESSAGE_TEXTS)) == (409, "STREAM_CONFLICT")


async def test_a_request_needs_an_operation_id_and_a_reserved_stream(
    client: httpx.AsyncClient,
) -> None:
    alice = await reserved(client)
    assert refusal(await alice.run(None, "{ me }")) == (400, "BAD_USER_INPUT")
    assert refusal(await alice.run("", "{ me }")) == (400, "BAD_USER_INPUT")
    assert refusal(await alice.run("x" * 257, "{ me }")) == (400, "BAD_USER_INPUT")
    deleted = await client.delete("/graphql?operationId=s", headers=bearer())
    assert refusal(deleted) == (404, "NOT_RESERVED")
    unknown = await client.get(
        "/graphql?token=of-another-process", headers={**bearer(), **EVENT_STREAM}
    )
    assert refusal(unknown) == (404, "NOT_RESERVED")
    assert "route all requests of a client to one process" in unknown.text


async def test_an_event_source_gives_the_token_in_the_address(client: httpx.AsyncClient) -> None:
    alice = await reserved(client)
    await alice.run("q", "{ me }")
    params = {"token": alice.headers[STREAM_HEADER]}
    headers = {**bearer(), **EVENT_STREAM}
    async with client.stream("GET", "/graphql", params=params, headers=headers) as answer:
        alice.lines = answer.aiter_lines()
        assert await alice.event() == ("next", "q", {"data": {"me": "alice"}})


async def test_an_ordinary_request_with_a_token_in_its_address_is_unchanged(
    client: httpx.AsyncClient,
) -> None:
    params = {"token": "of the application"}
    answer = await client.post(
        "/graphql", params=params, json={"query": "{ me }"}, headers=bearer()
    )
    assert answer.json() == {"data": {"me": "alice"}}
    params["query"] = "{ me }"
    answer = await client.get("/graphql", params=params, headers={**bearer(), **EVENT_STREAM})
    assert '{"me":"alice"}' in answer.text


async def test_errors_of_a_document_arrive_on_the_stream(client: httpx.AsyncClient) -> None:
    alice = await reserved(client)
    async with alice.stream():
        assert (await alice.run("q", "{ nonsense }")).status_code == 202
        kind, id_, payload = await alice.event()
        assert (kind, id_) == ("next", "q")
        assert "nonsense" in payload["errors"][0]["message"]
        assert await alice.event() == ("complete", "q", None)


async def test_all_ends_when_the_client_leaves(message_app: MessageApp) -> None:
    locked = router(message_app)
    state = locked._gqlnotify
    async with http(locked) as client:
        alice = await reserved(client)
        async with alice.stream():
            await alice.run("s", MESSAGE_TEXTS)
            await wait_until(lambda: subscribers(message_app) == 1)
            assert state.connection_limits.connections == 1
        await wait_until(lambda: subscribers(message_app) == 0)
        await wait_until(lambda: state.connection_limits.connections == 0)
        assert refusal(await alice.run("q", "{ me }")) == (404, "NOT_RESERVED")
    assert not state.reservations._by_token
    assert not state.reservations._of_subject


async def test_a_reserved_stream_that_is_not_opened_ends(message_app: MessageApp) -> None:
    locked = router(message_app, handshake_timeout=0.2)
    async with http(locked) as client:
        alice = await reserved(client)
        await alice.run("s", MESSAGE_TEXTS)
        await wait_until(lambda: not locked._gqlnotify.reservations._by_token)
        await wait_until(lambda: subscribers(message_app) == 0)


async def test_reservations_and_their_operations_are_limited(message_app: MessageApp) -> None:
    limits = {"max_connections": 3, "max_connections_per_subject": 2, "max_operations": 1}
    async with http(router(message_app, **limits)) as client:
        alice, _ = await reserved(client), await reserved(client)
        full = await client.put("/graphql", headers=bearer())
        assert refusal(full) == (429, "TOO_MANY_CONNECTIONS_OF_SUBJECT")
        await reserved(client, subject="bob")
        full = await client.put("/graphql", headers=bearer(subject="carol"))
        assert refusal(full) == (503, "TOO_MANY_CONNECTIONS")
        assert full.headers["retry-after"] == "5"
        assert (await alice.run("s", MESSAGE_TEXTS)).status_code == 202
        assert refusal(await alice.run("t", MESSAGE_TEXTS)) == (429, "TOO_MANY_OPERATIONS")
        await alice.stop("s")


async def test_an_operation_ends_with_its_token(client: httpx.AsyncClient) -> None:
    alice = await reserved(client, expires_in=3)
    async with alice.stream():
        await alice.run("s", MESSAGE_TEXTS)
        _, id_, payload = await alice.event()
        assert (id_, payload["errors"][0]["message"]) == ("s", "The token has expired")
        assert await alice.event() == ("complete", "s", None)


async def test_a_stream_ends_with_its_token_once_its_operations_have(
    message_app: MessageApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gqlnotify.http.single_connection.SSE_HEARTBEAT_INTERVAL", 0.1)
    async with http(router(message_app)) as client:
        alice = await reserved(client, expires_in=3)
        async with alice.stream() as answer:
            assert {line async for line in answer.aiter_lines()} == {": ping", ""}


async def test_without_server_sent_events_nothing_can_be_reserved(message_app: MessageApp) -> None:
    async with http(message_app.locked()) as client:
        assert (await client.put("/graphql", headers=bearer())).status_code == 405


async def test_background_tasks_run_after_the_operation(
    message_app: MessageApp, client: httpx.AsyncClient
) -> None:
    alice = await reserved(client)
    async with alice.stream():
        await alice.run("s", MESSAGE_TEXTS)
        await wait_until(lambda: subscribers(message_app) == 1)
        await alice.run("m", 'mutation { sayLater(text: "later") }')
        events = [await alice.event() for _ in range(3)]
    [told] = [payload for _, id_, payload in events if id_ == "s"]
    assert told["data"] == {"messages": {"text": "later"}}


async def test_what_the_peer_did_not_acknowledge_is_sent_again_and_marked(
    message_app: MessageApp,
) -> None:
    locked = router(message_app, ack_interval=3600)
    async with http(locked) as client:
        operation = str(uuid4())
        seen: list[Any] = []
        for text in ("first", "second"):
            alice = await reserved(client)
            async with alice.stream():
                await alice.run(operation, MESSAGE_TEXTS)
                await wait_until(lambda: subscribers(message_app) == 1)
                await message_app.say(text)
                while not seen or seen[-1]["data"]["messages"]["text"] != text:
                    seen.append((await alice.event())[2])
            await wait_until(lambda: not locked._gqlnotify.reservations._by_token)
    marks = [each["extensions"].get("redelivered", False) for each in seen]
    assert [each["data"]["messages"]["text"] for each in seen] == ["first", "first", "second"]
    assert marks == [False, True, False]
