"""`gqlnotify trace` names why an event did not arrive, whichever process knows it."""

import asyncio
import json
import os
import select
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import httpx
import pytest

from gqlnotify import Publisher, Settings
from gqlnotify.settings import Bounds
from tests.cli.support import COMMAND, environment, on, read_until, run
from tests.e2e.conftest import SECRET
from tests.e2e.raw import Socket, open_socket
from tests.e2e.tokens import token
from tests.e2e.traced import NOTES, Note
from tests.narrow import NARROW
from tests.redis_servers import RedisServer, redis_server
from tests.servers import NO_TLS, Server, serving
from tests.soak.peer import Peer
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

APP = "tests.e2e.traced:app"
NOTES_OF_ALL = "subscription { notes { text } }"
OURS = "subscription { ours { text } }"
ABOUT = 'subscription { about(word: "cats") { text } }'


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def servers(
    redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    settings: dict[str, Any] = {
        "broker_url": redis.url,
        "jwt_secret": SECRET,
        "send_timeout": 0.3,
        # The clients of these tests answer no pings.
        "ping_interval": 1000,
    }
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with (
        serving(APP, one, program=NARROW, **settings) as first,
        serving(APP, two, **settings) as second,
    ):
        yield first, second


@pytest.fixture
def publisher(redis: RedisServer) -> Iterator[Publisher]:
    settings = Settings(broker_url=redis.url, history_per_topic={"quiet": Bounds(length=3)})
    with Publisher(settings=settings) as publisher:
        yield publisher


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


class Traces:
    """Connects clients, publishes, and asks the command."""

    def __init__(self, url: str, publisher: Publisher, stack: AsyncExitStack) -> None:
        self._url, self._publisher, self._stack = url, publisher, stack

    async def connect(self, server: Server, subject: str, **claims: Any) -> Socket:
        socket = await self._stack.enter_async_context(open_socket(server.ws))
        await socket.init({"token": token(subject, **claims)})
        return socket

    async def subscribe(self, subject: str, socket: Socket, query: str) -> None:
        await socket.subscribe("1", query)
        await self.has_begun(subject)

    async def has_begun(self, subject: str) -> None:
        # The protocol does not acknowledge a subscription, but the command shows it.
        await wait_until(lambda: self._is_subscribed(subject))

    async def _is_subscribed(self, subject: str) -> bool:
        lines = await self.lines(subject, "notes", "--no-follow")
        return any(line["type"] == "subscription" for line in lines)

    def publish(self, tenant: str = "acme", text: str = "dogs") -> str:
        return str(self._publisher.publish_sync(NOTES, Note(tenant=tenant, text=text)))

    async def lines(self, subject: str, topic: str, *more: str) -> list[dict[str, Any]]:
        arguments = ("--subject", subject, "--topic", topic, "--json", *more)
        done = await asyncio.to_thread(run, "trace", *arguments, settings=on(self._url))
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    async def expect(self, subject: str, cursor: str, cause: str, *, topic: str = "notes") -> str:
        """Wait for the verdict, and return what it says."""
        verdict: dict[str, Any] = {}

        async def is_known() -> bool:
            verdict.update((await self.lines(subject, topic, "--cursor", cursor))[-1])
            return bool(verdict["cause"] == cause)

        try:
            await wait_until(is_known)
        except AssertionError:
            raise AssertionError(await self.lines(subject, topic, "--cursor", cursor)) from None
        assert (verdict["type"], verdict["subject"]) == ("verdict", subject)
        return str(verdict["text"])


@pytest.fixture
def traces(redis: RedisServer, publisher: Publisher, stack: AsyncExitStack) -> Traces:
    return Traces(redis.url, publisher, stack)


@contextmanager
def following(url: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [*COMMAND, "trace", *arguments], env=environment(on(url)), stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


Servers = tuple[Server, Server]


async def test_who_gets_an_event_has_acknowledged_it(traces: Traces, servers: Servers) -> None:
    socket = await traces.connect(servers[0], "gina")
    await traces.subscribe("gina", socket, NOTES_OF_ALL)
    cursor = traces.publish()
    await socket.next("1")

    await traces.expect("gina", cursor, "sent")


async def test_no_right(traces: Traces, servers: Servers) -> None:
    socket = await traces.connect(servers[1], "norah", subscribe=["rooms"])
    await socket.subscribe("1", NOTES_OF_ALL)
    await socket.error("1")

    await traces.expect("norah", traces.publish(), "no_right")


async def test_a_filter(traces: Traces, servers: Servers) -> None:
    socket = await traces.connect(servers[1], "filip")
    await traces.subscribe("filip", socket, ABOUT)

    cursor = traces.publish(text="dogs")

    text = await traces.expect("filip", cursor, "filtered")
    assert "mentions_the_word (e2e/traced.py:" in text


async def test_the_scope_of_another_tenant(traces: Traces, servers: Servers) -> None:
    for server, subject, tenant in [(servers[0], "acey", "acme"), (servers[1], "globy", "globex")]:
        socket = await traces.connect(server, subject, tenant=tenant)
        await traces.subscribe(subject, socket, OURS)

    cursor = traces.publish(tenant="globex")

    text = await traces.expect("acey", cursor, "other_scope")
    assert "It is for the scope 'globex'" in text
    await traces.expect("globy", cursor, "sent")


async def test_a_token_that_has_expired(traces: Traces, servers: Servers) -> None:
    socket = await traces.connect(servers[0], "exie", expires_in=2)
    await traces.subscribe("exie", socket, NOTES_OF_ALL)
    assert (await socket.closed()).code == 4403

    await traces.expect("exie", traces.publish(), "token_expired")


async def test_an_attempt_with_an_expired_token(traces: Traces, servers: Servers) -> None:
    async with open_socket(servers[1].ws) as socket:
        await socket.send(
            {"type": "connection_init", "payload": {"token": token("late", expires_in=-1)}}
        )
        assert (await socket.closed()).code == 4403

    await traces.expect("late", traces.publish(), "token_expired")


async def test_a_slow_reader(traces: Traces, servers: Servers) -> None:
    peer = await Peer.connect(servers[0].port, buffer=4096)
    try:
        peer.send({"type": "connection_init", "payload": {"token": token("slowy")}})
        await peer.expect("connection_ack")
        peer.subscribe("1", NOTES_OF_ALL)
        await traces.has_begun("slowy")
        for _ in range(15):
            cursor = traces.publish(text="x" * 100_000)

        await traces.expect("slowy", cursor, "too_slow")
    finally:
        peer.cut()


async def test_a_gap(traces: Traces, servers: Servers, publisher: Publisher) -> None:
    # Redis trims a stream in whole blocks of entries.
    entries = (("quiet", str(number), None) for number in range(300))
    old, missed, *_ = map(str, publisher.publish_many_sync(entries))
    socket = await traces.connect(servers[0], "gappy")
    await socket.subscribe("1", "subscription { quiet }", extensions={"after": old})
    assert (await socket.error("1"))[0]["extensions"]["code"] == "CURSOR_EXPIRED"

    await traces.expect("gappy", missed, "gap", topic="quiet")


async def test_an_event_that_can_not_be_read(
    traces: Traces, servers: Servers, publisher: Publisher
) -> None:
    socket = await traces.connect(servers[1], "ulla")
    await traces.subscribe("ulla", socket, NOTES_OF_ALL)

    cursor = str(publisher.publish_sync("notes", {"text": "without a tenant"}))

    await traces.expect("ulla", cursor, "unreadable")


async def test_an_event_that_was_never_published(traces: Traces, servers: Servers) -> None:
    socket = await traces.connect(servers[1], "nelly")
    await traces.subscribe("nelly", socket, NOTES_OF_ALL)
    epoch, _, seq = traces.publish().partition("-")

    await traces.expect("nelly", f"{epoch}-{int(seq) + 7}", "never_published")


async def test_a_stream_over_http(traces: Traces, servers: Servers) -> None:
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {token('hetty')}"}
    async with httpx.AsyncClient(base_url=servers[0].http, headers=headers, verify=NO_TLS) as http:
        async with http.stream("POST", "/graphql", json={"query": NOTES_OF_ALL}) as stream:
            assert stream.status_code == 200
            await traces.has_begun("hetty")
            await traces.expect("hetty", traces.publish(), "sent")

        await traces.expect("hetty", traces.publish(), "disconnected")


async def test_a_trace_follows_each_step_of_a_delivery(
    traces: Traces, servers: Servers, redis: RedisServer
) -> None:
    socket = await traces.connect(servers[1], "fola")
    await socket.subscribe("1", NOTES_OF_ALL)
    await traces.has_begun("fola")
    other = await traces.connect(servers[1], "otto")
    await traces.subscribe("otto", other, ABOUT)

    with following(redis.url, "--subject", "fola", "--topic", "notes", "--json") as trace:
        assert trace.stdout is not None
        await asyncio.to_thread(read_until, trace, '"verdict"')
        # The trace has begun when the next steps come.
        seen = ""
        while '"written"' not in seen:
            cursor = traces.publish()
            await socket.next("1")
            seen += await asyncio.to_thread(_read_a_little, trace)
        trace.send_signal(signal.SIGINT)
        seen += (await asyncio.to_thread(trace.stdout.read)).decode()

    lines = [json.loads(line) for line in seen.splitlines() if line.startswith("{")]
    steps = [line for line in lines if line["type"] == "step"]
    written = next(step for step in steps if step["kind"] == "written")
    place = written["process"], written["cursor"]
    told = [step["kind"] for step in steps if (step["process"], step["cursor"]) == place]
    assert told == ["received", "executed", "pushed", "written"]
    assert {step.get("subject") for step in steps} == {None, "fola"}
    assert lines[-1]["type"] == "verdict"
    assert (lines[-1]["cause"], lines[-1]["cursor"]) == ("sent", cursor)


def _read_a_little(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 0.2)
    return os.read(process.stdout.fileno(), 65536).decode() if ready else ""
