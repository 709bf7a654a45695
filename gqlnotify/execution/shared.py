"""Executes and encodes each event once for all identical subscriptions.

Subscriptions are identical if document, operation name, variables, topic, filter and scope are the
same. A shared execution has no viewer. Its context is made for the event, in a clean `contextvars`
context, and code that asks for a viewer there gets an error. The subscribe resolver and the right
to the topic have already decided, for each subscriber, whether it may join.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Hashable, Mapping
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Self
from weakref import WeakValueDictionary

from graphql import GraphQLError
from strawberry import Schema
from strawberry.types import ExecutionContext
from typing_extensions import override

from gqlnotify.cancellation import run_within
from gqlnotify.errors import CursorExpired
from gqlnotify.event import Cursor, Event
from gqlnotify.execution.cache import Cache
from gqlnotify.execution.documents import (
    Documents,
    remembering,
    weigh,
    without_suggestions,
)
from gqlnotify.execution.encoded_result import EncodedResult
from gqlnotify.execution.event_execution import (
    Encode,
    EventContext,
    EventExecution,
    MakeContext,
    SharedRequest,
    canonical,
    viewerless,
)
from gqlnotify.execution.fan_out import Member
from gqlnotify.execution.fingerprint import Same, fingerprint, fingerprints_of_functions
from gqlnotify.execution.group import Group
from gqlnotify.execution.limits import NO_LIMITS, Limits
from gqlnotify.execution.persisted import NONE_PERSISTED, PersistedOperations
from gqlnotify.execution.pipeline import body_of
from gqlnotify.execution.replay_budget import ReplayBudget, ReplayBudgets
from gqlnotify.execution.selections import RESULT_BYTES, Selections
from gqlnotify.execution.snapshots import REUSE_SECONDS, SharedLoad, Snapshots
from gqlnotify.observability import metrics, trace, tracing
from gqlnotify.observability.trace_facts import counted
from gqlnotify.topics.live_list import LiveList, Load
from gqlnotify.topics.local_presence import Membership
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.projection import Projection
from gqlnotify.topics.reading import place_of
from gqlnotify.topics.subscriber import Subscriber
from gqlnotify.topics.subscription import Subscription

EXECUTION_TIMEOUT = 30.0
CONCURRENCY = 64
CACHE_BYTES = 8 * 1024 * 1024
RECENT_BYTES = 16 * 1024 * 1024
REPLAY_RATE = 1000.0
MAX_DOCUMENT = 2000
"""How much of a document the console shows, in characters."""
_NO_DIFFERENCE = {"after", "persistedQuery"}
# Measured: parsed JSON takes up to 26 times its text. The key of an execution holds the text too.
_PARSED_BYTES = 30
_EXECUTION_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class Shareable:
    """A started subscription, and the execution that it shares with identical ones.

    `membership` lasts until the operation ends, if it makes its subject present at the topic.
    """

    execution: "SharedExecution"
    subscriber: Subscriber
    membership: Membership | None = None

    def leave(self) -> None:
        """End the subscription."""
        self.subscriber.close()
        if self.membership is not None:
            self.membership.leave()


class Executions:
    """The shared executions of one router, and the cache of recent encoded results.

    Args:
        schema: the schema to execute.
        encode: encodes a message as JSON.
        event_context: makes the context of an event from the scope. A context manager is entered
            before the event is executed, and exited afterwards.
        cache_bytes: the size of the cache of encoded results, for subscribers that are late.
        execution_timeout: the seconds that the execution of one event may take.
        concurrency: how many executions of one group may run at the same time.
        limits: the limits on a document's size.
        persisted: the persisted documents.
        replay_rate: how many past events are executed in a second for one subject.
        snapshot_reuse: for how many seconds others get the snapshot of a live list.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        encode: Encode,
        event_context: MakeContext = EventContext,
        cache_bytes: int = CACHE_BYTES,
        execution_timeout: float = EXECUTION_TIMEOUT,
        concurrency: int = CONCURRENCY,
        limits: Limits = NO_LIMITS,
        persisted: PersistedOperations = NONE_PERSISTED,
        replay_rate: float = REPLAY_RATE,
        snapshot_reuse: float = REUSE_SECONDS,
    ) -> None:
        self.budgets = ReplayBudgets(replay_rate)
        self.limits = limits
        self.persisted = persisted
        self.documents = Documents(schema, limits=limits, persisted=persisted)
        self._schema = schema
        self.execution_timeout = execution_timeout
        self.concurrency = concurrency
        self.snapshot_reuse = snapshot_reuse
        self._encode = encode
        self._event_context = event_context
        self.encoded_results: Cache[tuple[Hashable, Cursor], EncodedResult] = Cache(cache_bytes)
        self._selections = Selections(self.encoded_results)
        self._by_key: WeakValueDictionary[Hashable, SharedExecution] = WeakValueDictionary()
        self._loads: WeakValueDictionary[Hashable, SharedLoad] = WeakValueDictionary()
        # Keeps executions without subscribers: a client that lost its connection returns soon.
        self._recent: Cache[Hashable, SharedExecution] = Cache(RECENT_BYTES)

    @property
    def weight(self) -> int:
        """The estimated bytes of all caches for clients that may come back."""
        return self.documents.weight + self.encoded_results.weight + self._recent.weight

    @property
    def event_schema(self) -> Schema:
        """The application's schema, without suggestions in errors if introspection is disabled."""
        return self._schema if self.limits.introspection else without_suggestions(self._schema)

    def schema(self, asker: Hashable) -> Schema:
        """Return a copy of the schema that uses the document cache and its limits for `asker`.

        It is made for each operation, so that changes to the application's schema take effect.
        """
        return remembering(self.event_schema, self.documents, asker)

    def share(
        self, context: ExecutionContext, subscription: Subscription[Any]
    ) -> "SharedExecution | None":
        """Return the execution that identical subscriptions share; None if it can't be shared."""
        resuming = self.documents.resume_variables(context)
        variables, extensions = _without_cursor(context, resuming)
        try:
            key = _Key.of(context, variables, extensions, subscription)
            hash(key)
        except (TypeError, ValueError, RecursionError):
            # The variables have an upload or are too deep, or the scope can't be hashed.
            return None
        execution = self._by_key.get(key)
        if execution is not None:
            execution.is_shared = True
        else:
            required = {name: "" for name, needed in resuming.items() if needed}
            asked = viewerless(context, {**variables, **required}, extensions)
            try:
                execution = self._by_key[key] = self._new(asked, subscription, key)
            except GraphQLError:
                # The cursor's type is a custom scalar that refuses the placeholder.
                return None
        self._recent.put(key, execution, _weight(context, *key.texts))
        return execution

    def _new(
        self, asked: ExecutionContext, subscription: Subscription[Any], key: "_Key"
    ) -> "SharedExecution":
        request = SharedRequest(
            self.event_schema,
            asked,
            subscription.manager,
            subscription.projection,
            subscription.scope,
            self._event_context,
            self._encode,
            self._selections,
            key.selected,
        )
        load = None
        if isinstance(subscription, LiveList):
            load = self._share_load(subscription.load, key.rows(subscription))
        return SharedExecution(
            request,
            self.encoded_results,
            timeout=self.execution_timeout,
            concurrency=self.concurrency,
            load=load,
        )

    def _share_load(self, load: Load[Any], key: Hashable) -> SharedLoad:
        shared = self._loads.get(key)
        if shared is None:
            shared = self._loads[key] = SharedLoad(
                load, timeout=self.execution_timeout, reuse=self.snapshot_reuse
            )
        return shared


