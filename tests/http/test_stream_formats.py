"""Server-Sent Events tell a client where it is, and resume there when it comes back."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from strawberry.extensions import SchemaExtension
from typing_extensions import override

from gqlnotify import Cursor, GraphQLRouter
from gqlnotify.execution.operation import SKIPS
from tests.applications import (
    ALL_PROTOCOLS,
    EVENT_STREAM,
    MULTIPART,
    bearer,
    http,
    parts,
)
from tests.message_app import MESSAGE_TEXTS, MESSAGES, MessageApp

pytestmark = pytest.mark.processes

OWN = "subscription { mine }"
ALL_CURSORS = pytest.mark.parametrize("query", [MESSAGE_TEXTS, OWN], ids=["shared", "per viewer"])


class Stream:
    """The blocks of a stream of Server-Sent Events, each as a dict of its fields."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def block(self) -> dict[str, str]:
        lines = list[str]()
        async for line in self._lines:
            if not line and lines:
                return dict(each.split(": ", 1) for each in lines)
            if line and not line.startswith(":"):
                lines.append(line)
        raise AssertionError("the stream has ended")

    async def result(self) -> tuple[str, Any]:
        block = await self.block()
        assert block["event"] == "next"
        return block["id"], json.loads(block["data"])


@asynccontextmanager
async def subscribed(
    client: httpx.AsyncClient, query: str = MESSAGE_TEXTS, **headers: str
) -> AsyncIterator[Stream]:
    """Subscribe as an `EventSource` does: with GET, and the operation in the address."""
    sent = {**EVENT_STREAM, **bearer(), **headers}
    async with client.stream("GET", "/graphql", params={"query": query}, headers=sent) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield Stream(answer)


@pytest.fixture
async def client(message_app: MessageApp) -> AsyncIterator[httpx.AsyncClient]:
    async with http(message_app.locked(subscription_protocols=ALL_PROTOCOLS)) as client:
        yield client


@ALL_CURSORS
async def test_a_stream_begins_with_its_position(
    message_app: MessageApp, client: httpx.AsyncClient, query: str
) -> None:
    async with subscribed(client, query) as stream:
        begun = await stream.block()
        assert begun.keys() == {"retry", "id"}
        assert begun["id"] == await message_app.topics.cursor(MESSAGES)
        assert 1000 <= int(begun["retry"]) <= 3000


@ALL_CURSORS
async def test_each_event_has_its_cursor_as_its_id(
    message_app: MessageApp, client: httpx.AsyncClient, query: str
) -> None:
    async with subscribed(client, query) as stream:
        await stream.block()
        cursors = [await message_app.say(text) for text in ("first", "second")]
        results = [await stream.result() for _ in cursors]
    assert [id_ for id_, _ in results] == cursors
    assert [result["extensions"]["cursor"] for _, result in results] == cursors


@ALL_CURSORS
async def test_what_was_published_before_the_first_event_is_not_lost(
    message_app: MessageApp, client: httpx.AsyncClient, query: str
) -> None:
    async with subscribed(client, query) as stream:
        last = (await stream.block())["id"]
    missed = await message_app.say("missed")
    async with subscribed(client, query, **{"last-event-id": last}) as stream:
        await stream.block()
        assert (await stream.result())[0] == missed


async def test_the_last_event_wins_over_the_older_cursor_in_the_address(
    message_app: MessageApp, client: httpx.AsyncClient
) -> None:
    start, last, missed = [await message_app.say(text) for text in ("start", "last", "missed")]
    query = f'subscription {{ messages(after: "{start}") {{ text }} }}'
    async with subscribed(client, query, **{"last-event-id": last}) as stream:
        await stream.block()
        assert (await stream.result())[0] == missed
    body = {"query": MESSAGE_TEXTS, "extensions": {"after": start}}
    headers = {**EVENT_STREAM, **bearer(), "last-event-id": last}
    async with client.stream("POST", "/graphql", json=body, headers=headers) as answer:
        stream = Stream(answer)
        await stream.block()
        assert (await stream.result())[0] == missed


