"""Every process knows all revocations, also later and while the broker fails."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest

from gqlnotify import Principal, Settings, TopicManager
from gqlnotify.auth import Viewer, viewing
from gqlnotify.brokers import Broker, MemoryBroker
from gqlnotify.brokers.redis import Message, Sender
from gqlnotify.errors import (
    TokenLivesTooLong,
    TokenRevoked,
    TooManyRevocations,
    TopicsClosed,
)
from gqlnotify.event import encode
from gqlnotify.observability import metrics
from gqlnotify.settings import Bounds
from gqlnotify.topics import revocation
from gqlnotify.topics.revocation import REVOCATIONS, Revocation, Revocations, Revoked
from tests.bad_brokers import AnsweringLate, LosingItsData, OutOfReach
from tests.servers import patience
from tests.waiting import PATIENCE, wait_until

NOW = 0
"""The time at which the running test began."""


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "NOW", int(time.time()))


def holder(subject: str = "alice", **claims: Any) -> Principal:
    return Principal(subject, claims=claims)


# which tokens are revoked

LONGEST = 86_400.0


def revoked(
    *revocations: Revocation, now: float | None = None, longest: float = LONGEST
) -> Revoked:
    known = Revoked(longest, now=lambda: NOW if now is None else now)
    for each in revocations:
        known.add(each)
    return known


def test_revoking_a_subject_revokes_its_tokens_issued_until_then() -> None:
    known = revoked(Revocation(subject="alice", at=NOW))

    for iat in (NOW - 1, NOW, "yesterday"):
        refusal = known.refusal(holder(iat=iat))
        assert refusal is not None
        assert refusal.close_code == 4401
    assert known.refusal(holder())
    assert not known.refusal(holder("bob", iat=NOW - 1))


def test_a_token_of_a_clock_that_is_ahead_is_revoked_and_its_client_can_retry() -> None:
    known = revoked(Revocation(subject="alice", at=NOW), now=NOW + 10)

    for ahead in (1, 30):
        refusal = known.refusal(holder(iat=NOW + ahead))
        assert refusal is not None
        assert refusal.close_code == 4403
        assert refusal.extensions == {"code": "TOKEN_REVOKED", "retryAfter": 20}
    assert not known.refusal(holder(iat=NOW + 31))


def test_revoking_a_token_revokes_no_other() -> None:
    known = revoked(Revocation(token_id="a", at=NOW))

    assert known.refusal(holder(jti="a", iat=NOW + 1000))
    assert known.refusal(holder("bob", jti="a"))
    assert not known.refusal(holder(jti="b"))
    assert not known.refusal(holder())
    assert not known.refusal(holder("a"))


def test_a_late_older_revocation_undoes_nothing() -> None:
    known = revoked(
        Revocation(subject="alice", at=NOW),
        Revocation(subject="alice", at=NOW - 100),
        Revocation(token_id="a", at=NOW, until=NOW + 100),
        Revocation(token_id="a", at=NOW, until=NOW - 100),
    )

    assert known.refusal(holder(iat=NOW - 50))
    assert known.refusal(holder("bob", jti="a"))


def test_a_subjects_revocation_lasts_longer_than_every_token_issued_before_it() -> None:
    # Made by a clock that is 30 s fast, and checked by one that is 30 s slow.
    last = NOW + LONGEST + 60
    for now, is_revoked in ((last - 1, True), (last + 1, False)):
        known = revoked(Revocation(subject="alice", at=NOW), now=now)
        assert (known.refusal(holder(iat=NOW - 5)) is not None) is is_revoked


def test_a_tokens_revocation_ends_with_the_token_or_the_longest_lifetime() -> None:
    known_until = Revocation(token_id="a", at=NOW, until=NOW + 500)
    unknown = Revocation(token_id="b", at=NOW)

    for later, expected in ((500, {"a", "b"}), (531, {"b"}), (LONGEST, {"b"}), (LONGEST + 61, {})):
        known = revoked(known_until, unknown, now=NOW + later)
        assert {id_ for id_ in ("a", "b") if known.refusal(holder(jti=id_))} == set(expected)


def test_if_tokens_need_no_expiry_no_revocation_is_forgotten() -> None:
    subject, one = Revocation(subject="alice", at=0), Revocation(token_id="a", at=0)
    known = revoked(subject, one, now=NOW, longest=math.inf)

    assert known.refusal(holder(iat=-1))
    assert known.refusal(holder("bob", jti="a"))


def test_no_revocation_replaces_another_and_ended_ones_take_no_memory() -> None:
    clock = [float(NOW)]
    known = Revoked(LONGEST, now=lambda: clock[0])
    known.add(Revocation(subject="alice", at=NOW))
    for n in range(100_000):
        known.add(Revocation(token_id=f"{n}", at=NOW, until=NOW + 900))
    assert len(known) == 100_001
    assert known.refusal(holder(iat=NOW - 1))
    assert all(known.refusal(holder("bob", jti=f"{n}")) for n in range(0, 100_000, 999))

    clock[0] += 1000
    for n in range(200_000):
        known.add(Revocation(token_id=f"later {n % 10}", at=clock[0]))
    assert known.refusal(holder(iat=NOW - 1))
    for n in range(100_000):
        known.add(Revocation(token_id=f"{n} more", at=NOW, until=NOW + 1100))
    assert len(known) == 100_011


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"subject": "a", "tokenId": "b", "at": 1}',
        b'{"subject": ""}',
        b'{"tokenId": ""}',
        b'{"subject": 5}',
        b'{"subject": "a", "at": "Infinity"}',
        b'{"tokenId": "a", "until": "Infinity"}',
        b'{"subject": "a", "until": 5}',
        b"[]",
        b"null",
    ],
)
def test_a_revocation_names_a_subject_or_a_token(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - that it is refused is the point
        REVOCATIONS.decode(payload)


def test_a_revocation_is_encoded_in_camel_case() -> None:
    assert REVOCATIONS.encode(Revocation(token_id="a", at=1, until=2)) == (
        b'{"at":1.0,"subject":null,"tokenId":"a","until":2.0}'
    )


def test_a_revocation_of_an_earlier_version_can_be_read() -> None:
    earlier = REVOCATIONS.decode(b'{"at":5.0,"subject":null,"tokenId":"a"}')

    assert earlier == Revocation(token_id="a", at=5)


# following the topic of revocations


@asynccontextmanager
async def following(broker: Broker | None = None, **settings: Any) -> AsyncIterator[Revocations]:
    topics = TopicManager(broker or MemoryBroker(), settings=Settings(broker_wait=0))
    async with Revocations(topics, Settings(**settings)) as revocations:
        yield revocations
    await topics.close()


def is_revoked(by: Revocations, principal: Principal) -> bool:
    try:
        by.check(principal)
    except TokenRevoked:
        return True
    return False


async def test_a_revoked_token_is_refused() -> None:
    async with following() as revocations:
        revocations.check(holder())
        await revocations.revoke(subject="alice")
        await revocations.revoke(token_id="a")

        await wait_until(lambda: is_revoked(revocations, holder("bob", jti="a")))
        assert is_revoked(revocations, holder())
        revocations.check(holder("bob", jti="b"))


async def test_a_process_that_starts_later_knows_earlier_revocations() -> None:
    broker = MemoryBroker()
    async with following(broker) as revocations:
        for n in range(300):
            await revocations.revoke(subject=f"subject {n}")
    async with following(broker) as revocations:
        assert all(is_revoked(revocations, holder(f"subject {n}")) for n in range(300))


async def test_a_trimmed_history_of_revocations_can_be_followed() -> None:
    broker = MemoryBroker(per_topic={"gqlnotify.*": Bounds(length=3)})
    async with following(broker) as revocations:
        for n in range(10):
            await broker.publish(REVOCATIONS.name, REVOCATIONS.encode(Revocation(subject=f"{n}")))
    async with following(broker) as revocations:
        assert [n for n in range(10) if is_revoked(revocations, holder(f"{n}"))] == [7, 8, 9]


async def test_revoking_needs_no_right_of_the_viewer() -> None:
    async with following() as revocations:
        with viewing(Viewer(holder("an administrator"))):
            await revocations.revoke(subject="alice")

        await wait_until(lambda: is_revoked(revocations, holder()))


async def test_a_revocation_calls_each_watch_of_its_tokens_once() -> None:
    called = list[str]()
    async with following() as revocations:
        for name, principal in {
            "alice": holder(iat=NOW - 10),
            "alice again": holder(iat=NOW - 10, jti="a"),
            "a later alice": holder(iat=NOW + 1000),
            "bob": holder("bob", jti="b"),
            "carol": holder("carol", jti="c"),
        }.items():
            revocations.watch(principal, lambda name=name: called.append(name))  # type: ignore[misc]

        await revocations.revoke(subject="alice")
        await revocations.revoke(token_id="a")
        await revocations.revoke(token_id="b")
        await wait_until(lambda: "bob" in called)
        assert sorted(called) == ["alice", "alice again", "bob"]


async def test_a_removed_watch_is_not_called_and_leaves_nothing() -> None:
    called = list[str]()
    async with following() as revocations:
        unwatch = revocations.watch(holder(), lambda: called.append("gone"))
        other = revocations.watch(holder(), lambda: called.append("there"))
        unwatch()
        unwatch()
        await revocations.revoke(subject="alice")
        await wait_until(lambda: called)
        other()

        assert called == ["there"]
        assert not revocations._watches


async def test_watching_a_token_that_is_already_revoked_is_refused() -> None:
    async with following() as revocations:
        await revocations.revoke(subject="alice")
        await wait_until(lambda: is_revoked(revocations, holder()))

        with pytest.raises(TokenRevoked):
            revocations.watch(holder(), lambda: None)
        assert not revocations._watches


async def test_a_failing_watch_does_not_affect_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called = list[str]()

    def fail() -> None:
        called.append("failed")
        raise ValueError("on purpose")

    async with following() as revocations:
        for _ in range(3):
            revocations.watch(holder(), fail)
        await revocations.revoke(subject="alice")
        await wait_until(lambda: len(called) == 3)
        await revocations.revoke(subject="bob")
        await wait_until(lambda: is_revoked(revocations, holder("bob")))
    assert "A watcher failed" in caplog.text


async def test_an_unreadable_revocation_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker()
    async with following(broker) as revocations:
        for payload in (b"", b"{}", b'{"subject": 5}', b"\xff"):
            await broker.publish(REVOCATIONS.name, payload)
        await revocations.revoke(subject="alice")

        await wait_until(lambda: is_revoked(revocations, holder()))
    assert caplog.text.count("can't be read") == 4


# a broker that fails


async def test_known_revocations_remain_when_the_broker_loses_its_data() -> None:
    broker = LosingItsData()
    async with following(broker) as revocations:
        await revocations.revoke(subject="alice")
        await wait_until(lambda: is_revoked(revocations, holder()))
        broker.lose_everything()
        await revocations.revoke(subject="bob")
        broker.on_possible_gap(REVOCATIONS.name)

        await wait_until(lambda: is_revoked(revocations, holder("bob")))
        assert is_revoked(revocations, holder())


async def test_a_revocation_that_the_live_path_dropped_is_read_from_the_history() -> None:
    broker = OutOfReach()
    async with following(broker) as revocations:
        broker.deaf = True
        await revocations.revoke(subject="alice")
        broker.deaf = False
        await revocations.revoke(subject="bob")

        await wait_until(lambda: is_revoked(revocations, holder("bob")))
        assert is_revoked(revocations, holder())


@pytest.mark.parametrize("method", ["start", "subscribe", "head", "read"])
async def test_an_unreachable_broker_blocks_no_check_and_is_retried(
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
async def test_a_slow_broker_delays_neither_start_nor_stop(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "START_SECONDS", 0.05)
    broker = AnsweringLate(method)
    await broker.publish(REVOCATIONS.name, REVOCATIONS.encode(Revocation(subject="alice")))
    async with patience(), following(broker):
        assert broker.held
        broker.answer.set()


async def test_concurrent_first_connections_share_one_start() -> None:
    broker = OutOfReach()
    revocations = Revocations(TopicManager(broker), Settings())

    async with patience():
        await asyncio.gather(*(revocations.ready() for _ in range(50)))
    assert broker.calls["start"] == broker.calls["subscribe"] == 1
    await revocations.close()


async def test_revocations_dropped_without_a_shutdown_leave_no_task() -> None:
    tasks = asyncio.all_tasks()
    topics = TopicManager(MemoryBroker())
    revocations = Revocations(topics, Settings())
    await revocations.ready()
    await revocations.revoke(subject="alice")
    await wait_until(lambda: is_revoked(revocations, holder()))

    await wait_until(lambda: asyncio.all_tasks() <= tasks)


def test_each_event_loop_follows_and_keeps_what_earlier_ones_knew() -> None:
    revocations = Revocations(TopicManager(MemoryBroker()), Settings())

    async def revoke(subject: str) -> None:
        await revocations.ready()
        await revocations.revoke(subject=subject)
        await wait_until(lambda: is_revoked(revocations, holder(subject)))

    for subject in ("alice", "bob"):
        asyncio.run(revoke(subject))
    assert is_revoked(revocations, holder("alice"))


async def test_a_second_concurrent_loop_knows_the_revocations_of_the_first() -> None:
    revocations = Revocations(TopicManager(MemoryBroker()), Settings())
    await revocations.ready()
    await revocations.revoke(subject="alice")
    await wait_until(lambda: is_revoked(revocations, holder()))

    await asyncio.to_thread(asyncio.run, revocations.ready())
    await revocations.close()


async def test_revocations_are_followed_again_after_the_topics_were_closed_and_restarted() -> None:
    broker = MemoryBroker()
    topics = TopicManager(broker)
    revocations = Revocations(topics, Settings())
    await revocations.ready()
    await topics.close()
    await broker.publish(REVOCATIONS.name, REVOCATIONS.encode(Revocation(subject="alice")))

    with pytest.raises(TopicsClosed):
        await topics.cursor(REVOCATIONS)
    await topics.start()
    await revocations.ready()
    assert is_revoked(revocations, holder())
    await revocations.close()
    await topics.close()


# the number of revocations


@pytest.mark.parametrize("where", ["memory", "redis"])
@pytest.mark.processes
async def test_more_than_ten_thousand_revocations_are_known_at_the_next_start(
    where: str, request: pytest.FixtureRequest
) -> None:
    first, count = f"{time.time()}", 10_001
    entries = [Revocation(token_id=f"{first} {n}") for n in range(count)]
    if where == "redis":
        url = request.getfixturevalue("redis_url")
        defaults = Settings()
        sender = Sender(
            url, retention=defaults.retention, timeout=PATIENCE, prefix=defaults.broker_prefix
        )
        await sender.send([Message(*encode(REVOCATIONS, each), None) for each in entries])
        await sender.aclose()
        topics = TopicManager(settings=Settings(broker_url=url))
    else:
        broker = MemoryBroker()
        for each in entries:
            await broker.publish(REVOCATIONS.name, REVOCATIONS.encode(each))
        topics = TopicManager(broker)
    async with patience(), Revocations(topics, Settings()) as revocations:
        await revocations.ready()
        assert all(is_revoked(revocations, holder(jti=f"{first} {n}")) for n in range(count))
    await topics.close()


async def test_a_start_waits_for_a_long_history_while_reading_makes_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(revocation, "START_SECONDS", 0.01)
    broker = MemoryBroker()
    for n in range(10_001):
        payload = REVOCATIONS.encode(Revocation(token_id=f"{n}"))
        await broker.publish(REVOCATIONS.name, payload)
    topics = TopicManager(broker)
    revocations = Revocations(topics, Settings())

    async with patience():
        await revocations.ready()
    assert is_revoked(revocations, holder(jti="10000"))
    await revocations.close()
    await topics.close()


async def test_a_full_history_refuses_a_revocation_and_warns_long_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    patterns = {"gqlnotify.*": Bounds(length=10)}
    broker = MemoryBroker(per_topic=patterns)
    async with following(broker, history_per_topic=patterns) as revocations:
        for n in range(5):
            await revocations.revoke(token_id=f"{n}")
        assert "there is room for 10" not in caplog.text
        for n in range(5, 10):
            await revocations.revoke(token_id=f"{n}")
        assert "5 revocations are stored, and there is room for 10" in caplog.text
        with pytest.raises(TooManyRevocations, match="GQLNOTIFY_HISTORY_PER_TOPIC"):
            await revocations.revoke(token_id="one too many")
        await wait_until(lambda: is_revoked(revocations, holder(jti="9")))
        assert dict(revocations.load()) == {metrics.revocations: 10}
    async with following(broker) as revocations:
        assert all(is_revoked(revocations, holder(jti=f"{n}")) for n in range(10))


async def test_revoking_over_memory_warns_that_a_restart_forgets_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with following() as revocations:
        await revocations.revoke(subject="alice")
    assert "memory:// loses its revocations at a restart" in caplog.text


async def test_an_expired_token_needs_no_revocation() -> None:
    async with following() as revocations:
        await revocations.revoke(token_id="a", expires_at=time.time())
        for wrong in (5.0, time.time() - 3600):
            with pytest.raises(ValueError, match="expires_at has passed"):
                await revocations.revoke(token_id="a", expires_at=wrong)
        with pytest.raises(ValueError, match="single token"):
            await revocations.revoke(subject="a", expires_at=time.time() + 5)


# tokens that outlive their revocation


@pytest.mark.parametrize(
    ("claims", "refused"),
    [
        ({"iat": -10, "exp": 3590}, False),
        ({"iat": -10, "exp": 3591}, True),
        ({"exp": 3600}, False),
        ({"exp": 3700}, True),
        # Issued in the future, which makes its lifetime look shorter.
        ({"iat": 9000, "exp": 9010}, True),
        ({}, False),
    ],
)
async def test_a_token_with_a_longer_lifetime_than_allowed_is_refused(
    claims: dict[str, int], refused: bool
) -> None:
    now = int(time.time())
    times = {name: now + value for name, value in claims.items()}
    expires_at = datetime.fromtimestamp(times["exp"], UTC) if "exp" in times else None
    principal = Principal("alice", expires_at=expires_at, claims=times)
    async with following(jwt_max_lifetime=3600) as revocations:
        with pytest.raises(TokenLivesTooLong, match="3600 s") if refused else nullcontext():
            revocations.check(principal)
    async with following(jwt_max_lifetime=3600, jwt_require_exp=False) as revocations:
        revocations.check(principal)


async def test_revocations_can_be_started_again() -> None:
    topics = TopicManager(MemoryBroker())
    revocations = Revocations(topics, Settings())
    for subject in ("alice", "bob"):
        async with revocations:
            await revocations.revoke(subject=subject)
            await wait_until(lambda subject=subject: is_revoked(revocations, holder(subject)))
    await topics.close()
