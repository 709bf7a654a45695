"""One execution and one encoding of each event for all subscriptions that ask the same.

They ask the same when document, operation name, variables, topic, filter and scope are the same.
What they share has no viewer: its context is made for the event, in a clean `contextvars` context,
and whoever reaches for a viewer there gets an error. Who may join was decided before, for each
subscriber, by the subscribe resolver and the right to the topic.
"""

import asyncio
from collections.abc import Coroutine, Hashable
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from graphql import GraphQLError
from strawberry import Schema
from strawberry.types import ExecutionContext

from gqlnotify.cancellation import run_within
from gqlnotify.event import Cursor, Event
from gqlnotify.execution.cache import Cache
from gqlnotify.execution.documents import (
    Documents,
    has_extensions,
    remembering,
    weigh,
    without_suggestions,
)
from gqlnotify.execution.event_execution import (
    Encode,
    EncodedResult,
    EventContext,
    EventExecution,
    MakeContext,
    SharedRequest,
    canonical,
    viewerless,
)
from gqlnotify.execution.fingerprint import Same, fingerprint, fingerprint_of_functions
from gqlnotify.execution.group import Group, Member
from gqlnotify.execution.limits import NO_LIMITS, Limits
from gqlnotify.execution.persisted import NONE_PERSISTED, PersistedOperations
from gqlnotify.execution.replay_budget import ReplayBudget, ReplayBudgets
from gqlnotify.observability import metrics, tracing
from gqlnotify.topics.subscriber import Subscriber
from gqlnotify.topics.subscription import Subscription

EXECUTION_TIMEOUT = 30.0
CACHE_BYTES = 8 * 1024 * 1024
RECENT_BYTES = 16 * 1024 * 1024
REPLAY_RATE = 1000.0
_NO_DIFFERENCE = {"after", "persistedQuery"}
# Measured: parsed JSON takes up to 26 times its text, which the key of an execution has as well.
_PARSED_BYTES = 30
_EXECUTION_BYTES = 10_000
_OUTCOME_BYTES = 1000  # what an outcome and its place weigh in addition to the message, at most


@dataclass(frozen=True, slots=True)
class Shareable:
    """A subscription that has begun, and the execution that it shares with others."""

    execution: "SharedExecution"
    subscriber: Subscriber


class Executions:
    """The shared executions of one router, and the outcomes that were made last.

    Args:
        schema: what is executed.
        encode: turns a message into JSON.
        event_context: makes the context of an event from the scope. A context manager is entered
            before the event is executed, and left afterwards.
        cache_bytes: how much of the encoded outcomes is kept for those who come late.
        execution_timeout: the seconds that the execution of one event may take.
        limits: how large a document may be.
        persisted: the documents that clients can name.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        encode: Encode,
        event_context: MakeContext = EventContext,
        cache_bytes: int = CACHE_BYTES,
        execution_timeout: float = EXECUTION_TIMEOUT,
        limits: Limits = NO_LIMITS,
        persisted: PersistedOperations = NONE_PERSISTED,
        replay_rate: float = REPLAY_RATE,
    ) -> None:
        self.budgets = ReplayBudgets(replay_rate)
        self.limits = limits
        self.persisted = persisted
        self.documents = Documents(schema, limits=limits, persisted=persisted)
        self._schema = schema
        self.execution_timeout = execution_timeout
        self._encode = encode
        self._event_context = event_context
        self.encoded_results: Cache[tuple[SharedExecution, Cursor], EncodedResult] = Cache(
            cache_bytes
        )
        self._by_key: WeakValueDictionary[Hashable, SharedExecution] = WeakValueDictionary()
        # A client that lost its connection is back soon, and then needs what others no longer use.
        self._recent: Cache[Hashable, SharedExecution] = Cache(RECENT_BYTES)

    @property
    def weight(self) -> int:
        """How many bytes are kept for clients that may come back."""
        return self.documents.weight + self.encoded_results.weight + self._recent.weight

    @property
    def event_schema(self) -> Schema:
        """The application's schema, whose errors suggest no names where introspection is off."""
        return self._schema if self.limits.introspection else without_suggestions(self._schema)

    @property
    def extended(self) -> bool:
        """Whether operations may have extensions."""
        return has_extensions(self._schema)

    def schema(self, asker: Hashable) -> Schema:
        """Return a copy that knows the documents and their limits, to execute what `asker` sends.

        Made for each operation, so that what the application changes in its schema takes effect.
        """
        return remembering(self.event_schema, self.documents, asker)

    def share(
        self, context: ExecutionContext, subscription: Subscription[Any]
    ) -> "SharedExecution | None":
        """Return the execution for all who ask what `context` does; None if it can't be shared."""
        resuming = self.documents.resume_variables(context)
        variables = {k: v for k, v in (context.variables or {}).items() if k not in resuming}
        extensions = {
            name: value
            for name, value in (context.operation_extensions or {}).items()
            if name not in _NO_DIFFERENCE
        }
        projection = subscription.projection
        try:
            texts = canonical(variables), canonical(extensions)
            key = (
                # The document itself and not its text: extensions may replace it.
                Same(context.graphql_document),
                context.operation_name,
                texts,
                (Same(subscription.manager), projection.topic.name, Same(projection.topic.type)),
                fingerprint_of_functions(
                    projection.where, projection.select, projection.topic.latest_by
                ),
                _scope_key(subscription.scope),
            )
            hash(key)
        except (TypeError, ValueError, RecursionError):
            # An upload among the variables, or very deep ones, or a scope that can't be compared.
            return None
        execution = self._by_key.get(key)
        if execution is None:
            required = {name: "" for name, needed in resuming.items() if needed}
            request = SharedRequest(
                self.event_schema,
                viewerless(context, {**variables, **required}, extensions),
                projection,
                subscription.scope,
                self._event_context,
                self._encode,
            )
            try:
                execution = SharedExecution(request, self.encoded_results, self.execution_timeout)
            except GraphQLError:
                # A scalar of the application's own takes no placeholder for a cursor.
                return None
            self._by_key[key] = execution
        else:
            execution.is_shared = True
        self._recent.put(key, execution, _weight(context, *texts))
        return execution


