"""One execution and one encoding of each event for all subscriptions that ask the same.

They ask the same when document, operation name, variables, topic, filter and scope are the same.
What they share has no viewer: its context is made for the event, in a clean `contextvars` context,
and whoever reaches for a viewer there gets an error. Who may join was decided before, for each
subscriber, by the subscribe resolver and the right to the topic.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from graphql import GraphQLError, GraphQLObjectType
from graphql.execution import Executor
from graphql.execution.collect_fields import (
    CollectedFields,
    FieldDetailsList,
    collect_subfields,
)
from graphql.pyutils import is_awaitable
from strawberry import Schema
from strawberry.extensions.runner import SchemaExtensionsRunner
from strawberry.types import ExecutionContext, ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from gqlnotify.auth import view_as_everybody
from gqlnotify.errors import NotifyError, NoViewer
from gqlnotify.event import Cursor, Event
from gqlnotify.execution.cache import Cache
from gqlnotify.execution.documents import Documents, remembering
from gqlnotify.execution.group import Group, Member
from gqlnotify.execution.plain import compile_plain
from gqlnotify.execution.results import (
    ends_the_operation,
    error_result,
    is_expected,
    payload_of,
)
from gqlnotify.fingerprint import Same, fingerprint, fingerprint_of_functions
from gqlnotify.protocol.frames import Tail
from gqlnotify.reader import Reader
from gqlnotify.topics import Skipped, Subscription

CACHE_BYTES = 8 * 1024 * 1024
RECENT_EXECUTIONS = 256

logger = logging.getLogger("gqlnotify.execution")

Encode = Callable[[object], str | bytes]


class EventContext:
    """The context of a shared execution where the application makes none: nothing but the scope."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NoViewer(f"context.{name}")

    def __getitem__(self, key: object) -> Any:
        raise NoViewer(f"context[{key!r}]")


MakeContext = Callable[[Any], Any]
"""A hook: the scope, to the context of one event's shared execution, or an awaitable of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event: the message that tells of it, and the errors in its result.

    Without a `tail` it ends the operation: the client gets the errors.
    """

    cursor: Cursor
    tail: Tail | None
    errors: Sequence[GraphQLError] = ()

    def result(self) -> ExecutionResult:
        """Return the result that the message tells of."""
        if self.tail is None:
            return PreExecutionError(data=None, errors=[*self.errors])
        payload = json.loads(b"{" + self.tail.data[1:])["payload"]
        extensions = payload.get("extensions")
        return ExecutionResult(payload["data"], [*self.errors] or None, extensions)


@dataclass(frozen=True, slots=True)
class Shareable:
    """A subscription that has begun, and the execution that it shares with others."""

    execution: "SharedExecution"
    reader: Reader


class Executions:
    """The shared executions of one router, and the outcomes that were made last.

    Args:
        schema: what is executed. Its copy under `schema` remembers documents by an extension, for
            whoever executes it directly.
        encode: turns a message into JSON.
        event_context: makes the context of an event from the scope.
        cache_bytes: how much of the encoded outcomes is kept for those who come late.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        encode: Encode,
        event_context: MakeContext = EventContext,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.documents = Documents(schema)
        self.event_schema = schema
        self.schema = remembering(schema, self.documents)
        self.extended = bool(schema.get_extensions())
        self.encode = encode
        self.event_context = event_context
        self.outcomes: Cache[tuple[SharedExecution, Cursor], Outcome] = Cache(cache_bytes)
        self._by_key: WeakValueDictionary[Hashable, SharedExecution] = WeakValueDictionary()
        # Whoever lost a connection is back soon: so long an execution that nobody uses stays.
        self._recent: Cache[Hashable, SharedExecution] = Cache(RECENT_EXECUTIONS)

    def share(
        self, context: ExecutionContext, subscription: Subscription[Any]
    ) -> "SharedExecution | None":
        """Return the execution for all who ask what `context` does; None if it can't be shared."""
        resuming = self.documents.resume_variables(context)
        variables = {k: v for k, v in (context.variables or {}).items() if k not in resuming}
        extensions = {k: v for k, v in (context.operation_extensions or {}).items() if k != "after"}
        lens = subscription.lens
        try:
            key = (
                # The document itself and not its text: extensions may replace it.
                Same(context.graphql_document),
                context.operation_name,
                _canonical(variables),
                _canonical(extensions),
                (Same(subscription.manager), lens.topic.name, Same(lens.topic.type)),
                fingerprint_of_functions(lens.where, lens.select),
                _scope_key(subscription.scope),
            )
            hash(key)
        except (TypeError, ValueError):
            # An upload among the variables, or a scope that can't be compared.
            return None
        execution = self._by_key.get(key)
        if execution is None:
            required = {name: "" for name, needed in resuming.items() if needed}
            asked = _viewerless(context, {**variables, **required}, extensions)
            try:
                execution = SharedExecution(self, asked, subscription)
            except GraphQLError:
                # A scalar of the application's own takes no placeholder for a cursor.
                return None
            self._by_key[key] = execution
        else:
            execution.is_shared = True
        self._recent.put(key, execution, 1)
        return execution


