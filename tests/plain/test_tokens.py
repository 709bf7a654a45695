"""Every way to bring a token to a plain WebSocket, and every refusal."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from gqlnotify import GraphQLRouter, Principal, TopicManager, topic_router
from gqlnotify.settings import Settings
from tests.applications import schema_of
from tests.e2e.conftest import SECRET
from tests.e2e.tokens import token
from tests.plain.support import BINARY, CLASSES, JSON, App, locked, served
from tests.servers import running

both = pytest.mark.parametrize("ws", CLASSES, ids=["direct", "portable"])
SECURE = "/secure/news"
WAYS: Any = {
    "header": lambda: {"token": token()},
    "subprotocol": lambda: {"subprotocols": [JSON, f"bearer.{token()}"]},
    "subprotocol first": lambda: {"subprotocols": [f"bearer.{token()}", BINARY]},
    "subprotocol alone": lambda: {"subprotocols": [f"bearer.{token()}"]},
}


@both
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", ["/notifications/news", SECURE])
async def test_a_token_comes_with_the_handshake(ws: Any, way: str, path: str) -> None:
    async with locked(ws) as app, app.client(path, **WAYS[way]()) as client:
        # The token is never echoed: the server selects a subprotocol of its own, or none.
        assert client.connection.subprotocol in {JSON, BINARY, None}
        await client.ready()


async def test_the_header_that_a_browser_adds_by_itself_hides_no_token() -> None:
    offered = [JSON, f"bearer.{token()}"]
    async with (
        locked() as app,
        app.client(subprotocols=offered, headers={"authorization": "Basic YTpi"}) as client,
    ):
        await client.ready()


@both
@pytest.mark.parametrize("key", ["token", "authorization", "authToken"])
async def test_a_token_comes_in_the_first_message(ws: Any, key: str) -> None:
    first = json.dumps({key: f"Bearer {token('alice')}"})
    async with locked(ws) as app, app.client(SECURE) as client:
        await client.send(first)
        await client.send('"published"')
        await client.ready()
        messages = [await client.receive(), await client.receive()]
        [event] = [each for each in messages if each["type"] == "event"]
        assert event["data"] == {"author": "alice", "data": "published"}
        # A token is never published, not even by mistake.
        await client.send(first)
        assert (await client.receive())["code"] == "BAD_USER_INPUT"


async def test_a_token_in_the_address_is_accepted_only_where_it_is_turned_on() -> None:
    address = f"{SECURE}?token={token()}"
    async with locked(query_token=True) as app, app.client(address) as client:
        await client.ready()
    async with locked() as app, app.client(address) as client:
        close = await client.closed()
    assert close.code == 1008
    assert close.reason.startswith("UNAUTHENTICATED: ?token= is off here. Use Authorization")


REFUSED: Any = {
    "a forged token": ({"token": "a.b.c"}, 1008, "UNAUTHENTICATED: Connect with a new token. "),
    "an expired token": (
        {"token": token(expires_in=-10)},
        1008,
        "UNAUTHENTICATED: Connect with a new token. The token has expired",
    ),
    "no right": (
        {"token": token(subscribe=["other"])},
        1008,
        "FORBIDDEN: Get a token with this right. ",
    ),
    "another subprotocol": (
        {"token": token(), "subprotocols": ["graphql-transport-ws"]},
        1008,
        "BAD_USER_INPUT: Offer the subprotocol gqlnotify.json or gqlnotify.binary, or none",
    ),
}


@both
@pytest.mark.parametrize("case", REFUSED)
async def test_a_refusal_closes_with_what_to_do(ws: Any, case: str) -> None:
    options, code, reason = REFUSED[case]
    async with locked(ws) as app, app.client(**options) as client:
        close = await client.closed()
    assert (close.code, close.reason[: len(reason)]) == (code, reason)


@both
@pytest.mark.parametrize("first", ["hello", "{}", b"\x00", None])
async def test_a_client_without_a_token_is_told_how_to_send_one(ws: Any, first: Any) -> None:
    async with locked(ws, connection_init_wait=0.2) as app, app.client() as client:
        if first is not None:
            await client.send(first)
        close = await client.closed()
    assert close.code == 1008
    assert close.reason == (
        "UNAUTHENTICATED: Send a token: Authorization, subprotocol bearer.<token>, "
        'or first message {"token": ...}'
    )


async def test_the_secure_path_serves_nobody_where_no_tokens_are_checked() -> None:
    async with served() as app, app.client(SECURE, token=token()) as client:
        close = await client.closed()
        assert (close.code, close.reason) == (
            1008,
            "UNAUTHENTICATED: This server checks no tokens. Set GQLNOTIFY_JWT_SECRET on the server",
        )


@both
async def test_a_token_that_expires_closes_the_socket(ws: Any) -> None:
    async with locked(ws) as app, app.client(token=token(expires_in=2)) as client:
        await client.ready()
        close = await client.closed()
    assert close.code == 1008
    assert close.reason.startswith("UNAUTHENTICATED: The token has expired. Connect with a new")


@both
async def test_a_token_that_is_revoked_closes_the_socket(ws: Any) -> None:
    settings = Settings(jwt_secret=SecretStr(SECRET))
    topics = TopicManager(settings=settings)
    graphql = GraphQLRouter(schema_of(), topics=topics, settings=settings)
    app = App(topics, FastAPI())
    app.app.include_router(graphql, prefix="/graphql")
    app.app.include_router(topic_router(topics, settings=settings))
    async with (
        running(app.app, ws=ws) as app.origin,
        app.client(token=token("alice")) as alice,
        app.client(token=token("bob")) as bob,
    ):
        await alice.ready()
        await bob.ready()
        assert graphql.revocations is not None
        await graphql.revocations.revoke(subject="alice")
        close = await alice.closed()
        assert (close.code, close.reason[:14]) == (1008, "TOKEN_REVOKED:")
        await topics.publish("news", 1)
        assert await bob.data(1) == [1]


async def test_both_routers_count_the_connections_of_a_subject_together() -> None:
    settings = Settings(jwt_secret=SecretStr(SECRET), max_connections_per_subject=1)
    topics = TopicManager(settings=settings)
    graphql = GraphQLRouter(schema_of(), topics=topics, settings=settings)
    app = App(topics, FastAPI())
    app.app.include_router(graphql, prefix="/graphql")
    app.app.include_router(topic_router(topics, graphql=graphql))
    async with running(app.app) as app.origin, app.client(token=token("alice")) as client:
        await client.ready()
        assert graphql._gqlnotify.connection_limits.connections == 1
        async with app.client(token=token("alice")) as second:
            assert (await second.closed()).code == 1013


async def test_settings_and_another_router_are_not_mixed() -> None:
    graphql = GraphQLRouter(schema_of())
    with pytest.raises(ValueError, match="settings from the router in `graphql`"):
        topic_router(TopicManager(), graphql=graphql, settings=Settings())


async def test_a_hook_may_know_the_client_without_a_token() -> None:
    def authenticate(token: str | None, connection: Any) -> Principal:
        return Principal(connection.cookies["user"], subscribe=("*",), publish=("*",))

    topics = TopicManager()
    app = App(topics, FastAPI())
    app.app.include_router(topic_router(topics, authenticate=authenticate))
    async with (
        running(app.app) as app.origin,
        app.client(headers={"cookie": "user=carol"}) as client,
    ):
        await client.ready()
        await client.send("hi")
        messages = [await client.receive(), await client.receive()]
        assert {"author": "carol", "data": "hi"} in [each.get("data") for each in messages]
