"""The console's API. `mount.py` checks the right of each connection before it gets here."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeAlias

import strawberry
from strawberry.scalars import JSON
from strawberry.types import ExecutionContext
from typing_extensions import override

from gqlnotify.auth import authorize
from gqlnotify.connections import report
from gqlnotify.console import figures, types
from gqlnotify.console.asking import Asked, Console
from gqlnotify.console.history import MAX_EVENTS, measure, newest_events, search_events
from gqlnotify.console.overview import Overview, Rates
from gqlnotify.errors import BadUserInput, NotifyError
from gqlnotify.event import Cursor, check_topic_name
from gqlnotify.event import Event as PublishedEvent
from gqlnotify.event import Topic as TopicOf

LOOK_SECONDS = 1.0
MAX_ROWS = report.MAX_ROWS

Info: TypeAlias = strawberry.Info[dict[str, Any], None]
First = Annotated[
    int, strawberry.argument(description=f"How many rows at most, and never over {MAX_ROWS}.")
]
Search = Annotated[str, strawberry.argument(description="Only rows that contain this text.")]


def _console(info: Info) -> Console:
    console: Console = info.context["console"]
    return console


@types.documented
@strawberry.type
class Query:
    """What goes on in all processes."""

    @strawberry.field
    async def overview(self, info: Info) -> Overview:
        """The figures of all processes."""
        asked = await _console(info).ask(report.OVERVIEW)
        return Overview.of(asked, figures.by_process(asked.answers))

    @strawberry.field
    async def topics(
        self, info: Info, search: Search = "", first: First = MAX_ROWS
    ) -> types.Topics:
        """The topics that processes listen to, by name."""
        return _topics(await _console(info).ask(report.TOPICS, search=search), first, {})

    @strawberry.field
    async def history(self, info: Info, topic: str) -> types.History:
        """The history of a topic. Requires the right to subscribe to the topic."""
        await authorize("subscribe", check_topic_name(topic))
        return types.History.of(topic, await measure(_console(info).topics, topic))

    @strawberry.field
    async def events(
        self,
        info: Info,
        topic: str,
        search: Search = "",
        after: str | None = None,
        first: First = MAX_EVENTS,
    ) -> types.Events:
        """The newest events of a topic, or with `search` or `after` the first that match.

        A search compares id and payload. Requires the right to subscribe to the topic.
        """
        await authorize("subscribe", check_topic_name(topic))
        topics, count = _console(info).topics, _at_least_one(min(first, MAX_EVENTS))
        if not search and after is None:
            newest = await newest_events(topics, topic, count)
            return types.Events(
                events=[types.Event.of(event) for event in newest],
                searched=len(newest),
                after=None,
            )
        position = None if after is None else Cursor.parse(after)
        found = await search_events(topics, topic, search, position, count)
        return types.Events(
            events=[types.Event.of(event) for event in found.events],
            searched=found.searched,
            after=found.after,
        )

    @strawberry.field
    async def presence(self, info: Info, topic: str) -> types.Presence:
        """Who is subscribed to a topic with presence. Requires the right to see its members."""
        asked: TopicOf[Any] = TopicOf(check_topic_name(topic), object, presence=True)
        return types.Presence.of(await _console(info).topics.present(asked))

    @strawberry.field
    async def connections(
        self, info: Info, search: Search = "", first: First = MAX_ROWS
    ) -> types.Connections:
        """Open connections, oldest first.

        `search` compares the id, the subject and the address.
        """
        count = _at_least_one(first)
        asked = await _console(info).ask(report.CONNECTIONS, search=search, first=count)
        found = [types.Connection.of(*each) for each in asked.rows]
        found.sort(key=lambda connection: connection.since)
        return types.Connections(
            connections=found[:count], total=asked.total, **types.unanswered(asked)
        )

    @strawberry.field
    async def operations(
        self, info: Info, search: Search = "", first: First = MAX_ROWS
    ) -> types.Operations:
        """Documents of subscriptions. Those that took longest come first."""
        asked = await _console(info).ask(report.OPERATIONS, search=search)
        found = _operations(asked)
        return types.Operations(
            operations=found[: _at_least_one(first)],
            total=len(found),
            **types.unanswered(asked),
        )


@types.documented
@strawberry.type
class Mutation:
    """What an operator may do."""

    @strawberry.mutation
    async def publish(
        self, info: Info, topic: str, value: JSON, event_id: str | None = None
    ) -> str:
        """Publish an event, and return its cursor. Requires the right to publish to the topic."""
        return await _console(info).topics.publish(topic, value, event_id=event_id)

    @strawberry.mutation
    async def disconnect(self, info: Info, connection: strawberry.ID) -> bool:
        """End a connection; its client may come back. Returns whether it was found."""
        asked = await _console(info).ask(report.DISCONNECT, connection=connection)
        return any(each.value for each in asked.answers)

    @strawberry.mutation
    async def revoke(
        self, info: Info, subject: str | None = None, token_id: str | None = None
    ) -> str:
        """Revoke one token by its `jti`, or all tokens of a subject that were made until now.

        Returns the cursor of the revocation. Connections with such a token end.
        """
        if bool(subject) == bool(token_id):
            raise BadUserInput("Pass either subject or tokenId")
        return await _console(info).revocations.revoke(
            subject=subject or None, token_id=token_id or None
        )


@types.documented
@strawberry.type
class Subscription:
    """What changes."""

    @strawberry.subscription
    async def overview(self, info: Info) -> AsyncIterator[Overview]:
        """The figures of all processes, once a second."""
        before, looked_at = figures.ByProcess(), 0.0
        while True:
            asked = await _console(info).ask(report.OVERVIEW)
            now, at = figures.by_process(asked.answers), time.monotonic()
            rates = Rates.between(before, now, at - looked_at) if before else None
            yield Overview.of(asked, now, rates)
            before, looked_at = now, at
            await asyncio.sleep(LOOK_SECONDS)

    @strawberry.subscription
    async def topics(
        self, info: Info, search: Search = "", first: First = MAX_ROWS
    ) -> AsyncIterator[types.Topics]:
        """The topics that processes listen to, once a second, with their rates."""
        before, looked_at = dict[str, int](), 0.0
        while True:
            asked = await _console(info).ask(report.TOPICS, search=search)
            at = time.monotonic()
            rates = {
                name: max(seq - before[name], 0) / (at - looked_at)
                for name, seq in _newest(asked).items()
                if name in before
            }
            yield _topics(asked, first, rates)
            before, looked_at = _newest(asked), at
            await asyncio.sleep(LOOK_SECONDS)

    @strawberry.subscription
    async def events(
        self, info: Info, topic: str, after: str | None = None
    ) -> AsyncIterator[types.Event]:
        """The events of a topic, live. Requires the right to subscribe to the topic."""
        stream = _console(info).topics.subscribe(
            TopicOf(check_topic_name(topic), object), after=after, per_viewer=True
        )
        return stream.map(_event)


def _event(_value: object, event: PublishedEvent) -> types.Event:
    return types.Event.of(event)


def _newest(asked: Asked) -> dict[str, int]:
    newest = defaultdict[str, int](int)
    for _, row in asked.rows:
        newest[row["name"]] = max(newest[row["name"]], Cursor.parse(row["newest"]).seq)
    return newest


def _topics(asked: Asked, first: int, rates: dict[str, float]) -> types.Topics:
    known = dict[str, types.Topic]()
    for _, row in asked.rows:
        topic = known.setdefault(
            row["name"],
            types.Topic(
                name=row["name"],
                subscribers=0,
                groups=0,
                newest=row["newest"],
                events_per_second=rates.get(row["name"]),
            ),
        )
        topic.subscribers += row["subscribers"]
        topic.groups += row["groups"]
        topic.newest = max(Cursor.parse(topic.newest), Cursor.parse(row["newest"]))
    found = sorted(known.values(), key=lambda topic: topic.name)
    # Each process may have sent only its first topics.
    total = max([len(found), *(each.value["total"] for each in asked.answers)])
    return types.Topics(
        topics=found[: _at_least_one(first)], total=total, **types.unanswered(asked)
    )


def _operations(asked: Asked) -> list[types.Operation]:
    known = dict[tuple[str, ...], types.Operation]()
    for _, row in asked.rows:
        operation = known.setdefault(
            (row["document"], row["name"] or "", row["topic"]),
            types.Operation(
                document=row["document"],
                name=row["name"],
                topic=row["topic"],
                subscribers=0,
                executions=0,
                seconds=0,
                mean_seconds=None,
                errors=0,
                resolvers=[],
            ),
        )
        operation.subscribers += row["subscribers"]
        operation.executions += row["executions"]
        operation.seconds += row["seconds"]
        operation.errors += row["errors"]
        operation.resolvers = _added(operation.resolvers, row["resolvers"])
    for operation in known.values():
        if operation.executions:
            operation.mean_seconds = operation.seconds / operation.executions
    return sorted(known.values(), key=lambda operation: -operation.seconds)


def _added(known: list[types.Resolver], rows: list[dict[str, Any]]) -> list[types.Resolver]:
    """Return the resolvers of several processes, slowest first."""
    by_name = {each.name: each for each in known}
    for row in rows:
        resolver = by_name.setdefault(
            row["name"], types.Resolver(name=row["name"], calls=0, seconds=0)
        )
        resolver.calls += row["calls"]
        resolver.seconds += row["seconds"]
    return sorted(by_name.values(), key=lambda resolver: -resolver.seconds)


def _at_least_one(first: int) -> int:
    if first < 1:
        raise BadUserInput("first: must be at least 1")
    return min(first, MAX_ROWS)


class _Schema(strawberry.Schema):
    @override
    def process_errors(
        self, errors: list[Any], execution_context: ExecutionContext | None = None
    ) -> None:
        """Log errors, but not what the console itself tells an operator."""
        unexpected = [each for each in errors if not isinstance(each.original_error, NotifyError)]
        super().process_errors(unexpected, execution_context)


schema = _Schema(query=Query, mutation=Mutation, subscription=Subscription)
