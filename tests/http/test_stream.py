"""Streams over HTTP have the limits of sockets."""

import asyncio
import json
import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import strawberry
from prometheus_client import REGISTRY
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gqlnotify import GraphQLRouter, Settings
from gqlnotify.connections.limits import ConnectionLimits
from gqlnotify.errors import TooManyConnections, TooManyConnectionsOfSubject
from gqlnotify.observability import metrics
from gqlnotify.server.http import Watched
from tests.applications import (
    ALL_PROTOCOLS,
    STREAMS,
    application,
    bearer,
    client_of,
    stream_of,
)
from tests.e2e.conftest import SECRET
from tests.e2e.raw import open_socket
from tests.e2e.tokens import token
from tests.message_app import MESSAGE_TEXTS, MessageApp
from tests.servers import running
from tests.waiting import PATIENCE, wait_until

BODY = {"query": MESSAGE_TEXTS}


def locked(message_app: MessageApp, **limits: Any) -> Any:
    settings = Settings(jwt_secret=SECRET, **limits)  # type: ignore[arg-type]
    return message_app.router(settings=settings, subscription_protocols=ALL_PROTOCOLS)


def streams() -> float:
    metrics._watch.sample()
    return REGISTRY.get_sample_value("gqlnotify_streams") or 0.0


async def opened(
    client: httpx.AsyncClient, up: AsyncExitStack, headers: dict[str, str], subject: str = "alice"
) -> httpx.Response:
    return await up.enter_async_context(
        client.stream("POST", "/graphql", json=BODY, headers={**headers, **bearer(subject=subject)})
    )


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_streams_and_sockets_of_a_subject_are_counted_together(
    message_app: MessageApp, kind: str, headers: dict[str, str]
) -> None:
    router = locked(message_app, max_connections_per_subject=2)
    async with (
        running(application(router)) as origin,
        client_of(origin) as client,
        AsyncExitStack() as up,
    ):
        assert (await opened(client, up, headers)).status_code == 200
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init({"token": token()})
            refused = await client.post("/graphql", json=BODY, headers={**headers, **bearer()})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 0
            [error] = refused.json()["errors"]
            assert error["extensions"]["code"] == "TOO_MANY_CONNECTIONS_OF_SUBJECT"
            assert (await opened(client, up, headers, "bob")).status_code == 200
            # A request that is not streamed does not count as a connection.
            query = {"query": "{ me }"}
            answer = await client.post("/graphql", json=query, headers=bearer())
            assert answer.json() == {"data": {"me": "alice"}}
            assert router._gqlnotify.connection_limits.connections == 3
        await wait_until(lambda: router._gqlnotify.connection_limits.connections == 2)
        assert (await opened(client, up, headers)).status_code == 200
        async with open_socket(f"ws://{origin}") as socket:
            await socket.send({"type": "connection_init", "payload": {"token": token()}})
            assert (await socket.closed()).code == 1013


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_full_process_accepts_no_stream_and_counts_its_own(
    message_app: MessageApp, kind: str, headers: dict[str, str]
) -> None:
    router = locked(message_app, max_connections=2)
    before = metrics._refusals.labels("too_many_connections")._value.get()
    async with running(application(router)) as origin, client_of(origin) as client:
        async with AsyncExitStack() as up:
            for subject in ("alice", "bob"):
                assert (await opened(client, up, headers, subject)).status_code == 200
            refused = await client.post(
                "/graphql", json=BODY, headers={**headers, **bearer(subject="carol")}
            )
            assert refused.status_code == 503
            assert refused.json()["errors"][0]["extensions"]["code"] == "TOO_MANY_CONNECTIONS"
            assert "retry-after" in refused.headers
            assert streams() == 2
        await wait_until(lambda: streams() == router._gqlnotify.connection_limits.connections == 0)
    assert metrics._refusals.labels("too_many_connections")._value.get() == before + 1


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("{ me }", {}),
        ("subscription { nonsense }", {}),
        ("subscription { messages(after: 5) { text } }", {}),
        (MESSAGE_TEXTS, {"subscribe": []}),
        (MESSAGE_TEXTS, {"expires_in": 1}),
    ],
    ids=["a query", "an invalid one", "a bad argument", "no right", "a token that expires"],
)
async def test_a_stream_that_ends_by_itself_is_counted_no_longer(
    message_app: MessageApp, kind: str, headers: dict[str, str], query: str, options: dict[str, Any]
) -> None:
    router = locked(message_app)
    async with running(application(router)) as origin, client_of(origin) as client:
        body = {"query": query}
        await client.post("/graphql", json=body, headers={**headers, **bearer(**options)})
        await wait_until(lambda: router._gqlnotify.connection_limits.connections == 0)
    assert not router._gqlnotify.connection_limits._of_subject


