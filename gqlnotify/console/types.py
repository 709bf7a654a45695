"""The types of the console's API."""

import json
from datetime import UTC, datetime
from inspect import getdoc
from typing import Any, Self, TypeVar

import strawberry
from strawberry.scalars import JSON
from strawberry.types import get_object_definition

from gqlnotify.brokers.presence import Present
from gqlnotify.console import figures, history
from gqlnotify.console.asking import Asked
from gqlnotify.console.figures import ByProcess
from gqlnotify.event import Event as PublishedEvent
from gqlnotify.topics import survey

T = TypeVar("T")


def documented(cls: type[T]) -> type[T]:
    """Show the docstrings of a Strawberry type and of its resolvers to clients."""
    definition = get_object_definition(cls, strict=True)
    definition.description = getdoc(cls)
    for field in definition.fields:
        if field.base_resolver is not None:
            field.description = getdoc(field.base_resolver.wrapped_func)
    return cls


def _described(text: str) -> Any:
    return strawberry.field(description=text)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


@documented
@strawberry.type
class Process:
    """A process that uses the topics, or one of its topic managers."""

    name: str = _described("Its machine, its process id, and a few letters of its own.")
    host: str
    pid: int
    version: str = _described("The version of gqlnotify.")
    started_at: datetime

    @classmethod
    def of(cls, process: survey.Process) -> Self:
        """Return the process of an answer."""
        return cls(
            name=process.name,
            host=process.host,
            pid=process.pid,
            version=process.version,
            started_at=datetime.fromtimestamp(process.started_at, UTC),
        )


@documented
@strawberry.type
class Failure:
    """A process that answered with an error."""

    process: Process
    reason: str


@documented
@strawberry.interface
class Answered:
    """What several processes were asked."""

    silent: list[Process] = _described("Known processes that did not answer within a second.")
    failed: list[Failure] = _described("Processes that answered with an error.")


def unanswered(asked: Asked) -> dict[str, Any]:
    """Return the fields of `Answered`."""
    return {
        "silent": [Process.of(each) for each in asked.silent],
        "failed": [
            Failure(process=Process.of(each.process), reason=str(each.error))
            for each in asked.failed
        ],
    }


@documented
@strawberry.type
class ProcessLoad:
    """What one process has open now."""

    process: Process
    connections: int = _described("Open WebSockets.")
    streams: int = _described("Open streams over HTTP.")
    operations: int = _described("Running operations on WebSockets.")
    topics: int = _described("Topics that it listens to.")
    held_bytes: float = _described("Bytes that wait for the peers of its WebSockets.")
    deliveries: float = _described("Results that it has sent since its start.")

    @classmethod
    def of(cls, answer: survey.Answer) -> Self:
        """Return what one process answered."""
        value = answer.value
        return cls(
            process=Process.of(answer.process),
            connections=value["connections"],
            streams=value["streams"],
            operations=value["operations"],
            topics=value["topics"],
            held_bytes=value["heldBytes"],
            deliveries=value["deliveries"],
        )


@documented
@strawberry.type
class Refusal:
    """Refused requests and closed connections of one kind."""

    reason: str = _described("The code of the error, in lower case.")
    count: float


@documented
@strawberry.type
class Rates:
    """What happened between two looks. Only a subscription has it, from its second value on."""

    deliveries: float = _described("Results sent in a second.")
    executions: float = _described("Executions of events in a second.")
    executions_saved: float = _described(
        "Deliveries in a second that shared the execution of another subscription."
    )
    published: float = _described("Events that the processes published in a second.")
    lag_seconds: float | None = _described(
        "The mean time from the broker's receipt of an event to the write of its messages."
    )

    @classmethod
    def between(cls, before: ByProcess, now: ByProcess, seconds: float) -> Self:
        """Return what happened in `seconds`."""

        def rate(name: str) -> float:
            return figures.growth(before, now, name) / seconds

        return cls(
            deliveries=rate("deliveries"),
            executions=rate("executions"),
            executions_saved=rate("executionsSaved"),
            published=rate("published"),
            lag_seconds=figures.lag(before, now),
        )


@documented
@strawberry.type
class Overview(Answered):
    """The figures of all processes that answered."""

    processes: list[ProcessLoad]
    others: list[Process] = _described("Processes without a router, such as workers.")
    connections: float = _described("Open WebSockets.")
    streams: float = _described("Open streams over HTTP.")
    operations: float = _described("Running operations on WebSockets.")
    held_bytes: float = _described("Bytes that wait for the peers of all WebSockets.")
    published: float = _described("Events published since the processes started.")
    deliveries: float = _described("Results sent since the processes started.")
    executions: float = _described("Executions of events since the processes started.")
    executions_saved: float = _described(
        "Deliveries that shared an execution, since the processes started."
    )
    gaps: float = _described("Times that a history did not reach back far enough.")
    refusals: list[Refusal] = _described("By reason, most frequent first.")
    rates: Rates | None = None

    @classmethod
    def of(cls, asked: Asked, now: ByProcess, rates: Rates | None = None) -> Self:
        """Return the sums over all processes."""
        return cls(
            processes=[ProcessLoad.of(each) for each in asked.answers],
            others=[Process.of(each) for each in asked.others],
            connections=figures.total(now, "connections"),
            streams=figures.total(now, "streams"),
            operations=figures.total(now, "operations"),
            held_bytes=figures.total(now, "heldBytes"),
            published=figures.total(now, "published"),
            deliveries=figures.total(now, "deliveries"),
            executions=figures.total(now, "executions"),
            executions_saved=figures.total(now, "executionsSaved"),
            gaps=figures.total(now, "gaps"),
            refusals=[
                Refusal(reason=reason, count=count) for reason, count in figures.refusals(now)
            ],
            rates=rates,
            **unanswered(asked),
        )