class SharedExecution(metrics.Sampled):
    """Executes and encodes each event once."""

    def __init__(
        self,
        request: SharedRequest,
        encoded_results: Cache[tuple[Hashable, Cursor], EncodedResult],
        *,
        timeout: float = EXECUTION_TIMEOUT,
        concurrency: int = CONCURRENCY,
        load: SharedLoad | None = None,
    ) -> None:
        self.is_shared = False
        self.followed: dict[Member, str] = {}
        """The members of the group that a trace follows, with their subjects."""
        self._timeout = timeout
        self._concurrency = concurrency
        self._request = request
        self._execution = EventExecution(request)
        self._snapshots: Snapshots | None = None
        if load is not None:
            self._snapshots = Snapshots(load, request.projection, self._execution, timeout=timeout)
        self._encoded_results = encoded_results
        self._pending: dict[Cursor, asyncio.Future[EncodedResult | None]] = {}
        self._saved = 0
        self._group: Group | None = None
        self._executed = self._failed = 0
        self._seconds = 0.0

    @override
    def load(self) -> metrics.Load:
        yield from ()

    def belongs_to(self, topics: TopicManager) -> bool:
        """Return whether the events come from `topics`."""
        return self._request.topics is topics

    @property
    def topic(self) -> str:
        """The name of the topic."""
        return self._request.projection.topic.name

    @property
    def document(self) -> str:
        """The beginning of the document."""
        return (self._request.context.query or "")[:MAX_DOCUMENT]

    @property
    def members(self) -> int:
        """How many operations get the results of the group."""
        return 0 if self._group is None else len(self._group)

    def describe(self) -> dict[str, Any]:
        """Return what it has executed so far, and time its resolvers from now on for a while."""
        request = self._request.context
        return {
            "document": self.document,
            "name": request.operation_name,
            "topic": self.topic,
            "subscribers": self.members,
            "executions": self._executed,
            "seconds": self._seconds,
            "errors": self._failed,
            "resolvers": self._execution.resolver_times.look(),
        }

    @property
    def projection(self) -> Projection:
        """What it does with each event before it executes it."""
        return self._request.projection

    @property
    def scope(self) -> Hashable:
        """The scope of all subscriptions that share it."""
        return self._request.scope

    def group(self, subscriber: Subscriber) -> Group:
        """Return the group that delivers live events.

        A new group begins at the current position of the topic of `subscriber`.
        """
        if self._group is None or self._group.ended:
            self._group = Group(
                self.encoded,
                self.marked,
                subscriber,
                self._forget,
                concurrency=self._concurrency,
            )
            metrics.watch(self)
        return self._group

    def _forget(self, group: Group) -> None:
        # The group refers to the topic's buffer. This execution lives longer, and must not keep
        # those events in memory.
        if self._group is group:
            self._group = None
            metrics.unwatch(self)
        self.count_saved()

    async def join(
        self,
        member: Member,
        subscriber: Subscriber,
        budget: Callable[[], ReplayBudget] | None = None,
    ) -> Group | None:
        """Replay to `member` what `subscriber` reads, until it joins the group. Return the group.

        Returns None if the subscriber was closed. `budget` returns what limits the executions.

        Raises:
            Ended: an encoded result ended the operation.
            CursorExpired: the history no longer reaches back to the subscriber's position, and its
                client asked for a cursor itself.
        """
        replay = partial(self.replay, budget=budget)
        try:
            while not subscriber.closed:
                while told := await self.told_of_gap(subscriber):
                    body_of(told)
                    await member.send(told.batch)
                group = self.group(subscriber)
                try:
                    if await group.catch_up(member, subscriber, replay):
                        # The group reads for it from now on.
                        subscriber.reader = None
                        return group
                except CursorExpired as expired:
                    subscriber.skip_gap(expired)
            return None
        finally:
            subscriber.close()
            self.count_saved()

    async def told_of_gap(self, subscriber: Subscriber) -> EncodedResult | None:
        """Return what tells the client of `subscriber` that it has missed events, if it has.

        For a live list this is a snapshot, or an error and, the next time, another attempt.

        Raises:
            CursorExpired: the client asked for a cursor itself, so this ends its operation.
        """
        if self._snapshots is not None:
            return await self._snapshots.take(subscriber) if subscriber.lacks_snapshot else None
        expired = subscriber.take_expired()
        if expired is None:
            return None
        if subscriber.progress is None:
            raise expired
        subscriber.note_sent()
        told = CursorExpired.but_goes_on()
        metrics.refused(told.code)
        gap = Event(subscriber.topic, subscriber.position, b"")
        return Context().run(self._execution.failed, gap, told)

    def count_saved(self) -> None:
        """Add the executions saved since the last call to the metrics."""
        saved, self._saved = self._saved, 0
        metrics.executions_saved.inc(saved)

    async def replay(
        self, event: Event, budget: Callable[[], ReplayBudget] | None
    ) -> EncodedResult | None:
        """Return the encoded result of `event` for a replay; None if it is filtered out.

        Before an execution this waits for the budget. A cached result costs nothing.
        """
        # Most events of a replay are cached.
        encoded = self._known(event)
        if encoded is None:
            if budget is not None:
                await budget().spend()
            # Plain resolvers never wait, and a history is long: the event loop does other things
            # in between.
            await asyncio.sleep(0)
            encoded = self.encoded(event)
        return await asyncio.shield(encoded) if isinstance(encoded, asyncio.Future) else encoded

    def encoded(
        self, event: Event, keep: bool = True
    ) -> "EncodedResult | asyncio.Future[EncodedResult | None] | None":
        """Return the encoded result of `event`, or a future of it; None if it is filtered out.

        It is cached if several subscriptions have used this execution, or with `keep`.
        """
        known = self._known(event)
        if known is not None:
            return known
        clean = Context()
        began = perf_counter()
        span, made = clean.run(self._begin, event)
        if made is not None:
            metrics.executions.inc()
        if made is None or isinstance(made, EncodedResult):
            tracing.end(span)
            self._count(made, began)
            if trace.live.on:
                self._tell(event, made)
            if keep or self.is_shared:
                self._remember(made)
            return made
        seconds = self._timeout if self._snapshots is None else self._snapshots.change_seconds
        making = run_within(
            seconds, made, partial(self._execution.failed_to_end, event), context=clean
        )
        self._pending[event.cursor] = making
        making.add_done_callback(partial(self._settle, event, span, began))
        return making

    def _tell(self, event: Event, made: EncodedResult | None) -> None:
        """Tell the traces that follow what has become of `event`, once for all members."""
        if made is None:
            kind, text = trace.Kind.FILTERED, place_of(self.projection.where) or ""
        else:
            members = 0 if self._group is None else len(self._group)
            kind, text = trace.Kind.EXECUTED, f"once for {counted(members, 'subscription')}"
        for subject in set[str | None](self.followed.values()) or {None}:
            trace.live.step(
                kind, topic=event.topic, cursor=event.cursor, subject=subject, text=text
            )

    def _known(self, event: Event) -> "EncodedResult | asyncio.Future[EncodedResult | None] | None":
        known = (
            self._encoded_results.get((self, event.cursor))
            or self._pending.get(event.cursor)
            or self._made_by_another(event)
        )
        if known is not None:
            self._saved += 1
        return known

    def _made_by_another(self, event: Event) -> EncodedResult | None:
        """Return the result that another execution of the same selection has made, if any."""
        # A live list sends a snapshot in place of a result with some errors.
        known = self._execution.known(event) if self._snapshots is None else None
        if known is not None and trace.live.on:
            self._tell(event, known)
        return known

    def _settle(
        self,
        event: Event,
        span: Any,
        began: float,
        making: "asyncio.Future[EncodedResult | None]",
    ) -> None:
        tracing.end(span)
        del self._pending[event.cursor]
        if not making.cancelled() and making.exception() is None:
            self._count(making.result(), began)
            self._remember(making.result())
            if trace.live.on:
                self._tell(event, making.result())

    def _count(self, made: EncodedResult | None, began: float) -> None:
        # Once for each event, for all subscribers.
        if made is not None:
            self._executed += 1
            self._seconds += perf_counter() - began
            self._failed += bool(made.errors)

    def marked(self, encoded: EncodedResult, subscriber: Subscriber, event: Event) -> EncodedResult:
        """Return `encoded` with what is special about `event` for this subscriber."""
        return self._execution.marked(
            encoded, subscriber.left_out, redelivered=subscriber.may_repeat(event)
        )

    def _begin(
        self, event: Event
    ) -> tuple[Any, "EncodedResult | Coroutine[Any, Any, EncodedResult | None] | None"]:
        request = self._request.context
        span = tracing.begin(
            "event",
            lambda: {
                **tracing.operation(request.query, request.operation_name, "subscription"),
                "messaging.destination.name": event.topic,
                "gqlnotify.cursor": str(event.cursor),
            },
        )
        executes = self._execution.begin if self._snapshots is None else self._snapshots.change
        return span, executes(event)

    def _remember(self, encoded: EncodedResult | None) -> None:
        # Results with errors are not cached: a later execution may succeed.
        if encoded is not None and encoded.body is not None and not encoded.errors:
            key = (self, encoded.cursor)
            self._encoded_results.put(key, encoded, len(encoded.body.data) + RESULT_BYTES)