class SharedExecution:
    """Makes each event's outcome once."""

    def __init__(
        self, executions: Executions, asked: ExecutionContext, subscription: Subscription[Any]
    ) -> None:
        self._executions = executions
        self._schema = executions.event_schema
        self._lens = subscription.lens
        self._scope = subscription.scope
        self.is_shared = False
        self._asked = asked
        self._executor = _executor(self._schema, asked)
        self._plain = compile_plain(self._executor)
        self._pending: dict[Cursor, asyncio.Task[Outcome | None]] = {}
        self._group: Group | None = None

    def group(self, reader: Reader) -> Group:
        """Return the group of those who get the outcomes as they happen.

        A new one begins where the topic of `reader` stands now.
        """
        if self._group is None or self._group.ended:
            self._group = Group(self.outcome, reader)
        return self._group

    async def join(self, member: Member, reader: Reader) -> Group | None:
        """Give `member` what `reader` reads, until it is in the group, which is returned.

        None where the topic has been left by all.

        Raises:
            Ended: an outcome ended the operation.
            CursorExpired: the history no longer reaches back to the reader's position.
        """
        try:
            while not reader.closed:
                group = self.group(reader)
                if await group.bring(member, reader):
                    return group
            return None
        finally:
            reader.close()

    def outcome(
        self, event: Event, keep: bool = True
    ) -> "Outcome | asyncio.Task[Outcome | None] | None":
        """Return what becomes of `event`, or the task that finds out; None if it is left out.

        It is kept for those who come later where somebody else asks the same, or with `keep`.
        """
        known = self._executions.outcomes.get((self, event.cursor))
        if known is not None:
            return known
        pending = self._pending.get(event.cursor)
        if pending is not None:
            return pending
        clean = Context()
        made = clean.run(self._begin, event)
        if made is None or isinstance(made, Outcome):
            if keep or self.is_shared:
                self._remember(made)
            return made
        task = asyncio.get_running_loop().create_task(self._complete(event, made), context=clean)
        self._pending[event.cursor] = task
        return task

    async def _complete(self, event: Event, making: Awaitable[Outcome | None]) -> Outcome | None:
        try:
            outcome = await making
        finally:
            del self._pending[event.cursor]
        self._remember(outcome)
        return outcome

    def _remember(self, outcome: Outcome | None) -> None:
        # Not one with errors: whoever comes later may have better luck.
        if outcome is not None and outcome.tail is not None and not outcome.errors:
            key = (self, outcome.cursor)
            self._executions.outcomes.put(key, outcome, len(outcome.tail.data))

    def _begin(self, event: Event) -> Outcome | Awaitable[Outcome | None] | None:
        view_as_everybody()
        if self._executions.extended:
            return self._execute_with_extensions(event)
        try:
            value = self._lens.look_at(event)
            if isinstance(value, Skipped):
                return None
            result = self._render_plainly(value) or self._execute_in_fresh_context(value)
            if is_awaitable(result):
                return self._finish(event, result)
        except (Exception, asyncio.CancelledError) as error:
            result = error_result(_as_exception(error))
        return self._outcome(event, result)

    def _render_plainly(self, value: Any) -> ExecutionResult | None:
        if self._plain is None:
            return None
        try:
            return ExecutionResult(data=self._plain(value), errors=None)
        except Exception:
            # Executed as it should be, it may have a result all the same, or an error with a path.
            return None

    def _execute_in_fresh_context(self, value: Any) -> Any:
        context = self._executions.event_context(self._scope)
        if is_awaitable(context):
            return self._execute_when_there(value, context)
        return self._execute(value, context)

    async def _execute_when_there(self, value: Any, context: Awaitable[Any]) -> Any:
        result = self._execute(value, await context)
        return await result if is_awaitable(result) else result

    async def _finish(self, event: Event, making: Awaitable[Any]) -> Outcome:
        try:
            result = await making
        except (Exception, asyncio.CancelledError) as error:
            _reraise_if_cancelled()
            result = error_result(_as_exception(error))
        return self._outcome(event, result)

    async def _execute_with_extensions(self, event: Event) -> Outcome | None:
        """Let Strawberry's extensions have their say, as if each event were an operation."""
        context = _viewerless(self._asked, self._asked.variables, self._asked.operation_extensions)
        try:
            value = self._lens.look_at(event)
            if isinstance(value, Skipped):
                return None
            made = self._executions.event_context(self._scope)
            context.context = await made if is_awaitable(made) else made
            making = lambda middleware: self._execute(value, context.context, middleware)  # noqa: E731
        except (Exception, asyncio.CancelledError) as error:
            _reraise_if_cancelled()
            failure = error_result(_as_exception(error))
            making = lambda _middleware: failure  # noqa: E731
        return await self._extended(event, context, making)

    async def _extended(
        self, event: Event, context: ExecutionContext, making: Callable[[Any], Any]
    ) -> Outcome:
        extensions = self._schema.get_extensions()
        for extension in extensions:
            extension.execution_context = context
        runner = self._schema.create_extensions_runner(context, extensions)
        try:
            async with runner.operation():
                result = await self._extended_result(runner, making)
                finished = await self._schema._handle_execution_result(
                    context, result, runner, skip_process_errors=is_expected(result)
                )
                async with runner.on_stream_result(finished):
                    return self._encoded(event, finished)
        except (Exception, asyncio.CancelledError) as error:
            _reraise_if_cancelled()
            return self._outcome(event, error_result(_as_exception(error)))

    async def _extended_result(
        self, runner: SchemaExtensionsRunner, making: Callable[[Any], Any]
    ) -> ExecutionResult:
        try:
            async with runner.executing():
                made = making(self._schema._get_middleware_manager(runner.extensions))
                result = await made if is_awaitable(made) else made
        except (Exception, asyncio.CancelledError) as error:
            _reraise_if_cancelled()
            return error_result(_as_exception(error))
        if isinstance(result, ExecutionResult):
            return result
        return ExecutionResult(data=result.data, errors=result.errors)

    def _execute(self, value: Any, context: Any, middleware: Any = None) -> Any:
        # With variables it is made anew: a resolver may have changed what they hold.
        base = _executor(self._schema, self._asked) if self._asked.variables else self._executor
        executor = base.build_per_event_executor(value)
        executor.context_value = context
        executor.middleware_manager = middleware
        return executor.execute_operation(False)

    def _outcome(self, event: Event, result: Any) -> Outcome:
        """Log what is to be logged, and encode."""
        if not isinstance(result, ExecutionResult):
            result = ExecutionResult(data=result.data, errors=result.errors)
        if result.errors and not is_expected(result):
            self._schema._process_errors(result.errors, self._asked)
        return self._encoded(event, result)

    def _encoded(self, event: Event, result: ExecutionResult) -> Outcome:
        errors = result.errors or ()
        if errors and ends_the_operation(result):
            return Outcome(event.cursor, None, errors)
        result.extensions = {**(result.extensions or {}), "cursor": str(event.cursor)}
        try:
            encoded = self._executions.encode({"type": "next", "payload": payload_of(result)})
            # An application's encoder may give bytes.
            text = encoded.decode() if isinstance(encoded, bytes) else encoded
            return Outcome(event.cursor, Tail(text), errors)
        except Exception:
            logger.exception("A result can't be encoded")
            failed = error_result(NotifyError("Internal server error"))
            return Outcome(event.cursor, None, failed.errors or ())


