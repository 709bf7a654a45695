"""The types of the console's API."""

import json
from datetime import UTC, datetime
from inspect import getdoc
from typing import Any, Self, TypeVar

import strawberry
from strawberry.scalars import JSON
from strawberry.types import get_object_definition

from gqlnotify.brokers.presence import Present
from gqlnotify.console import history
from gqlnotify.console.asking import Asked
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


def described(text: str) -> Any:
    """Return a field with a description."""
    return strawberry.field(description=text)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


@documented
@strawberry.type
class Process:
    """A process that uses the topics, or one of its topic managers."""

    name: str = described("Its machine, its process id, and a few letters of its own.")
    host: str
    pid: int
    version: str = described("The version of gqlnotify.")
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

    silent: list[Process] = described("Known processes that did not answer within a second.")
    failed: list[Failure] = described("Processes that answered with an error.")


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
class Topic:
    """A topic that at least one process listens to."""

    name: str
    subscribers: int = described("Subscriptions in all processes.")
    groups: int = described("Groups of equal subscriptions, which share their executions.")
    newest: str = described("The cursor of the newest event that a process has seen.")
    events_per_second: float | None = described(
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
    length: int = described("How many events it contains.")
    oldest: str = described("The oldest cursor that a subscription can resume after.")
    newest: str = described("The cursor of the newest event.")
    began_at: datetime | None = described("When its oldest event was published.")
    bytes: float = described(
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
    id: str | None = described("The id that its publisher gave it.")
    published_at: datetime | None
    bytes: int = described("The size of its payload.")
    payload: JSON | None = described("Its value; null if it is not JSON.")

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
    searched: int = described("How many events were searched.")
    after: str | None = described("Where to continue; null at the end of the history.")


@documented
@strawberry.type
class Member:
    """A subject who is subscribed to a topic with presence."""

    subject: str
    state: JSON | None = described("What the application has set for it.")
    connections: int = described("How many connections it has in all processes.")
    since: datetime = described("When it joined.")


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
    document: str | None = described("The beginning of its document.")
    topic: str | None
    acknowledged: str | None = described(
        "The last cursor that the client has acknowledged; null if it does not resume by itself."
    )


@documented
@strawberry.type
class Connection:
    """An open WebSocket, or a stream over HTTP."""

    id: strawberry.ID = described("The id that its log lines have too.")
    process: Process
    subject: str | None
    token_id: str | None = described("The `jti` of its token, by which it can be revoked.")
    address: str
    transport: str
    since: datetime
    held_bytes: float = described("Bytes that wait for its peer.")
    operations: list[ConnectionOperation] = described("The first 10 of them.")

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

    name: str = described("Its type and field.")
    calls: float
    seconds: float = described("How long the calls took in total, waits included.")


@documented
@strawberry.type
class Operation:
    """A document that subscriptions to a topic share."""

    document: str
    name: str | None = described("The name of the operation in the document.")
    topic: str
    subscribers: int = described("Subscriptions in all processes that share its executions.")
    executions: float = described("How many events were executed.")
    seconds: float = described("How long they took in total, waits included.")
    mean_seconds: float | None = described("How long one of them took on average.")
    errors: float = described("How many of them had errors.")
    resolvers: list[Resolver] = described(
        "The slowest resolvers. They are timed for 10 seconds after each look, so the first look "
        "finds none."
    )


@documented
@strawberry.type
class Operations(Answered):
    """The operations that took longest, and how many there are."""

    operations: list[Operation]
    total: int
