"""The application's own tests, in the usual styles; `test_kit.py` runs them.

Each test publishes under the same event id and expects an empty history.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from jose import jwt
from starlette.testclient import TestClient

from tests.kit.chat import MESSAGES, app, schema, topics

SECRET = os.environ.get("CHAT_SECRET", "")
FIELDS = ["shared", "perViewer", "generated"]
ROUNDS = range(3)
SAY = 'mutation { say(text: "hello", eventId: "the same in every test") }'
REMEMBERED = "{ remembered }"


async def _listened_to(by: asyncio.Future[Any]) -> None:
    while MESSAGES.name not in topics.readers:
        assert not by.done(), by.result()
        await asyncio.sleep(0)


def _token() -> str:
    rights = {"subscribe": ["*"], "publish": ["*"]}
    claims = {"sub": "alice", "exp": int(time.time()) + 600, "topics": rights}
    return str(jwt.encode(claims, SECRET, algorithm="HS256"))


HEADERS = {"authorization": f"Bearer {_token()}"} if SECRET else {}


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(app, headers=HEADERS) as client:
        yield client


@pytest.fixture
def client_without_lifespan() -> TestClient:
    return TestClient(app, headers=HEADERS)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://chat", headers=HEADERS
    ) as http:
        yield http


class Conversation:
    """A client on a WebSocket of the test client."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        socket.send_json({"type": "connection_init"})
        assert socket.receive_json()["type"] == "connection_ack"

    def subscribe(self, query: str, id_: str) -> None:
        payload = {"query": query}
        self.socket.send_json({"type": "subscribe", "id": id_, "payload": payload})

    def result(self, id_: str) -> Any:
        while (message := self.socket.receive_json()).get("id") != id_:
            pass
        assert message["type"] == "next", message
        return message["payload"]["data"]

    def ask(self, query: str, id_: str = "ask") -> Any:
        self.subscribe(query, id_)
        data = self.result(id_)
        assert self.socket.receive_json() == {"type": "complete", "id": id_}
        return data


def connect(client: TestClient) -> Any:
    return client.websocket_connect("/graphql", subprotocols=["graphql-transport-ws"])


def post(client: TestClient, query: str) -> Any:
    answer = client.post("/graphql", json={"query": query}).json()
    assert "errors" not in answer, answer
    return answer["data"]


@pytest.mark.parametrize("_round", ROUNDS)
def test_the_history_is_empty_at_first(client: TestClient, _round: int) -> None:
    assert post(client, REMEMBERED) == {"remembered": 0}
    assert post(client, SAY)
    assert post(client, REMEMBERED) == {"remembered": 1}


@pytest.mark.parametrize("_round", ROUNDS)
@pytest.mark.parametrize("field", FIELDS)
def test_a_subscription_gets_events(client: TestClient, field: str, _round: int) -> None:
    with connect(client) as socket:
        conversation = Conversation(socket)
        conversation.subscribe(f"subscription {{ {field} }}", "1")
        assert conversation.ask(REMEMBERED) == {"remembered": 0}
        post(client, SAY)
        assert conversation.result("1") == {field: "hello"}


@pytest.mark.parametrize("field", FIELDS)
def test_a_subscription_is_open_when_the_test_ends(client: TestClient, field: str) -> None:
    with connect(client) as socket:
        Conversation(socket).subscribe(f"subscription {{ {field} }}", "1")


@pytest.mark.parametrize("field", FIELDS)
def test_without_a_lifespan_a_socket_works(client_without_lifespan: TestClient, field: str) -> None:
    with connect(client_without_lifespan) as socket:
        conversation = Conversation(socket)
        conversation.subscribe(f"subscription {{ {field} }}", "1")
        assert conversation.ask(REMEMBERED) == {"remembered": 0}
        conversation.subscribe(SAY, "2")
        assert conversation.result("1") == {field: "hello"}


def test_without_a_lifespan_http_works(client_without_lifespan: TestClient) -> None:
    assert post(client_without_lifespan, SAY)
    assert post(client_without_lifespan, REMEMBERED) == {"remembered": 0}


async def ask(http: httpx.AsyncClient, query: str) -> Any:
    answer = (await http.post("/graphql", json={"query": query})).json()
    assert "errors" not in answer, answer
    return answer["data"]


@pytest.mark.parametrize("_round", ROUNDS)
async def test_httpx_finds_no_events_of_other_tests(http: httpx.AsyncClient, _round: int) -> None:
    assert await ask(http, REMEMBERED) == {"remembered": 0}
    assert await ask(http, SAY)
    assert await ask(http, REMEMBERED) == {"remembered": 1}


@pytest.mark.parametrize("field", FIELDS)
async def test_a_stream_is_open_when_the_test_ends(http: httpx.AsyncClient, field: str) -> None:
    stream = asyncio.ensure_future(
        http.post(
            "/graphql",
            json={"query": f"subscription {{ {field} }}"},
            headers={"accept": "text/event-stream"},
        )
    )
    await _listened_to(stream)
    assert await ask(http, SAY)
    assert not stream.done()


@pytest.mark.parametrize("_round", ROUNDS)
async def test_an_iterator_is_not_closed(_round: int) -> None:
    stream = topics.subscribe(MESSAGES)
    await stream.start()
    await topics.publish(MESSAGES, "hello", event_id="the same in every test")
    assert await anext(stream) == "hello"


@pytest.mark.parametrize("_round", ROUNDS)
async def test_an_iterator_waits_when_the_test_ends(_round: int) -> None:
    waiting = asyncio.ensure_future(anext(topics.subscribe(MESSAGES)))
    await asyncio.sleep(0)
    assert not waiting.done()


async def test_the_manager_is_closed_by_the_test() -> None:
    await topics.start()
    await topics.publish(MESSAGES, "hello")
    await topics.close()


@pytest.mark.skipif(bool(SECRET), reason="the schema alone knows no tokens")
async def test_the_schema_can_be_executed_directly() -> None:
    stream = await schema.subscribe("subscription { generated }")
    first = asyncio.ensure_future(anext(stream))
    await _listened_to(first)
    await topics.publish(MESSAGES, "hello")
    assert (await first).data == {"generated": "hello"}