@pytest.mark.processes
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_whose_client_leaves_is_counted_no_longer(
    message_app: MessageApp, kind: str, headers: dict[str, str]
) -> None:
    router = locked(message_app)
    async with running(application(router)) as origin, client_of(origin) as client:
        first = await message_app.say("first")
        await message_app.say("second")
        body = {**BODY, "extensions": {"after": first}}
        async with client.stream(
            "POST", "/graphql", json=body, headers={**headers, **bearer()}
        ) as answer:
            results: AsyncIterator[Any] = stream_of(answer, kind)
            assert (await anext(results))["data"] == {"messages": {"text": "second"}}
            assert router._gqlnotify.connection_limits.connections == 1
        await wait_until(lambda: router._gqlnotify.connection_limits.connections == 0)
    assert not router._gqlnotify.connection_limits._of_subject


def test_a_refused_stream_leaves_nothing() -> None:
    connection_limits = ConnectionLimits(max_connections=2, max_per_subject=1)
    leave = connection_limits.enter_stream("alice")
    with pytest.raises(TooManyConnectionsOfSubject):
        connection_limits.enter_stream("alice")
    assert connection_limits.connections == 1
    connection_limits.enter_stream(None)
    with pytest.raises(TooManyConnections):
        connection_limits.enter_stream("bob")

    leave()
    connection_limits.enter_stream("alice")
    assert connection_limits.connections == 2


# peers that do not read

PEERS = 40
SEND_TIMEOUT = 0.6


class OursHttptools(Watched, HttpToolsProtocol):
    send_timeout = SEND_TIMEOUT


class OursH11(Watched, H11Protocol):
    send_timeout = SEND_TIMEOUT


SERVERS = [OursHttptools, OursH11, HttpToolsProtocol, H11Protocol]


@strawberry.type
class Query:
    @strawberry.field
    def large(self) -> str:
        return "x" * 5_000_000


@strawberry.type
class Flood:
    @strawberry.subscription
    async def flood(self, events: int = 1_000_000) -> AsyncIterator[str]:
        for _ in range(events):
            yield "x" * 50_000


def flooding(**options: Any) -> Any:
    settings = Settings(send_timeout=SEND_TIMEOUT, **options)
    return GraphQLRouter(
        strawberry.Schema(Query, subscription=Flood),
        settings=settings,
        subscription_protocols=ALL_PROTOCOLS,
    )


@contextmanager
def asking(origin: str, query: str, headers: dict[str, str]) -> Iterator[socket.socket]:
    """Send a request, and do not read the answer."""
    host, port = origin.split(":")
    body = json.dumps({"query": query})
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = ["POST /graphql HTTP/1.1", f"host: {origin}", "content-type: application/json", *lines]
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect((host, int(port)))
        length = f"content-length: {len(body)}"
        peer.sendall("\r\n".join([*head, length, "", body]).encode())
        peer.setblocking(False)
        yield peer


def is_reset(peer: socket.socket) -> bool:
    looking = select.poll()
    looking.register(peer, 0)
    return any(event & select.POLLERR for _, event in looking.poll(0))


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(("kind", "headers"), STREAMS)
@pytest.mark.processes
async def test_streams_whose_peers_never_read_are_dropped(
    kind: str, headers: dict[str, str], server: type[asyncio.Protocol]
) -> None:
    router = flooding()
    async with running(application(router), http=server) as origin:
        with ExitStack() as up:
            peers = [
                up.enter_context(asking(origin, "subscription { flood }", headers))
                for _ in range(PEERS)
            ]
            await wait_until(lambda: router._gqlnotify.connection_limits.connections == PEERS)
            await wait_until(
                lambda: router._gqlnotify.connection_limits.connections == 0, seconds=PATIENCE
            )
            await wait_until(lambda: all(is_reset(peer) for peer in peers))


@pytest.mark.parametrize("server", SERVERS)
async def test_a_stream_that_is_read_slowly_continues(server: type[asyncio.Protocol]) -> None:
    router = flooding()
    loop = asyncio.get_running_loop()
    async with running(application(router), http=server) as origin:
        with asking(origin, "subscription { flood }", STREAMS[0][1]) as peer:
            end = loop.time() + 3 * SEND_TIMEOUT
            while loop.time() < end:
                assert await loop.sock_recv(peer, 65536)
                await asyncio.sleep(SEND_TIMEOUT / 20)
            assert router._gqlnotify.connection_limits.connections == 1


@pytest.mark.parametrize("server", SERVERS)
async def test_the_rest_of_a_stream_that_has_ended_is_not_kept_for_ever(
    server: type[asyncio.Protocol],
) -> None:
    router = flooding()
    headers = {**STREAMS[0][1], "connection": "close"}
    async with running(application(router), http=server, timeout_keep_alive=1) as origin:
        with asking(origin, "subscription { flood(events: 60) }", headers) as peer:
            await wait_until(lambda: is_reset(peer), seconds=PATIENCE)
    assert router._gqlnotify.connection_limits.connections == 0


@pytest.mark.parametrize("server", [OursHttptools, OursH11])
@pytest.mark.parametrize("keep", ["close", "keep-alive"])
async def test_a_large_answer_that_is_never_read_is_dropped(
    server: type[asyncio.Protocol], keep: str
) -> None:
    app = application(flooding())
    async with running(app, http=server, timeout_keep_alive=1) as origin:
        with asking(origin, "{ large }", {"connection": keep}) as peer:
            await wait_until(lambda: is_reset(peer), seconds=PATIENCE)