class SharedExecution:
    """Makes each event's outcome once."""

    def __init__(
        self,
        request: SharedRequest,
        encoded_results: "Cache[tuple[SharedExecution, Cursor], EncodedResult]",
        timeout: float = EXECUTION_TIMEOUT,
    ) -> None:
        self.is_shared = False
        self._timeout = timeout
        self._request = request
        self._execution = EventExecution(request)
        self._encoded_results = encoded_results
        self._pending: dict[Cursor, asyncio.Future[EncodedResult | None]] = {}
        self._saved = 0
        self._group: Group | None = None

    def group(self, subscriber: Subscriber) -> Group:
        """Return the group of those who get the outcomes as they happen.

        A new one begins where the topic of `subscriber` stands now.
        """
        if self._group is None or self._group.ended:
            self._group = Group(self.encoded, self.marked, subscriber, self._forget)
        return self._group

    def _forget(self, group: Group) -> None:
        # It knows the topic's window: this execution outlives it, those events need not.
        if self._group is group:
            self._group = None
        self.count_saved()

    async def join(
        self, member: Member, subscriber: Subscriber, budget: ReplayBudget | None = None
    ) -> Group | None:
        """Give `member` what `subscriber` reads, until it is in the group, which is returned.

        None where the topic has been left by all.

        Raises:
            Ended: an outcome ended the operation.
            CursorExpired: the history no longer reaches back to the reader's position.
        """
        try:
            while not subscriber.closed:
                group = self.group(subscriber)
                if await group.catch_up(member, subscriber, partial(self.replay, budget=budget)):
                    return group
            return None
        finally:
            subscriber.close()
            self.count_saved()

    def count_saved(self) -> None:
        """Tell the metrics what was known already since they were told last."""
        saved, self._saved = self._saved, 0
        metrics.executions_saved.inc(saved)

    async def replay(self, event: Event, budget: ReplayBudget | None) -> EncodedResult | None:
        """Return what becomes of `event` for one who reads by itself; None if it is left out.

        Before it is executed this waits for the budget. What is known costs nothing.
        """
        # Looked up once: most events of a replay are known.
        encoded = self._known(event)
        if encoded is None:
            if budget is not None:
                await budget.spend()
            encoded = self.encoded(event)
        return await asyncio.shield(encoded) if isinstance(encoded, asyncio.Future) else encoded

    def encoded(
        self, event: Event, keep: bool = True
    ) -> "EncodedResult | asyncio.Future[EncodedResult | None] | None":
        """Return what becomes of `event`, or the future of it; None if it is left out.

        It is kept for those who come later where somebody else asks the same, or with `keep`.
        """
        known = self._known(event)
        if known is not None:
            return known
        clean = Context()
        span, made = clean.run(self._begin, event)
        if made is not None:
            metrics.executions.inc()
        if made is None or isinstance(made, EncodedResult):
            tracing.end(span)
            if keep or self.is_shared:
                self._remember(made)
            return made
        making = run_within(
            self._timeout, made, partial(self._execution.failed_to_end, event), context=clean
        )
        self._pending[event.cursor] = making
        making.add_done_callback(partial(self._settle, event.cursor, span))
        return making

    def _known(self, event: Event) -> "EncodedResult | asyncio.Future[EncodedResult | None] | None":
        known = self._encoded_results.get((self, event.cursor)) or self._pending.get(event.cursor)
        if known is not None:
            self._saved += 1
        return known

    def _settle(
        self, cursor: Cursor, span: Any, making: "asyncio.Future[EncodedResult | None]"
    ) -> None:
        tracing.end(span)
        del self._pending[cursor]
        if not making.cancelled() and making.exception() is None:
            self._remember(making.result())

    def marked(self, encoded: EncodedResult, left_out: int) -> EncodedResult:
        """See `EventExecution.marked`."""
        return self._execution.marked(encoded, left_out)

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
        return span, self._execution.begin(event)

    def _remember(self, encoded: EncodedResult | None) -> None:
        # Not one with errors: a later execution may succeed.
        if encoded is not None and encoded.body is not None and not encoded.errors:
            key = (self, encoded.cursor)
            self._encoded_results.put(key, encoded, len(encoded.body.data) + _OUTCOME_BYTES)


def _weight(context: ExecutionContext, variables: str, extensions: str) -> int:
    assert context.graphql_document is not None
    # The document may be forgotten everywhere else. What is compiled of it takes no more than it.
    document = 2 * weigh(context.query, context.graphql_document)
    return _EXECUTION_BYTES + document + _PARSED_BYTES * (len(variables) + len(extensions))


def _scope_key(scope: Hashable) -> Hashable:
    known = fingerprint(scope)
    return (type(scope), scope) if isinstance(known, Same) else known
