"""What this process knows about a subject and an event: its answer to `gqlnotify trace`.

Nothing of it is kept for this purpose: it asks the running subscriptions how far they have got, and
their filters again whether they let the event through.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from gqlnotify import clock
from gqlnotify.errors import BadUserInput, BrokerUnavailable
from gqlnotify.event import Cursor, Event, Topic
from gqlnotify.observability import metrics, trace
from gqlnotify.observability.trace_live import FOLLOW_SECONDS
from gqlnotify.topics.projection import Projection
from gqlnotify.topics.reading import (
    Audience,
    Reading,
    decides_by_scope,
    place_of,
    told_scope,
)

if TYPE_CHECKING:
    from gqlnotify.topics.manager import TopicManager

ASKED = "trace"
"""The kind of the survey."""
END_SECONDS = FOLLOW_SECONDS + 0.1
AT_ONCE = 100
MAX_FACTS = 500
MAX_READINGS = 200
MAX_NAMES = 200
MAX_SCOPES = 500

_UNREADABLE = object()


class Question(BaseModel):
    """Whom and what a trace is about.

    Attributes:
        subject: The subject; None for any.
        topic: The topic; None for any.
        cursor: The event; None for no particular one.
        since: From when on facts are told, in seconds before now.
        follow: The name of a trace that follows from now on; None for none. The answer then has
            only its steps since the last question.
    """

    subject: str | None = Field(default=None, max_length=1000)
    topic: str | None = Field(default=None, max_length=200)
    cursor: str | None = Field(default=None, max_length=40)
    since: float = Field(default=trace.MAX_SECONDS, ge=0)
    follow: str | None = Field(default=None, min_length=1, max_length=64)


async def answer(topics: "TopicManager", arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this process knows about the question in `arguments`, as an object of JSON."""
    question = Question.model_validate(arguments)
    if question.follow is not None:
        return await _steps(question, question.follow)
    outcomes = _Outcomes(await _event(topics, question))
    held: dict[str, int] = {}
    readings: list[Reading] = []
    async for one in _audiences():
        held |= {peer.connection: peer.held for peer in one.peers()}
        readings += one.readings()
    asked = [each for each in readings if _concerns(each, question)]
    since = clock.now() - question.since
    facts = trace.ring.about(question.subject, question.topic, since=since)
    listened = topics.live_topics.listened()
    return {
        "recordedSince": trace.ring.reaches_back_to,
        "received": listened[question.topic][1] if question.topic in listened else None,
        "listensTo": sorted(listened)[:MAX_NAMES],
        "reads": _read_by(question.subject, readings),
        "facts": [fact.formatted() for fact in facts[-MAX_FACTS:]],
        "readings": [_told(each, outcomes, held) for each in asked[:MAX_READINGS]],
        "passingScopes": _passing_scopes(readings, outcomes),
    }


async def _steps(question: Question, name: str) -> dict[str, Any]:
    begins = trace.live.is_new(name)
    followed = trace.live.follow(name, question.subject, question.topic)
    # It ends if no further question comes.
    asyncio.get_running_loop().call_later(END_SECONDS, trace.live.expire, context=Context())
    if begins:
        async for one in _audiences():
            one.follow()
    steps, left_out = followed.take()
    return {"steps": [step.formatted() for step in steps], "leftOut": left_out}


async def _event(topics: "TopicManager", question: Question) -> Event | None:
    if question.topic is None or question.cursor is None:
        return None
    try:
        topic: Topic[Any] = Topic(question.topic, Any)
        return await topics.event_at(topic, Cursor.parse(question.cursor))
    except (BadUserInput, BrokerUnavailable):
        return None


async def _audiences() -> AsyncIterator[Audience]:
    """Yield everything that has connections or subscriptions, and let others run in between."""
    for number, one in enumerate(metrics.watched()):
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
        if isinstance(one, Audience):
            yield one


def _concerns(reading: Reading, question: Question) -> bool:
    reader = reading.reader
    return question.subject in {None, reader.subject} and question.topic in {None, _topic(reading)}


def _read_by(subject: str | None, readings: list[Reading]) -> list[str]:
    """Return the topics that the subject is subscribed to."""
    if subject is None:
        return []
    return sorted({_topic(each) for each in readings if each.reader.subject == subject})[:MAX_NAMES]


def _topic(reading: Reading) -> str:
    return reading.reader.projection.topic.name


def _told(reading: Reading, outcomes: "_Outcomes", held: Mapping[str, int]) -> dict[str, Any]:
    reader, topic = reading.reader, reading.reader.projection.topic
    told = {
        "subject": reader.subject,
        "topic": topic.name,
        "connection": reader.connection,
        "operation": reading.operation,
        "began": reader.began,
        "reached": reading.reached,
        "acknowledged": reading.acknowledged,
        "shared": reading.is_shared,
        "heldBytes": held.get(reader.connection or ""),
        "filter": place_of(reader.projection.where),
        "scope": told_scope(reader.scope),
        "scopeDecides": decides_by_scope(reader.projection, reader.scope),
        "conflates": topic.latest_by is not None,
        "outcome": outcomes.of(reader.projection),
    }
    return {name: value for name, value in told.items() if value is not None}


class _Outcomes:
    """What subscriptions make of `event`, if there is one.

    Decoding a large event takes milliseconds, so all filters of a type get the same value.
    """

    def __init__(self, event: Event | None) -> None:
        self.event = event
        # By the id of the type, because a type may not be hashable.
        self._values: dict[int, Any] = {}
        self._known: dict[int, str] = {}

    def of(self, projection: Projection) -> str | None:
        """Return `passes`, `filtered`, or why neither; None if there is no event."""
        if self.event is None:
            return None
        known = self._known.get(id(projection))
        if known is None:
            known = self._known[id(projection)] = self._find(projection, self.event)
        return known

    def _find(self, projection: Projection, event: Event) -> str:
        if event.topic != projection.topic.name:
            return "other_topic"
        value = self._decoded(projection.topic, event)
        if value is _UNREADABLE:
            return "unreadable"
        try:
            return "passes" if projection.lets_through(value) else "filtered"
        except Exception:
            return "filter_failed"

    def _decoded(self, topic: Topic[Any], event: Event) -> Any:
        key = id(topic.type)
        if key not in self._values:
            try:
                self._values[key] = topic.decode(event.payload)
            except ValueError:
                self._values[key] = _UNREADABLE
        return self._values[key]


def _passing_scopes(readings: list[Reading], outcomes: _Outcomes) -> list[dict[str, str]]:
    """Return the filters that let the event through, each with a scope in which it does."""
    if outcomes.event is None:
        return []
    scoped: dict[tuple[str, str], Reading] = {}
    # Most subscriptions share the projection of their execution.
    distinct = {id(each.reader.projection): each for each in readings}
    for each in distinct.values():
        place, scope = place_of(each.reader.projection.where), told_scope(each.reader.scope)
        if place is not None and scope is not None and _topic(each) == outcomes.event.topic:
            scoped.setdefault((place, scope), each)
            if len(scoped) == MAX_SCOPES:
                break
    return [
        {"filter": place, "scope": scope}
        for (place, scope), each in scoped.items()
        if outcomes.of(each.reader.projection) == "passes"
    ]