class _Key(NamedTuple):
    """What is equal for subscriptions that share an execution."""

    selected: Hashable
    """What a selection of plain fields depends on, for `Selections.of`."""
    texts: tuple[str, str]
    """The variables and the extensions, as JSON."""
    functions: tuple[Hashable, ...]
    scope: Hashable

    @classmethod
    def of(
        cls,
        context: ExecutionContext,
        variables: Mapping[str, Any],
        extensions: Mapping[str, Any],
        subscription: Subscription[Any],
    ) -> Self:
        projection, topic = subscription.projection, subscription.projection.topic
        load = subscription.load if isinstance(subscription, LiveList) else None
        functions = fingerprints_of_functions(
            projection.where, projection.select, topic.latest_by, load
        )
        selected = (
            # The document itself and not its text: extensions may replace it.
            Same(context.graphql_document),
            context.operation_name,
            (Same(subscription.manager), topic.name, Same(topic.type)),
            None if projection.select is None else functions,
        )
        texts = canonical(variables), canonical(extensions)
        return cls(selected, texts, functions, _scope_key(subscription.scope))

    def rows(self, live_list: LiveList[Any]) -> Hashable:
        """Return what is equal for live lists with the same rows, whatever selects from them."""
        topic = live_list.projection.topic.name
        return (Same(live_list.manager), topic, self.functions[-1], self.scope)


def _without_cursor(
    context: ExecutionContext, resuming: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the variables and the extensions that make a difference to the results."""
    variables, extensions = context.variables or {}, context.operation_extensions or {}
    return (
        {name: value for name, value in variables.items() if name not in resuming},
        {name: value for name, value in extensions.items() if name not in _NO_DIFFERENCE},
    )


def _weight(context: ExecutionContext, variables: str, extensions: str) -> int:
    assert context.graphql_document is not None
    # This may be the only reference to the document. The code compiled from it is no larger.
    document = 2 * weigh(context.query, context.graphql_document)
    return _EXECUTION_BYTES + document + _PARSED_BYTES * (len(variables) + len(extensions))


def _scope_key(scope: Hashable) -> Hashable:
    known = fingerprint(scope)
    return (type(scope), scope) if isinstance(known, Same) else known
