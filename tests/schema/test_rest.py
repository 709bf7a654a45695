"""The REST twin and the plain WebSockets: the same tasks, rights and events as over GraphQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from schema.api_page import render
from schema.app import create_app
from schema.settings import TaskSettings
from tests.applications import client_of
from tests.plain.support import BINARY, Plain, plain
from tests.schema.client import operation, token
from tests.servers import running


@pytest.fixture
async def origin(settings: TaskSettings) -> AsyncIterator[str]:
    async with running(create_app(settings)) as origin:
        yield origin


@pytest.fixture
async def http(origin: str) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(origin, headers=bearer("alice")) as http:
        yield http


def bearer(subject: str = "alice", **rights: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {token(subject, **rights)}"}


@asynccontextmanager
async def follow(origin: str, path: str, **options: Any) -> AsyncIterator[Plain]:
    async with plain(f"ws://{origin}{path}", token=token("bob"), **options) as socket:
        await socket.ready()
        yield socket


async def graphql(http: httpx.AsyncClient, name: str, **variables: Any) -> Any:
    answer = await http.post("/graphql", json={"query": operation(name), "variables": variables})
    [value] = answer.json()["data"].values()
    return value


async def test_a_task_that_is_created_over_rest_is_in_graphql_and_in_the_events(
    origin: str, http: httpx.AsyncClient
) -> None:
    async with follow(origin, "/ws/notifications/tasks") as bob:
        answer = await http.post("/tasks", json={"title": "dig", "assignee": "bob"})
        assert answer.status_code == 201
        task = answer.json()
        event = (await bob.event())["data"]
    assert (task["title"], task["created_by"], task["status"]) == ("dig", "alice", "TODO")
    assert (event["kind"], event["actor"], event["task"]["id"]) == ("CREATED", "alice", task["id"])
    assert (await graphql(http, "task", id=task["id"]))["title"] == "dig"


async def test_the_list_of_tasks_has_pages_and_the_cursor_of_its_changes(
    origin: str, http: httpx.AsyncClient
) -> None:
    for title in ("one", "two", "three"):
        await http.post("/tasks", json={"title": title})
    first = (await http.get("/tasks", params={"first": 2})).json()
    assert [task["title"] for task in first["tasks"]] == ["one", "two"]
    rest = (await http.get("/tasks", params={"after": first["next"]})).json()
    assert [task["title"] for task in rest["tasks"]] == ["three"]
    assert rest["next"] is None
    await http.post("/tasks", json={"title": "four"})
    path = "/ws/secure/tasks"
    async with follow(origin, path, after=rest["event_cursor"]) as bob:
        assert (await bob.event())["data"]["task"]["title"] == "four"


@pytest.mark.parametrize("path", ["/ws/notifications/chat", "/ws/secure/chat"])
async def test_what_is_published_over_rest_graphql_and_websocket_is_the_same(
    origin: str, http: httpx.AsyncClient, path: str
) -> None:
    async with follow(origin, path) as bob:
        published = (await http.post("/publish/chat", json={"text": "rest"})).json()
        await graphql(http, "publish", topic="chat", payload={"text": "graphql"})
        events = [await bob.event(), await bob.event()]
        await bob.send('{"text": "socket"}')
        messages = {message["type"]: message for message in [await bob.receive() for _ in "12"]}
    events.append(messages["event"])
    assert [(each["data"]["author"], each["data"]["payload"]["text"]) for each in events] == [
        ("alice", "rest"),
        ("alice", "graphql"),
        ("bob", "socket"),
    ]
    assert events[0]["cursor"] == published["cursor"]
    assert published["payload"] == {"text": "rest"}


async def test_publishing_again_with_the_same_event_id_has_no_effect(
    http: httpx.AsyncClient,
) -> None:
    cursors = [
        (await http.post("/publish/chat", json="hi", params={"event_id": "1"})).json()["cursor"]
        for _ in range(2)
    ]
    assert cursors[0] == cursors[1]


async def test_a_binary_notification_arrives_as_bytes(origin: str) -> None:
    async with follow(origin, "/ws/secure/chat", subprotocols=[BINARY]) as bob:
        await bob.send(b"\x00\xff")
        frames = [await bob.frame(), await bob.frame()]
    [frame] = [frame for frame in frames if isinstance(frame, bytes)]
    assert frame.endswith(b"\n\x00\xff")


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "code"),
    [
        ("POST", "/tasks", {"title": "x"}, {}, 401, "UNAUTHENTICATED"),
        ("GET", "/tasks", None, {"authorization": "Bearer a.b.c"}, 401, "UNAUTHENTICATED"),
        ("POST", "/tasks", {"title": "x"}, bearer(publish=[]), 403, "FORBIDDEN"),
        ("POST", "/tasks", {"title": ""}, bearer(), 400, "BAD_USER_INPUT"),
        ("GET", "/tasks?first=201", None, bearer(), 400, "BAD_USER_INPUT"),
        ("POST", "/publish/tasks", {}, bearer(), 403, "FORBIDDEN"),
        ("POST", "/publish/other", {}, bearer(publish=["chat"]), 403, "FORBIDDEN"),
        ("POST", "/publish/a..b", {}, bearer(), 400, "BAD_USER_INPUT"),
        ("POST", "/publish/chat", "x" * 2_000_000, bearer(), 413, "BODY_TOO_BIG"),
    ],
)
async def test_a_request_is_refused_as_over_graphql(
    origin: str,
    method: str,
    path: str,
    body: Any,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    async with client_of(origin) as http:
        answer = await http.request(method, path, json=body, headers=headers)
    [error] = answer.json()["errors"]
    assert (answer.status_code, error["extensions"]["code"]) == (status, code)


async def test_events_of_tasks_that_never_happened_can_not_be_published(origin: str) -> None:
    async with follow(origin, "/ws/notifications/tasks") as bob:
        await bob.send('{"kind": "CREATED"}')
        assert (await bob.receive())["code"] == "FORBIDDEN"


async def test_the_routes_are_in_the_description_and_on_its_page(http: httpx.AsyncClient) -> None:
    api = (await http.get("/openapi.json")).json()
    assert {"/tasks", "/publish/{topic}"} <= set(api["paths"])
    assert set(api["paths"]["/tasks"]) == {"get", "post"}
    assert api["paths"]["/tasks"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "created_by" in api["components"]["schemas"]["Task"]["properties"]

    page = (await http.get("/docs")).text
    for shown in ("GET /tasks", "POST /tasks", "POST /publish/{topic}", 'id="Task"', "event_id"):
        assert shown in page
    assert "<script" not in page


def test_a_description_can_not_add_to_the_page() -> None:
    evil = "<script>"
    parameter = {"name": evil, "in": "query", "description": evil, "schema": {"enum": [evil]}}
    api = {
        "info": {"title": evil},
        "paths": {
            f"/{evil}": {
                "get": {
                    "description": evil,
                    "parameters": [parameter],
                    "responses": {},
                }
            }
        },
        "components": {"schemas": {evil: {"description": evil, "properties": {evil: {}}}}},
    }
    page = render(api)
    assert evil not in page
    assert page.count("&lt;script&gt;") == 11


async def test_messages_over_rest_are_those_of_graphql(
    origin: str, http: httpx.AsyncClient
) -> None:
    room = "the garden"
    start = (await http.get("/messages", params={"room": room})).json()
    topic = "/ws/secure/rooms.the+20garden"
    async with follow(origin, topic, after=start["event_cursor"]) as bob:
        answer = await http.post(
            "/messages", json={"room": room, "text": "hi"}, params={"event_id": "1"}
        )
        await http.post("/messages", json={"room": room, "text": "again"}, params={"event_id": "1"})
        said = await graphql(http, "say", room=room, text="bye")
        assert [each["text"] for each in await bob.data(2)] == ["hi", "bye"]
    assert answer.status_code == 201
    listed = (await http.get("/messages", params={"room": room, "before": said["id"]})).json()
    assert listed["messages"] == [answer.json()]


async def test_private_messages_over_rest(http: httpx.AsyncClient) -> None:
    sent = await http.post("/private-messages", json={"to": "bob", "text": "psst"})
    assert sent.status_code == 201
    for subject, expected in (("alice", [sent.json()]), ("bob", [sent.json()]), ("eve", [])):
        answer = await http.get("/private-messages", headers=bearer(subject))
        assert answer.json()["messages"] == expected


@pytest.mark.parametrize("path", ["/messages", "/private-messages"])
async def test_messages_over_rest_need_the_same_rights(http: httpx.AsyncClient, path: str) -> None:
    narrow = bearer("eve", subscribe=("tasks",), publish=("tasks",))
    body = {"room": "garden", "to": "bob", "text": "x"}
    assert (await http.post(path, json=body, headers=narrow)).status_code == 403
    assert (await http.get(path, headers={"authorization": "Bearer x"})).status_code == 401
    if path == "/messages":
        answer = await http.get(path, params={"room": "garden"}, headers=narrow)
        assert answer.status_code == 403
