"""Why an event did not arrive: the facts that lead to each cause."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gqlnotify.event import Cursor
from gqlnotify.observability.trace_verdict import Asked, Cause, Place, Told, judge

Fact = Mapping[str, Any]
WHERE = "only_mine (app/schema.py:7)"


def asked(place: Place = Place.THERE) -> Asked:
    return Asked("alice", "tasks", Cursor(1, 42), place, Cursor(1, 50))


def told(*facts: Fact, **value: Any) -> Told:
    numbered = [{"at": float(place), **fact} for place, fact in enumerate(facts)]
    return Told("a:1", {"received": "1-50", "facts": numbered, **value})


def reading(**value: Any) -> Fact:
    known = {"subject": "alice", "topic": "tasks", "connection": "c1", "shared": True}
    return {**known, "began": "1-10", "reached": "1-50", "outcome": "passes", **value}


def fact(kind: str, **value: Any) -> Fact:
    return {"kind": kind, "subject": "alice", "connection": "c1", **value}


SUBSCRIBED = fact("subscribed", topic="tasks", cursor="1-10")
RETURNED = fact("subscribed", topic="tasks", cursor="1-45", connection="c2")
CLOSED = fact("closed", text="1006")


def ended(cursor: str) -> Fact:
    return fact("ended", topic="tasks", cursor=cursor)


@pytest.mark.parametrize(
    ("changes", "cause", "says"),
    [
        ({"acknowledged": "1-42"}, Cause.DELIVERED, "alice has acknowledged it"),
        ({"acknowledged": "1-41"}, Cause.SENT, "has not acknowledged it"),
        ({"heldBytes": 7}, Cause.SENT, "7 bytes still wait"),
        ({"reached": "1-41", "heldBytes": 7}, Cause.WAITING, "has to read 7 bytes first"),
        ({"reached": "1-41"}, Cause.IN_PROGRESS, "only got to 1-41"),
        ({"outcome": "filtered", "filter": WHERE}, Cause.FILTERED, f"the filter {WHERE} drops it"),
        ({"outcome": "filter_failed", "filter": WHERE}, Cause.FILTER_FAILED, "raises an exception"),
        ({"outcome": "unreadable"}, Cause.UNREADABLE, "can't decode it"),
        (
            {"outcome": "filtered", "filter": WHERE, "scope": "'acme'", "scopeDecides": True},
            Cause.OTHER_SCOPE,
            "in the scope 'acme'",
        ),
        ({"began": "1-42"}, Cause.SUBSCRIBED_LATER, "began after 1-42"),
        ({"shared": False, "conflates": True}, Cause.CONFLATED, "latest_by"),
        ({"outcome": None}, Cause.SENT, "was sent"),
    ],
)
def test_a_running_subscription_tells(changes: Fact, cause: Cause, says: str) -> None:
    verdict = judge(asked(), [told(readings=[reading(**changes)])])

    assert (verdict.cause, verdict.process) == (cause, "a:1")
    assert says in verdict.text


def test_a_process_that_lacks_the_event_has_lost_the_broker() -> None:
    behind = told(readings=[reading(reached="1-41")], received="1-41")

    assert judge(asked(), [behind]).cause is Cause.NOT_RECEIVED


def test_another_scope_that_gets_the_event_is_named() -> None:
    dropped = reading(outcome="filtered", filter=WHERE, scope="'acme'")
    other = told(passingScopes=[{"filter": WHERE, "scope": "'globex'"}])

    verdict = judge(asked(), [told(readings=[dropped]), other])

    assert verdict.cause is Cause.OTHER_SCOPE
    assert "It is for the scope 'globex'" in verdict.text


def test_what_the_history_has_lost_can_not_be_told() -> None:
    lost = {name: value for name, value in reading().items() if name != "outcome"}

    assert judge(asked(Place.GONE), [told(readings=[lost])]).cause is Cause.HISTORY_GONE


def test_of_several_subscriptions_the_one_that_got_furthest_counts() -> None:
    first = told(readings=[reading(outcome="filtered"), reading(acknowledged="1-50")])
    second = told(readings=[reading(began="1-45")])

    assert judge(asked(), [second, first]).cause is Cause.DELIVERED


@pytest.mark.parametrize("subject", ["alice", None])
@pytest.mark.parametrize("began", ["1-10", "1-45"])
def test_a_gap_that_the_event_is_in_tells(subject: str | None, began: str) -> None:
    gap = {"kind": "gap", "topic": "tasks", "subject": subject, "cursor": "1-41", "until": "1-45"}

    assert judge(asked(), [told(gap, readings=[reading(began=began)])]).cause is Cause.GAP
    after = {**gap, "cursor": "1-42"}
    assert judge(asked(), [told(after, readings=[reading(began=began)])]).cause is not Cause.GAP


@pytest.mark.parametrize(
    ("facts", "cause", "says"),
    [
        ([fact("connected"), fact("refused", topic="tasks", code="FORBIDDEN")], Cause.NO_RIGHT, ""),
        ([fact("expired", connection="c9")], Cause.TOKEN_EXPIRED, "closed or refused"),
        ([fact("revoked")], Cause.TOKEN_REVOKED, "closed or refused"),
        ([fact("refused", topic="tasks", code="TOO_MANY_TOPICS")], Cause.REFUSED, "TOO_MANY"),
        ([fact("refused", topic="tasks", code="CURSOR_EXPIRED")], Cause.GAP, ""),
        ([fact("connected"), fact("failed", code="NOPE")], Cause.FAILED, "NOPE"),
        ([SUBSCRIBED, fact("expired"), ended("1-41"), CLOSED], Cause.TOKEN_EXPIRED, "has expired"),
        ([SUBSCRIBED, fact("revoked"), ended("1-41"), CLOSED], Cause.TOKEN_REVOKED, "was revoked"),
        ([SUBSCRIBED, fact("too_slow"), ended("1-60"), CLOSED], Cause.TOO_SLOW, "too slowly"),
        ([SUBSCRIBED, fact("peer_silent"), ended("1-41"), CLOSED], Cause.PEER_SILENT, "ping"),
        ([SUBSCRIBED, ended("1-41"), CLOSED], Cause.DISCONNECTED, "1006"),
        ([SUBSCRIBED, ended("1-41")], Cause.UNSUBSCRIBED, "ended its subscription to tasks"),
        ([SUBSCRIBED, ended("1-42"), CLOSED], Cause.SENT, "before the connection ended"),
        ([SUBSCRIBED, ended("1-60"), fact("expired"), CLOSED], Cause.SENT, "has expired"),
        ([fact("connected")], Cause.NOT_SUBSCRIBED, "not subscribed to tasks"),
        ([], Cause.UNKNOWN_SUBJECT, "has not connected"),
        ([{**CLOSED, "subject": "bob"}], Cause.UNKNOWN_SUBJECT, "has not connected"),
        ([fact("refused", topic="rooms", code="FORBIDDEN")], Cause.NOT_SUBSCRIBED, ""),
    ],
)
def test_without_a_subscription_its_end_tells(
    facts: Sequence[Fact], cause: Cause, says: str
) -> None:
    verdict = judge(asked(), [told(*facts)])

    assert verdict.cause is cause
    assert says in verdict.text


def test_a_fact_that_knows_only_the_connection_counts_too() -> None:
    slow = {"kind": "too_slow", "connection": "c1"}
    other = {"kind": "too_slow", "connection": "c7"}

    assert judge(asked(), [told(SUBSCRIBED, slow, CLOSED)]).cause is Cause.TOO_SLOW
    assert judge(asked(), [told(SUBSCRIBED, other, CLOSED)]).cause is Cause.DISCONNECTED


def test_who_came_back_too_late_was_away_for_a_reason() -> None:
    away = [SUBSCRIBED, fact("expired"), ended("1-41"), CLOSED]
    back = [fact("connected", connection="c2"), RETURNED]
    now = [reading(began="1-45", connection="c2")]

    assert judge(asked(), [told(*away, *back, readings=now)]).cause is Cause.TOKEN_EXPIRED
    assert judge(asked(), [told(*back, readings=now)]).cause is Cause.SUBSCRIBED_LATER


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (Place.AHEAD, "the newest event of tasks is 1-50"),
        (Place.ELSEWHERE, "has no such cursor"),
        (Place.NO_EVENTS, "has no events in this broker. Did you mean task?"),
    ],
)
def test_an_event_that_was_never_published(place: Place, says: str) -> None:
    verdict = judge(asked(place), [told(readings=[reading()], listensTo=["task", "rooms"])])

    assert verdict.cause is Cause.NEVER_PUBLISHED
    assert says in verdict.text


def test_who_tried_to_publish_is_named() -> None:
    refused = {"kind": "not_published", "subject": "bob", "topic": "tasks", "code": "FORBIDDEN"}

    assert "bob tried to publish" in judge(asked(Place.AHEAD), [told(refused)]).text


def test_without_an_answer_the_broker_may_be_a_wrong_one() -> None:
    assert judge(asked(), []).cause is Cause.NO_PROCESS
    assert "GQLNOTIFY_BROKER_URL" in judge(asked(Place.NO_EVENTS), []).text


def test_a_topic_with_a_similar_name_is_suggested() -> None:
    verdict = judge(asked(), [told(reads=["task", "rooms"])])

    assert verdict.cause is Cause.NOT_SUBSCRIBED
    assert "but to task, rooms" in verdict.text or "but to rooms, task" in verdict.text
    assert "Did you mean task?" in verdict.text
