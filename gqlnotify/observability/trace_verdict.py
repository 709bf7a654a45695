"""Why a subject did not get an event: facts in, one cause out. Pure.

The order of the questions is that of an event's way: was it published, is the subject subscribed,
has the subscription got that far, does its filter let the event through, does the client read?
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from gqlnotify.event import Cursor


class Cause(StrEnum):
    """Why an event did not arrive, the most telling one first."""

    DELIVERED = "delivered"
    SENT = "sent"
    CONFLATED = "conflated"
    WAITING = "waiting"
    NOT_RECEIVED = "not_received"
    IN_PROGRESS = "in_progress"
    GAP = "gap"
    UNREADABLE = "unreadable"
    FILTER_FAILED = "filter_failed"
    OTHER_SCOPE = "other_scope"
    FILTERED = "filtered"
    HISTORY_GONE = "history_gone"
    SUBSCRIBED_LATER = "subscribed_later"
    # Without a subscription.
    NEVER_PUBLISHED = "never_published"
    NO_PROCESS = "no_process"
    NO_RIGHT = "no_right"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a name
    TOKEN_REVOKED = "token_revoked"  # noqa: S105 - a name
    TOO_SLOW = "too_slow"
    PEER_SILENT = "peer_silent"
    REFUSED = "refused"
    FAILED = "failed"
    DISCONNECTED = "disconnected"
    UNSUBSCRIBED = "unsubscribed"
    NOT_SUBSCRIBED = "not_subscribed"
    UNKNOWN_SUBJECT = "unknown_subject"


_RANK = {cause: rank for rank, cause in enumerate(Cause)}


class Place(StrEnum):
    """Where an event is in its topic's history."""

    THERE = "there"
    AHEAD = "ahead"
    """After the newest event."""
    GONE = "gone"
    """Before the oldest event that is kept."""
    ELSEWHERE = "elsewhere"
    """Within the history, but not part of it: its epoch is another one."""
    NO_EVENTS = "no_events"
    """The topic has no events."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The event that did not arrive, and who did not get it."""

    subject: str
    topic: str
    cursor: Cursor
    place: Place
    newest: Cursor | None = None

    @property
    def event(self) -> str:
        """The event's name for people."""
        return f"{self.topic} {self.cursor}"


@dataclass(frozen=True, slots=True)
class Told:
    """What one process answered, see `gqlnotify.topics.why.answer`."""

    process: str
    value: Mapping[str, Any]

    def facts(self) -> Sequence[Mapping[str, Any]]:
        """Return the recorded facts, oldest first."""
        facts: Sequence[Mapping[str, Any]] = self.value.get("facts", ())
        return facts

    def reads(self) -> Sequence[str]:
        """Return the topics that the subject is subscribed to there."""
        reads: Sequence[str] = self.value.get("reads", ())
        return reads


@dataclass(frozen=True, slots=True)
class Verdict:
    """The cause, in one word for programs and in one sentence for people.

    `process` is the process that it was found in; None if it is true for all.
    """

    cause: Cause
    text: str
    process: str | None = None


def judge(asked: Asked, told: Sequence[Told]) -> Verdict:
    """Return why the subject did not get the event, or that it did."""
    return (
        _unpublished(asked, told)
        or _unanswered(told)
        or _by_subscriptions(asked, told)
        or _by_facts(asked, told)
        or _unsubscribed(asked, told)
    )


def _unpublished(asked: Asked, told: Sequence[Told]) -> Verdict | None:
    match asked.place:
        case Place.NO_EVENTS:
            why = f"{asked.topic} has no events in this broker{_similar(asked, told)}"
        case Place.AHEAD:
            why = f"the newest event of {asked.topic} is {asked.newest}"
        case Place.ELSEWHERE:
            why = f"the history of {asked.topic} has no such cursor, or the broker has lost it"
        case _:
            return None
    refused = [fact for each in told for fact in each.facts() if fact["kind"] == "not_published"]
    if refused:
        publisher, code = refused[-1].get("subject", "a client"), refused[-1].get("code")
        why = f"{why}. {publisher} tried to publish to it and was refused: {code}"
    if not told:
        why = f"{why}. No process answers either: is GQLNOTIFY_BROKER_URL that of the servers?"
    return Verdict(Cause.NEVER_PUBLISHED, f"it was never published: {why}")


def _similar(asked: Asked, told: Sequence[Told]) -> str:
    names = {name for each in told for name in (*each.reads(), *each.value.get("listensTo", ()))}
    similar = get_close_matches(asked.topic, sorted(names - {asked.topic}), n=1)
    return f". Did you mean {similar[0]}?" if similar else ""


