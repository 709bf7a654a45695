"""The facts that each process keeps for `gqlnotify trace`."""

import tracemalloc

import pytest

from gqlnotify import Cursor
from gqlnotify.observability import logs
from gqlnotify.observability.trace import Kind, Ring


class Now:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_facts_are_found_by_subject_and_topic() -> None:
    ring = Ring()
    ring.note(Kind.SUBSCRIBED, subject="alice", topic="tasks")
    ring.note(Kind.SUBSCRIBED, subject="bob", topic="tasks")
    ring.note(Kind.CLOSED, subject="alice")
    ring.note(Kind.GAP, topic="tasks")
    ring.note(Kind.GAP, topic="rooms")

    def found(subject: str | None, topic: str | None) -> list[tuple[str | None, str | None]]:
        return [(fact.subject, fact.topic) for fact in ring.about(subject, topic)]

    # A fact without a subject concerns everybody, and the connection of a subject all its topics.
    alice, everybody = ("alice", "tasks"), (None, "tasks")
    assert found("alice", "tasks") == [alice, ("alice", None), everybody]
    assert found("alice", None) == [alice, ("alice", None), everybody, (None, "rooms")]
    assert found(None, "tasks") == [alice, ("bob", "tasks"), everybody]


def test_the_ring_is_bounded_in_bytes() -> None:
    now = Now()
    ring = Ring(10_000, now=now)
    assert ring.reaches_back_to == 1000

    for _ in range(1000):
        now.seconds += 1
        ring.note(Kind.CONNECTED, subject="a" * 100, text="b" * 1000)

    kept = ring.about(None, None)
    assert 10 < len(kept) < 30
    assert sum(fact.weight for fact in kept) <= 10_000
    # It says since when nothing is missing.
    assert ring.reaches_back_to == kept[0].at - 1


@pytest.mark.parametrize("letter", ["a", "\N{SNOWMAN}"])
def test_the_facts_take_no_more_memory_than_the_ring_may(letter: str) -> None:
    ring = Ring(200_000)
    tracemalloc.start()
    try:
        for number in range(2000):
            ring.note(
                Kind.REFUSED,
                subject=f"{letter}{number}",
                topic=f"rooms.{number}",
                cursor=Cursor(1_764_183_122_000 + number, number),
                connection=f"{number:08x}",
                text=f"{letter * 50}{number}",
            )
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(ring.about(None, None)) > 100
    assert taken <= 200_000


def test_the_ring_is_bounded_in_time() -> None:
    now = Now()
    ring = Ring(max_seconds=60, now=now)
    ring.note(Kind.CONNECTED, subject="alice")
    now.seconds += 40
    ring.note(Kind.CLOSED, subject="alice")
    now.seconds += 40

    assert [fact.kind for fact in ring.about("alice", None)] == [Kind.CLOSED]
    assert ring.reaches_back_to == 1000
    assert ring.about("alice", None, since=now.seconds) == []


def test_a_ring_without_room_records_nothing() -> None:
    ring = Ring(0)
    ring.note(Kind.CONNECTED, subject="alice")

    assert ring.about(None, None) == []


def test_a_fact_names_the_connection_that_the_caller_runs_for() -> None:
    ring = Ring()
    token = logs.connection_id.set("c0ffee")
    try:
        ring.note(Kind.SUBSCRIBED, subject="alice", topic="tasks", cursor="1-2")
    finally:
        logs.connection_id.reset(token)
    ring.note(Kind.CLOSED, connection="another")

    first, second = ring.about(None, None)
    assert first.formatted() == {
        "at": first.at,
        "kind": "subscribed",
        "subject": "alice",
        "topic": "tasks",
        "cursor": "1-2",
        "connection": "c0ffee",
    }
    assert second.connection == "another"
