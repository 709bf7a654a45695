"""A router refuses revoked tokens, and closes their sockets and streams."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from gqlnotify import GraphQLRouter, Settings, TopicManager
from gqlnotify.errors import (
    RevocationsUnavailable,
)
from gqlnotify.topics import revocation
from gqlnotify.topics.revocation import REVOCATIONS, Revocation
from tests.applications import (
    ALL_PROTOCOLS,
    STREAMS,
    application,
    bearer,
    client_of,
    http,
    stream_of,
)
from tests.bad_brokers import OutOfReach
from tests.cli.support import run
from tests.e2e.conftest import SECRET
from tests.e2e.raw import open_socket
from tests.e2e.tokens import token
from tests.message_app import MESSAGE_TEXTS, MessageApp
from tests.redis_servers import redis_server
from tests.servers import DIRECT, PATIENCE, Server, patience, running, serving
from tests.waiting import wait_until

NOW = 0
"""The time at which the running test began."""


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "NOW", int(time.time()))


HELLO_QUERY = {"query": "{ me }"}


def locked(**options: Any) -> Settings:
    return Settings(jwt_secret=SECRET, **options)  # type: ignore[arg-type]


@pytest.mark.processes
async def test_requests_are_refused_until_the_revocations_are_known(
    message_app: MessageApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "START_SECONDS", 0.05)
    monkeypatch.setattr(revocation, "RETRY_SECONDS", 0.01)
    broker = OutOfReach("read")
    await broker.publish(REVOCATIONS.name, REVOCATIONS.encode(Revocation(subject="eve", at=NOW)))
    topics = TopicManager(broker, settings=Settings(broker_wait=0))
    router = GraphQLRouter(message_app.schema, topics=topics, settings=locked())
    async with running(application(router)) as origin, client_of(origin) as client:
        answer = await client.post("/graphql", json=HELLO_QUERY, headers=bearer())
        assert answer.status_code == 503
        assert answer.json()["errors"][0]["extensions"]["code"] == "REVOCATIONS_UNAVAILABLE"
        async with open_socket(f"ws://{origin}") as socket:
            await socket.send({"type": "connection_init", "payload": {"token": token()}})
            assert (await socket.closed()).code == 1013
        assert router.revocations is not None
        with pytest.raises(RevocationsUnavailable):
            await router.revocations.ready()

        broker.down = set()
        monkeypatch.setattr(revocation, "START_SECONDS", PATIENCE)
        await router.revocations.ready()
        answer = await client.post("/graphql", json=HELLO_QUERY, headers=bearer())
        assert answer.json() == {"data": {"me": "alice"}}
        answer = await client.post("/graphql", json=HELLO_QUERY, headers=bearer(subject="eve"))
        assert answer.status_code == 401

        # Known revocations are enough while the broker can't be reached.
        broker.down = {"read", "head", "subscribe", "check"}
        answer = await client.post("/graphql", json=HELLO_QUERY, headers=bearer())
        assert answer.json() == {"data": {"me": "alice"}}


# with and without a lifespan


def included(router: Any) -> Any:
    return application(router), {}


def without_lifespan(router: Any) -> Any:
    return application(router), {"lifespan": "off"}


def mounted(router: Any) -> Any:
    outer = FastAPI()
    outer.mount("/", application(router))
    return outer, {}


def mounted_deeply(router: Any) -> Any:
    middle = Starlette(routes=[Mount("/", application(router))])
    return Starlette(routes=[Mount("/", middle)]), {}


@pytest.mark.processes
@pytest.mark.parametrize("topics", ["given", "its own"])
@pytest.mark.parametrize("serve", [included, without_lifespan, mounted, mounted_deeply])
async def test_a_revoked_token_is_refused_however_the_router_is_mounted(
    message_app: MessageApp, serve: Any, topics: str
) -> None:
    router = (
        message_app.locked()
        if topics == "given"
        else GraphQLRouter(message_app.schema, settings=locked())
    )
    assert router.revocations is not None
    app, options = serve(router)
    async with running(app, **options) as origin, client_of(origin) as client, patience():
        await router.revocations.revoke(subject="before")
        before = token("before", iat=NOW - 60)
        async with open_socket(f"ws://{origin}") as socket:
            await socket.send({"type": "connection_init", "payload": {"token": before}})
            assert (await socket.closed()).code == 4401
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init({"token": token(jti="between")})
            await router.revocations.revoke(token_id="between")
            assert (await socket.closed()).code == 4403
        for given in (before, token(jti="between")):
            headers = {"authorization": f"Bearer {given}"}
            answer = await client.post("/graphql", json=HELLO_QUERY, headers=headers)
            assert answer.status_code == 401
        good = await client.post("/graphql", json=HELLO_QUERY, headers=bearer())
        assert good.status_code == 200
    await router.revocations.close()


@pytest.mark.processes
async def test_a_token_that_lives_too_long_gets_its_own_error_and_does_not_count_as_a_guess(
    message_app: MessageApp,
) -> None:
    settings = locked(jwt_max_lifetime=60, max_failed_authentications=1)
    async with http(message_app.router(settings=settings)) as client:
        for _ in range(3):
            answer = await client.post("/graphql", json=HELLO_QUERY, headers=bearer())
            assert answer.status_code == 401
            [error] = answer.json()["errors"]
            assert error["extensions"]["code"] == "TOKEN_LIVES_TOO_LONG"
            assert "GQLNOTIFY_JWT_MAX_LIFETIME" in error["message"]


# over HTTP


@pytest.mark.processes
async def test_a_closed_socket_leaves_no_watch(message_app: MessageApp) -> None:
    router = message_app.locked()
    async with running(application(router)) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init(bearer())
            assert watches(router)
        await wait_until(lambda: not watches(router))


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_ends_when_its_token_is_revoked(
    message_app: MessageApp, kind: str, headers: dict[str, str]
) -> None:
    router = message_app.locked(subscription_protocols=ALL_PROTOCOLS)
    first = await message_app.say("first")
    await message_app.say("second")
    body = {"query": MESSAGE_TEXTS, "extensions": {"after": first}}
    async with patience(), http(router) as client:
        headers = {**headers, **bearer(jti="a")}
        async with client.stream("POST", "/graphql", json=body, headers=headers) as answer:
            results = stream_of(answer, kind)
            assert (await anext(results))["data"] == {"messages": {"text": "second"}}
            assert router.revocations is not None
            await router.revocations.revoke(token_id="a")
            [error] = (await anext(results))["errors"]
            assert error["extensions"]["code"] == "TOKEN_REVOKED"
        again = await client.post("/graphql", json=body, headers=headers)
        assert again.status_code == 401
        assert "TOKEN_REVOKED" in again.text
    assert not watches(router)


async def test_without_tokens_nothing_can_be_revoked(message_app: MessageApp) -> None:
    assert message_app.router().revocations is None


def watches(router: Any) -> int:
    return len(router.revocations._watches)


# several processes

APPLICATION = "tests.e2e.app:app"
TICKS = 'subscription { ticks(gate: "never") }'


@pytest.mark.processes
async def test_the_command_ends_the_affected_sockets_of_every_process_and_no_others(
    redis_url: str, tmp_path: Path
) -> None:
    subject = f"alice {time.time()}"
    affected = token(subject, iat=NOW)
    one_of_bobs, other_of_bobs = (token("bob", jti=f"{subject} {n}", iat=NOW) for n in range(2))
    environment = {"GQLNOTIFY_BROKER_URL": redis_url}
    async with two_processes(redis_url, tmp_path, *DIRECT) as servers, AsyncExitStack() as s:
        sockets = {
            bearer: [await enter(s, server, bearer) for server in servers]
            for bearer in (affected, one_of_bobs, other_of_bobs)
        }

        done = await asyncio.to_thread(run, "revoke", "--subject", subject, settings=environment)
        assert done.returncode == 0, done.stderr
        for socket in sockets[affected]:
            close = await socket.closed()
            assert (close.code, close.reason) == (4403, "The token was revoked")
        topics = TopicManager(settings=Settings(broker_url=redis_url))
        a_minute_ago = Revocation(subject=f"{subject} again", at=time.time() - 60)
        await topics.publish_internal(REVOCATIONS, a_minute_ago)
        await topics.publish_internal(REVOCATIONS, Revocation(token_id=f"{subject} 0"))
        await topics.close()
        for socket in sockets[one_of_bobs]:
            assert (await socket.closed()).code == 4403
        for socket in sockets[other_of_bobs]:
            await socket.is_silent()
        for server in servers:
            await assert_refused(server, affected)
            await assert_refused(server, one_of_bobs)
            await assert_refused(server, token(f"{subject} again", iat=int(time.time()) - 120))
            await enter(s, server, token(f"{subject} again", iat=int(time.time())))
        for server in servers:
            assert server.trouble == []


@pytest.mark.processes
async def test_a_restart_of_redis_loses_no_revocation(tmp_path: Path) -> None:
    with redis_server(persistent=True) as redis:
        async with two_processes(redis.url, tmp_path) as servers, AsyncExitStack() as stack:
            sockets = [await enter(stack, server, token(iat=NOW)) for server in servers]
            redis.restart()
            topics = TopicManager(settings=Settings(broker_url=redis.url))
            await topics.publish_internal(REVOCATIONS, Revocation(subject="alice"))
            await topics.close()

            for socket in sockets:
                assert (await socket.closed()).code == 4403
            redis.restart()
            for server in servers:
                await assert_refused(server, token(iat=NOW))
        with serving(APPLICATION, tmp_path, jwt_secret=SECRET, broker_url=redis.url) as late:
            await assert_refused(late, token(iat=NOW))


@asynccontextmanager
async def two_processes(
    redis_url: str, directory: Path, *arguments: str
) -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            server = serving(
                APPLICATION, directory / name, *arguments, jwt_secret=SECRET, broker_url=redis_url
            )
            servers.append(stack.enter_context(server))
        yield servers


async def enter(stack: AsyncExitStack, server: Server, bearer: str) -> Any:
    socket = await stack.enter_async_context(open_socket(server.ws))
    await socket.init({"Authorization": f"Bearer {bearer}"})
    await socket.subscribe("1", TICKS)
    await socket.next("1")
    return socket


async def assert_refused(server: Server, bearer: str) -> None:
    async with open_socket(server.ws) as socket:
        payload = {"Authorization": f"Bearer {bearer}"}
        await socket.send({"type": "connection_init", "payload": payload})
        close = await socket.closed()
    assert (close.code, close.reason) == (4401, "The token was revoked")
    async with client_of(server.http.removeprefix("http://")) as client:
        headers = {"authorization": f"Bearer {bearer}"}
        answer = await client.post("/graphql", json={"query": "{ hello }"}, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["errors"][0]["extensions"]["code"] == "TOKEN_REVOKED"