def _unanswered(told: Sequence[Told]) -> Verdict | None:
    if told:
        return None
    why = "no process answered: is GQLNOTIFY_BROKER_URL that of the servers, and do they run?"
    return Verdict(Cause.NO_PROCESS, why)


def _by_subscriptions(asked: Asked, told: Sequence[Told]) -> Verdict | None:
    """Return what the running subscriptions say: of several, the one that got furthest."""
    found = [
        Verdict(*_of_subscription(asked, each, reading, told), each.process)
        for each in told
        for reading in each.value.get("readings", ())
        if reading.get("topic") == asked.topic and reading.get("subject") == asked.subject
    ]
    best = min(found, key=lambda verdict: _RANK[verdict.cause], default=None)
    if best is not None and best.cause is Cause.SUBSCRIBED_LATER:
        # An earlier subscription may have ended for a reason that says more.
        return _by_facts(asked, told, until=asked.cursor) or best
    return best


def _of_subscription(
    asked: Asked, told: Told, reading: Mapping[str, Any], all_told: Sequence[Told]
) -> tuple[Cause, str]:
    cursor, reached = asked.cursor, reading["reached"]
    if any(_is_over(fact, asked) for fact in told.facts()):
        return Cause.GAP, "the history had lost it when it was to be read. The client was told so"
    if cursor <= reading["began"]:
        return (
            Cause.SUBSCRIBED_LATER,
            f"the subscription began after {reading['began']}, which is later",
        )
    if cursor > reached:
        return _behind(asked, told, reading)
    return _dropped(reading, all_told) or _passed(asked, reading)


def _passed(asked: Asked, reading: Mapping[str, Any]) -> tuple[Cause, str]:
    if asked.cursor <= reading.get("acknowledged", Cursor(0, 0)):
        return Cause.DELIVERED, f"{asked.subject} has acknowledged it"
    if reading.get("conflates") and not reading.get("shared"):
        return (
            Cause.CONFLATED,
            "the client reads slowly, and latest_by may have replaced it with a later event",
        )
    if "outcome" not in reading:
        return (
            Cause.HISTORY_GONE,
            "it was sent or filtered out, and the history no longer has it to tell which",
        )
    return Cause.SENT, f"it was sent{_held(reading)}, and the client has not acknowledged it"


def _behind(asked: Asked, told: Told, reading: Mapping[str, Any]) -> tuple[Cause, str]:
    received = told.value.get("received")
    if received is None or received < asked.cursor:
        return (
            Cause.NOT_RECEIVED,
            f"the process has received no event after {received}. It may have lost the broker",
        )
    if reading.get("heldBytes"):
        return (
            Cause.WAITING,
            f"the socket is full: the client has to read {reading['heldBytes']} bytes first",
        )
    return Cause.IN_PROGRESS, f"the subscription has only got to {reading['reached']} so far"


def _dropped(reading: Mapping[str, Any], told: Sequence[Told]) -> tuple[Cause, str] | None:
    filter_, scope = reading.get("filter"), reading.get("scope")
    match reading.get("outcome"):
        case "unreadable":
            return (
                Cause.UNREADABLE,
                "the server can't decode it as the topic's type. The client got an error instead",
            )
        case "filter_failed":
            return Cause.FILTER_FAILED, f"the filter {filter_} raises an exception for it"
        case "filtered":
            others = sorted(_passing_scopes(filter_, told) - {scope})
            if others or reading.get("scopeDecides"):
                whose = f". It is for the scope {', '.join(others[:3])}" if others else ""
                return (
                    Cause.OTHER_SCOPE,
                    f"the filter {filter_} drops it in the scope {scope}{whose}",
                )
            return Cause.FILTERED, f"the filter {filter_} drops it"
    return None


def _passing_scopes(filter_: str | None, told: Sequence[Told]) -> set[str]:
    return {
        other["scope"]
        for each in told
        for other in each.value.get("passingScopes", ())
        if other["filter"] == filter_
    }


def _held(reading: Mapping[str, Any]) -> str:
    held = reading.get("heldBytes")
    return f" ({held} bytes still wait for the client to read)" if held else ""


def _is_over(fact: Mapping[str, Any], asked: Asked) -> bool:
    """Return whether the fact is a gap that the event is in."""
    return (
        fact["kind"] == "gap"
        and fact.get("subject") in {None, asked.subject}
        and fact.get("topic") == asked.topic
        and fact["cursor"] < asked.cursor <= fact["until"]
    )