def _as_exception(error: BaseException) -> Exception:
    if isinstance(error, Exception):
        return error
    return NotifyError("The execution was cancelled")


def _reraise_if_cancelled() -> None:
    """Go on with an exception if it comes from outside, and not from a resolver."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _scope_key(scope: Hashable) -> Hashable:
    known = fingerprint(scope)
    return (type(scope), scope) if isinstance(known, Same) else known


def _viewerless(
    context: ExecutionContext,
    variables: Mapping[str, Any] | None,
    extensions: Mapping[str, Any] | None,
) -> ExecutionContext:
    """Return what `context` asks, with nothing of the one who asks it."""
    fresh = ExecutionContext(
        query=context.query,
        schema=context.schema,
        allowed_operations=frozenset({OperationType.SUBSCRIPTION}),
        variables=_copied(variables),
        provided_operation_name=context.operation_name,
        operation_extensions=_copied(extensions),
    )
    fresh.graphql_document = context.graphql_document
    return fresh


def _executor(schema: Schema, context: ExecutionContext) -> Executor[Any]:
    assert context.graphql_document is not None
    executor = schema.execution_context_class.build(
        schema._schema,
        context.graphql_document,
        None,
        None,
        _copied(context.variables),
        context.operation_name,
        operation_extensions=_copied(context.operation_extensions),
    )
    if isinstance(executor, list):
        raise executor[0]
    built: Executor[Any] = executor
    built.collect_subfields = _SubfieldsOnce(built)  # type: ignore[method-assign, assignment]
    return built


class _SubfieldsOnce:
    """Collects the fields below a field once for all events, whose document is always the same.

    graphql-core does so once for each event, and keeps what it collected for as long as the
    executor lives, which is very long here.
    """

    def __init__(self, executor: Executor[Any]) -> None:
        self._executor = executor
        self._collected: dict[Hashable, CollectedFields] = {}

    def __call__(self, return_type: GraphQLObjectType, fields: FieldDetailsList) -> CollectedFields:
        if any(field.fragment_variable_values is not None for field in fields):
            return self._collect(return_type, fields)
        key = (return_type, *(Same(field.node) for field in fields))
        if key not in self._collected:
            self._collected[key] = self._collect(return_type, fields)
        return self._collected[key]

    def _collect(self, return_type: GraphQLObjectType, fields: FieldDetailsList) -> CollectedFields:
        executor = self._executor
        return collect_subfields(
            executor.schema,
            executor.fragments,
            executor.variable_values,
            executor.operation,
            return_type,
            fields,
            executor.hide_suggestions,
        )


def _copied(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    # A resolver may have changed what was in it for its own viewer.
    return None if values is None else dict(json.loads(_canonical(values)))


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)