@documented
@strawberry.type
class Topic:
    """A topic that at least one process listens to."""

    name: str
    subscribers: int = _described("Subscriptions in all processes.")
    groups: int = _described("Groups of equal subscriptions, which share their executions.")
    newest: str = _described("The cursor of the newest event that a process has seen.")
    events_per_second: float | None = _described(
        "Only a subscription has it, from its second value on."
    )


@documented
@strawberry.type
class Topics(Answered):
    """The first topics by name, and how many there are."""

    topics: list[Topic]
    total: int


@documented
@strawberry.type
class History:
    """The history of a topic."""

    topic: str
    length: int = _described("How many events it contains.")
    oldest: str = _described("The oldest cursor that a subscription can resume after.")
    newest: str = _described("The cursor of the newest event.")
    began_at: datetime | None = _described("When its oldest event was published.")
    bytes: float = _described(
        "About how many bytes the payloads have, by the mean of the newest 50 events."
    )

    @classmethod
    def of(cls, topic: str, measured: history.Measured) -> Self:
        """Return what was measured."""
        return cls(
            topic=topic,
            length=measured.length,
            oldest=measured.oldest,
            newest=measured.newest,
            began_at=_time(measured.began_at),
            bytes=measured.bytes,
        )


@documented
@strawberry.type
class Event:
    """A published event."""

    cursor: str
    id: str | None = _described("The id that its publisher gave it.")
    published_at: datetime | None
    bytes: int = _described("The size of its payload.")
    payload: JSON | None = _described("Its value; null if it is not JSON.")

    @classmethod
    def of(cls, event: PublishedEvent) -> Self:
        """Return an event as clients get it."""
        return cls(
            cursor=event.cursor,
            id=event.id,
            published_at=_time(event.published_at),
            bytes=len(event.payload),
            payload=_json(event.payload),
        )


def _json(payload: bytes) -> JSON | None:
    try:
        made: JSON = json.loads(payload)
    except ValueError:
        return None
    return made


@documented
@strawberry.type
class Events:
    """Events that were found."""

    events: list[Event]
    searched: int = _described("How many events were searched.")
    after: str | None = _described("Where to continue; null at the end of the history.")


@documented
@strawberry.type
class Member:
    """A subject who is subscribed to a topic with presence."""

    subject: str
    state: JSON | None = _described("What the application has set for it.")
    connections: int = _described("How many connections it has in all processes.")
    since: datetime = _described("When it joined.")


@documented
@strawberry.type
class Presence:
    """Who is subscribed to a topic: the first who joined, and how many there are."""

    members: list[Member]
    count: int

    @classmethod
    def of(cls, present: Present) -> Self:
        """Return who is present, as clients get it."""
        members = [
            Member(
                subject=each.subject,
                state=each.state,
                connections=each.connections,
                since=each.since,
            )
            for each in present.members
        ]
        return cls(members=members, count=present.count)


@documented
@strawberry.type
class ConnectionOperation:
    """An operation of a connection."""

    id: str
    document: str | None = _described("The beginning of its document.")
    topic: str | None
    acknowledged: str | None = _described(
        "The last cursor that the client has acknowledged; null if it does not resume by itself."
    )


@documented
@strawberry.type
class Connection:
    """An open WebSocket, or a stream over HTTP."""

    id: strawberry.ID = _described("The id that its log lines have too.")
    process: Process
    subject: str | None
    token_id: str | None = _described("The `jti` of its token, by which it can be revoked.")
    address: str
    transport: str
    since: datetime
    held_bytes: float = _described("Bytes that wait for its peer.")
    operations: list[ConnectionOperation] = _described("The first 10 of them.")

    @classmethod
    def of(cls, process: survey.Process, row: dict[str, Any]) -> Self:
        """Return a connection as clients get it."""
        return cls(
            id=strawberry.ID(row["id"]),
            process=Process.of(process),
            subject=row["subject"],
            token_id=row["tokenId"],
            address=row["address"],
            transport=row["transport"],
            since=datetime.fromtimestamp(row["since"], UTC),
            held_bytes=row["heldBytes"],
            operations=[ConnectionOperation(**each) for each in row["operations"]],
        )


@documented
@strawberry.type
class Connections(Answered):
    """The oldest connections, and how many there are."""

    connections: list[Connection]
    total: int


@documented
@strawberry.type
class Resolver:
    """A resolver that an application has written."""

    name: str = _described("Its type and field.")
    calls: float
    seconds: float = _described("How long the calls took in total, waits included.")


@documented
@strawberry.type
class Operation:
    """A document that subscriptions to a topic share."""

    document: str
    name: str | None = _described("The name of the operation in the document.")
    topic: str
    subscribers: int = _described("Subscriptions in all processes that share its executions.")
    executions: float = _described("How many events were executed.")
    seconds: float = _described("How long they took in total, waits included.")
    mean_seconds: float | None = _described("How long one of them took on average.")
    errors: float = _described("How many of them had errors.")
    resolvers: list[Resolver] = _described(
        "The slowest resolvers. They are timed for 10 seconds after each look, so the first look "
        "finds none."
    )


@documented
@strawberry.type
class Operations(Answered):
    """The operations that took longest, and how many there are."""

    operations: list[Operation]
    total: int
