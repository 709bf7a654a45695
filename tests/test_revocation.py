"""What is revoked is known everywhere, at once and later, whatever becomes of the broker."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gqlnotify import Principal, Publisher, Settings, TopicManager, revocation
from gqlnotify.auth import Viewer, viewing
from gqlnotify.brokers import Broker, MemoryBroker
from gqlnotify.errors import TokenRevoked
from gqlnotify.revocation import REVOCATIONS, Revocation, Revocations, Revoked
from gqlnotify.settings import Bounds
from tests.applications import (
    ALL_PROTOCOLS,
    STREAMS,
    application,
    bearer,
    client_of,
    http,
    stream_of,
)
from tests.bad_brokers import AnsweringLate, LosingItsData, OutOfReach
from tests.e2e.conftest import SECRET
from tests.e2e.raw import open_socket
from tests.e2e.tokens import token
from tests.house import MESSAGE_TEXTS, House
from tests.redis_servers import redis_server
from tests.servers import DIRECT, Server, patience, running, serving
from tests.test_cli import run
from tests.waiting import wait_until

NOW = int(time.time())


@pytest.fixture
def house() -> House:
    return House()


def holder(subject: str = "alice", **claims: Any) -> Principal:
    return Principal(subject, claims=claims)


# the rule


def revoked(*revocations: Revocation, length: int = 100, seconds: float = 1000) -> Revoked:
    known = Revoked(Bounds(length=length, seconds=seconds))
    for each in revocations:
        known.add(each)
    return known


def test_a_subject_is_revoked_with_all_that_was_issued_until_then() -> None:
    known = revoked(Revocation(subject="alice", at=NOW))

    assert known.covers(holder(iat=NOW - 1))
    assert known.covers(holder(iat=NOW))
    assert known.covers(holder())
    assert known.covers(holder(iat="yesterday"))
    assert not known.covers(holder(iat=NOW + 1))
    assert not known.covers(holder("bob", iat=NOW - 1))


def test_a_token_is_revoked_alone() -> None:
    known = revoked(Revocation(token_id="a"))

    assert known.covers(holder(jti="a", iat=NOW + 1000))
    assert known.covers(holder("bob", jti="a"))
    assert not known.covers(holder(jti="b"))
    assert not known.covers(holder())
    assert not known.covers(holder("a"))


def test_an_older_revocation_that_comes_late_takes_nothing_back() -> None:
    known = revoked(Revocation(subject="alice", at=NOW), Revocation(subject="alice", at=NOW - 100))

    assert known.covers(holder(iat=NOW - 50))


def test_what_is_older_than_the_history_is_forgotten() -> None:
    known = revoked(
        Revocation(subject="alice", at=NOW - 86_401),
        Revocation(token_id="a", at=NOW - 86_401),
        Revocation(subject="bob", at=NOW),
        Revocation(token_id="b", at=NOW),
        seconds=86_400,
    )

    assert not known.covers(holder())
    assert not known.covers(holder("carol", jti="a"))
    assert known.covers(holder("bob"))
    assert known.covers(holder("carol", jti="b"))
    assert len(known._subjects) == len(known._tokens) == 1


def test_no_more_is_remembered_than_the_history_does() -> None:
    many = [Revocation(subject=f"{n}", at=NOW) for n in range(50)]
    many += [Revocation(token_id=f"{n}", at=NOW) for n in range(50)]
    known = revoked(*many, length=10)

    assert [n for n in range(50) if known.covers(holder(f"{n}"))] == list(range(40, 50))
    assert [n for n in range(50) if known.covers(holder(jti=f"{n}"))] == list(range(40, 50))


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"subject": "a", "tokenId": "b", "at": 1}',
        b'{"subject": ""}',
        b'{"tokenId": ""}',
        b'{"subject": 5}',
        b'{"subject": "a", "at": "Infinity"}',
        b"[]",
        b"null",
    ],
)
def test_a_revocation_names_one_thing(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - that it is refused is the point
        REVOCATIONS.decode(payload)


def test_a_revocation_is_spelled_as_json_is() -> None:
    assert REVOCATIONS.encode(Revocation(token_id="a", at=1)) == (
        b'{"at":1.0,"subject":null,"tokenId":"a"}'
    )
    assert REVOCATIONS.decode(b'{"subject": "alice", "at": 5}').subject == "alice"


# following


@asynccontextmanager
async def following(broker: Broker | None = None) -> AsyncIterator[Revocations]:
    topics = TopicManager(broker or MemoryBroker(), settings=Settings(broker_wait=0))
    async with Revocations(topics, Settings()) as revocations:
        yield revocations
    await topics.close()


def is_revoked(by: Revocations, principal: Principal) -> bool:
    try:
        by.check(principal)
    except TokenRevoked:
        return True
    return False


async def test_what_is_revoked_is_refused_from_then_on() -> None:
    async with following() as revocations:
        revocations.check(holder())
        await revocations.revoke(subject="alice")
        await revocations.revoke(token_id="a")

        await wait_until(lambda: is_revoked(revocations, holder("bob", jti="a")))
        assert is_revoked(revocations, holder())
        revocations.check(holder("bob", jti="b"))


async def test_one_that_starts_later_knows_at_once_what_was_revoked_before() -> None:
    broker = MemoryBroker()
    async with following(broker) as revocations:
        for n in range(300):
            await revocations.revoke(subject=f"subject {n}")
    async with following(broker) as revocations:
        assert all(is_revoked(revocations, holder(f"subject {n}")) for n in range(300))


async def test_the_beginning_of_the_history_may_be_forgotten() -> None:
    broker = MemoryBroker(per_topic={"gqlnotify.*": Bounds(length=3)})
    async with following(broker) as revocations:
        for n in range(10):
            await revocations.revoke(subject=f"{n}")
    async with following(broker) as revocations:
        assert [n for n in range(10) if is_revoked(revocations, holder(f"{n}"))] == [7, 8, 9]


async def test_revoking_is_not_asked_for_the_right_of_the_viewer() -> None:
    async with following() as revocations:
        with viewing(Viewer(holder("an administrator"))):
            await revocations.revoke(subject="alice")

        await wait_until(lambda: is_revoked(revocations, holder()))


async def test_those_concerned_are_told_once_and_the_others_not_at_all() -> None:
    told = list[str]()
    async with following() as revocations:
        for name, principal in {
            "alice": holder(iat=NOW - 10),
            "alice again": holder(iat=NOW - 10, jti="a"),
            "a later alice": holder(iat=NOW + 1000),
            "bob": holder("bob", jti="b"),
            "carol": holder("carol", jti="c"),
        }.items():
            revocations.watch(principal, lambda name=name: told.append(name))  # type: ignore[misc]

        await revocations.revoke(subject="alice")
        await revocations.revoke(token_id="a")
        await revocations.revoke(token_id="b")
        await wait_until(lambda: "bob" in told)
        assert sorted(told) == ["alice", "alice again", "bob"]


async def test_who_watches_no_longer_is_not_told_and_leaves_nothing() -> None:
    told = list[str]()
    async with following() as revocations:
        unwatch = revocations.watch(holder(), lambda: told.append("gone"))
        other = revocations.watch(holder(), lambda: told.append("there"))
        unwatch()
        unwatch()
        await revocations.revoke(subject="alice")
        await wait_until(lambda: told)
        other()

        assert told == ["there"]
        assert not revocations._watches


async def test_who_comes_too_late_to_watch_is_refused() -> None:
    async with following() as revocations:
        await revocations.revoke(subject="alice")
        await wait_until(lambda: is_revoked(revocations, holder()))

        with pytest.raises(TokenRevoked):
            revocations.watch(holder(), lambda: None)
        assert not revocations._watches


async def test_one_that_can_not_be_told_does_not_keep_it_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = list[str]()

    def fail() -> None:
        told.append("failed")
        raise ValueError("on purpose")

    async with following() as revocations:
        for _ in range(3):
            revocations.watch(holder(), fail)
        await revocations.revoke(subject="alice")
        await wait_until(lambda: len(told) == 3)
        await revocations.revoke(subject="bob")
        await wait_until(lambda: is_revoked(revocations, holder("bob")))
    assert "could not be told" in caplog.text


async def test_what_can_not_be_read_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker()
    async with following(broker) as revocations:
        for payload in (b"", b"{}", b'{"subject": 5}', b"\xff"):
            await broker.publish(REVOCATIONS.name, payload)
        await revocations.revoke(subject="alice")

        await wait_until(lambda: is_revoked(revocations, holder()))
    assert caplog.text.count("can't be read") == 4


# a broker with a bad day


async def test_what_is_known_stays_known_when_the_broker_loses_its_data() -> None:
    broker = LosingItsData()
    async with following(broker) as revocations:
        await revocations.revoke(subject="alice")
        await wait_until(lambda: is_revoked(revocations, holder()))
        broker.lose_everything()
        await revocations.revoke(subject="bob")
        broker.recheck(REVOCATIONS.name)

        await wait_until(lambda: is_revoked(revocations, holder("bob")))
        assert is_revoked(revocations, holder())


async def test_what_the_live_path_dropped_is_looked_up() -> None:
    broker = OutOfReach()
    async with following(broker) as revocations:
        broker.deaf = True
        await revocations.revoke(subject="alice")
        broker.deaf = False
        await revocations.revoke(subject="bob")

        await wait_until(lambda: is_revoked(revocations, holder("bob")))
        assert is_revoked(revocations, holder())


@pytest.mark.parametrize("method", ["start", "subscribe", "head", "read"])
async def test_a_broker_out_of_reach_stops_nothing_and_is_asked_again(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "START_SECONDS", 0.05)
    monkeypatch.setattr(revocation, "RETRY_SECONDS", 0.01)
    broker = OutOfReach()
    await broker.publish(REVOCATIONS.name, REVOCATIONS.encode(Revocation(subject="alice")))
    broker.down = {method}
    async with following(broker) as revocations:
        await wait_until(lambda: broker.failed)
        revocations.check(holder())
        broker.down = set()

        await wait_until(lambda: is_revoked(revocations, holder()))


@pytest.mark.parametrize("method", ["start", "subscribe", "head", "read"])
async def test_a_slow_broker_holds_up_neither_start_nor_end(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "START_SECONDS", 0.05)
    broker = AnsweringLate(method)
    await broker.publish(REVOCATIONS.name, REVOCATIONS.encode(Revocation(subject="alice")))
    async with patience(), following(broker):
        assert broker.held
        broker.answer.set()


async def test_it_may_be_started_again() -> None:
    topics = TopicManager(MemoryBroker())
    revocations = Revocations(topics, Settings())
    for subject in ("alice", "bob"):
        async with revocations:
            await revocations.revoke(subject=subject)
            await wait_until(lambda subject=subject: is_revoked(revocations, holder(subject)))
    await topics.close()


# over HTTP


async def test_a_socket_leaves_nothing_to_be_told(house: House) -> None:
    router = house.locked()
    async with running(application(router)) as origin:
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init(bearer())
            assert watches(router)
        await wait_until(lambda: not watches(router))


@pytest.mark.parametrize(("kind", "headers"), STREAMS)
async def test_a_stream_over_http_ends_when_its_token_is_revoked(
    house: House, kind: str, headers: dict[str, str]
) -> None:
    router = house.locked(subscription_protocols=ALL_PROTOCOLS)
    first = await house.say("first")
    await house.say("second")
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


async def test_without_tokens_nothing_can_be_revoked(house: House) -> None:
    assert house.router().revocations is None


def watches(router: Any) -> int:
    return len(router.revocations._watches)


# many processes

APPLICATION = "tests.e2e.app:app"
TICKS = 'subscription { ticks(gate: "never") }'


async def test_the_command_ends_what_is_affected_in_every_process_and_nothing_else(
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
        async with Publisher(redis_url) as publisher:
            await publisher.publish(REVOCATIONS, Revocation(token_id=f"{subject} 0"))
        for socket in sockets[one_of_bobs]:
            assert (await socket.closed()).code == 4403
        for socket in sockets[other_of_bobs]:
            await socket.is_silent()
        for server in servers:
            await assert_refused(server, affected)
            await assert_refused(server, one_of_bobs)
            await enter(s, server, token(subject, iat=int(time.time()) + 1))
        for server in servers:
            assert server.trouble == []


async def test_a_redis_that_is_restarted_in_between_costs_no_revocation(tmp_path: Path) -> None:
    with redis_server(persistent=True) as redis:
        async with two_processes(redis.url, tmp_path) as servers, AsyncExitStack() as stack:
            sockets = [await enter(stack, server, token(iat=NOW)) for server in servers]
            redis.restart()
            async with Publisher(redis.url) as publisher:
                await publisher.publish(REVOCATIONS, Revocation(subject="alice"))

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