@ALL_CURSORS
@pytest.mark.parametrize("last", ["1-1", "of another server"])
async def test_a_client_whose_last_event_is_unknown_is_told_and_goes_on_live(
    message_app: MessageApp, client: httpx.AsyncClient, query: str, last: str
) -> None:
    before = REGISTRY.get_sample_value("gqlnotify_refusals_total", {"reason": "cursor_expired"})
    position = await message_app.say("missed")
    async with subscribed(client, query, **{"last-event-id": last}) as stream:
        id_, told = await stream.result()
        assert told["data"] is None
        assert told["errors"][0]["extensions"]["code"] == "CURSOR_EXPIRED"
        assert id_ == told["extensions"]["cursor"] == position
        assert (await stream.block())["id"] == position
        live = await message_app.say("live")
        assert (await stream.result())[0] == live
    after = REGISTRY.get_sample_value("gqlnotify_refusals_total", {"reason": "cursor_expired"})
    assert after == (before or 0) + 1


async def test_a_cursor_that_a_client_asks_for_itself_still_ends_the_stream(
    message_app: MessageApp, client: httpx.AsyncClient
) -> None:
    body = {"query": MESSAGE_TEXTS, "extensions": {"after": "1-1"}}
    answer = await client.post("/graphql", json=body, headers={**EVENT_STREAM, **bearer()})
    assert "CURSOR_EXPIRED" in answer.text
    assert answer.text.endswith("event: complete\ndata: \n\n")


async def test_lines_end_with_lf(message_app: MessageApp, client: httpx.AsyncClient) -> None:
    async with subscribed(client, **{"last-event-id": "1-1"}) as stream:
        raw = stream.answer.aiter_raw()
        assert b"\r" not in await anext(raw) + await anext(raw)


async def test_the_id_survives_an_overridden_response(message_app: MessageApp) -> None:
    class Router(GraphQLRouter[Any, Any]):
        @override
        async def process_result(self, request: Any, result: Any) -> Any:
            response = await super().process_result(request, result)
            return {**response, "server": 1}

    router = Router(message_app.schema, subscription_protocols=ALL_PROTOCOLS)
    start = await message_app.say("start")
    cursor = await message_app.say("text")
    async with (
        http(router) as client,
        subscribed(client, **{"last-event-id": start}) as stream,
    ):
        id_, result = await stream.result()
    assert (id_, result["server"]) == (cursor, 1)


class OwnCursor(SchemaExtension):
    def get_results(self) -> dict[str, Any]:
        return {"cursor": "first\nevent: complete"}


async def test_an_extension_of_a_schema_can_add_no_line() -> None:
    app = MessageApp(extensions=[OwnCursor])
    async with http(app.router(subscription_protocols=ALL_PROTOCOLS)) as client:
        answer = await client.post("/graphql", json={"query": "{ cursor }"}, headers=EVENT_STREAM)
    lines = answer.text.splitlines()
    assert [line.partition(":")[0] for line in lines if line] == ["event", "data", "event", "data"]


async def test_a_token_that_expires_ends_the_stream_with_the_reason(
    client: httpx.AsyncClient,
) -> None:
    async with subscribed(client, **bearer(expires_in=3)) as stream:
        await stream.block()
        told = await stream.block()
        assert json.loads(told["data"])["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
        assert "expired" in told["data"]
        assert await stream.block() == {"event": "complete", "data": ""}


async def test_a_multipart_stream_resumes_by_its_extensions(
    message_app: MessageApp, client: httpx.AsyncClient
) -> None:
    start = await message_app.say("start")
    await message_app.say("missed")
    headers = {**MULTIPART, **bearer(expires_in=3)}
    body = {"query": MESSAGE_TEXTS, "extensions": {"after": start}}
    answer = await client.post("/graphql", json=body, headers=headers)
    missed, ended = parts(answer.text)
    assert missed["data"] == {"messages": {"text": "missed"}}
    assert isinstance(Cursor.parse(missed["extensions"]["cursor"]), Cursor)
    assert ended["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert answer.text.endswith("\r\n--graphql--\r\n")


async def test_a_client_whose_filter_skips_events_learns_its_new_position(
    message_app: MessageApp, client: httpx.AsyncClient
) -> None:
    async with subscribed(client, "subscription { none { text } }") as stream:
        first = (await stream.block())["id"]
        cursors = [await message_app.say("skipped") for _ in range(2 * SKIPS)]
        later = [(await stream.block())["id"] for _ in range(2)]
    assert [first, *later] == [Cursor.parse(first), cursors[SKIPS - 1], cursors[-1]]