_CAUSES = {
    "expired": (
        Cause.TOKEN_EXPIRED,
        "the token has expired, and the connection was closed or refused",
    ),
    "revoked": (
        Cause.TOKEN_REVOKED,
        "the token was revoked, and the connection was closed or refused",
    ),
    "too_slow": (Cause.TOO_SLOW, "the client read too slowly, so the connection was closed"),
    "peer_silent": (
        Cause.PEER_SILENT,
        "the client did not answer a ping, so the connection was closed",
    ),
}
_REFUSALS = {
    "FORBIDDEN": Cause.NO_RIGHT,
    "CURSOR_EXPIRED": Cause.GAP,
}
_SPECIFIC = (*_CAUSES, "refused", "failed")
_TELLING = (*_SPECIFIC, "closed", "ended", "connected", "subscribed")


def _by_facts(asked: Asked, told: Sequence[Told], *, until: Cursor | None = None) -> Verdict | None:
    """Return why the last subscription, connection or attempt to connect has ended.

    With `until`, only of one that ended before it got to that cursor.
    """
    facts = sorted(_facts_of(asked, told), key=lambda found: float(found[1]["at"]))
    if until is not None:
        facts = list(_before_returning(facts, until))
    if not facts:
        return None
    process, last = facts[-1]
    if last["kind"] in {"connected", "subscribed"}:
        return None
    same = [fact for _, fact in facts if fact.get("connection") == last.get("connection")]
    sent = any(fact["kind"] == "ended" and fact["cursor"] >= asked.cursor for fact in same)
    began = any(fact["kind"] == "subscribed" and fact["cursor"] < asked.cursor for fact in same)
    told_why = [fact for fact in same if fact["kind"] in _SPECIFIC]
    specific = min(told_why, key=lambda fact: _SPECIFIC.index(fact["kind"]), default=last)
    cause, text = _of_fact(asked, specific)
    if sent and began and cause is not Cause.TOO_SLOW:
        return Verdict(
            Cause.SENT, f"it was sent before the connection ended. After that, {text}", process
        )
    return Verdict(cause, text, process)


def _facts_of(asked: Asked, told: Sequence[Told]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for each in told:
        own = {f.get("connection") for f in each.facts() if f.get("subject") == asked.subject}
        for fact in each.facts():
            # A part that does not know the subject still knows the connection.
            is_known = "subject" in fact or "connection" not in fact
            is_own = fact.get("subject") == asked.subject if is_known else fact["connection"] in own
            if is_own and fact["kind"] in _TELLING and fact.get("topic") in {None, asked.topic}:
                yield each.process, fact


def _before_returning(
    facts: Iterable[tuple[str, Mapping[str, Any]]], cursor: Cursor
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the facts before the subject subscribed after `cursor`, and connected for that."""
    before: list[tuple[str, Mapping[str, Any]]] = []
    for process, fact in facts:
        if fact["kind"] == "subscribed" and fact["cursor"] >= cursor:
            break
        before.append((process, fact))
    while before and before[-1][1]["kind"] == "connected":
        before.pop()
    yield from before


def _of_fact(asked: Asked, fact: Mapping[str, Any]) -> tuple[Cause, str]:
    kind, code, text = fact["kind"], fact.get("code"), fact.get("text", "")
    if kind in _CAUSES:
        return _CAUSES[kind]
    if kind in {"refused", "failed"}:
        cause = _REFUSALS.get(code or "", Cause.REFUSED if kind == "refused" else Cause.FAILED)
        what = "was refused" if kind == "refused" else "has an operation that failed"
        return cause, f"{asked.subject} {what}: {text or code or 'an error without a code'}"
    if kind == "closed":
        return Cause.DISCONNECTED, f"the connection has ended ({text or 'without a code'})"
    return Cause.UNSUBSCRIBED, f"the client has ended its subscription to {asked.topic}"


def _unsubscribed(asked: Asked, told: Sequence[Told]) -> Verdict:
    facts = [fact for each in told for fact in each.facts()]
    reads = sorted({name for each in told for name in each.reads()})
    if reads or any(fact.get("subject") == asked.subject for fact in facts):
        instead = f", but to {', '.join(reads[:5])}" if reads else ""
        similar = get_close_matches(asked.topic, reads, n=1)
        hint = f". Did you mean {similar[0]}?" if similar else ""
        return Verdict(
            Cause.NOT_SUBSCRIBED,
            f"{asked.subject} is not subscribed to {asked.topic}{instead}{hint}",
        )
    return Verdict(
        Cause.UNKNOWN_SUBJECT,
        f"{asked.subject} has not connected for as long as the processes remember",
    )
