"""Runs one operation and yields its results.

Strawberry runs queries and mutations. A subscription also goes through Strawberry's extensions and
hooks, but this module creates its source stream, to detect a `Subscription` that a resolver
returns. It starts such a subscription before the first result, and shares it with identical ones
unless it is `per_viewer`.
"""

import logging
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Mapping,
)
from contextlib import AbstractContextManager, aclosing
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import Any

from graphql import ExecutionResult as CoreResult
from graphql import (
    GraphQLError,
    create_source_event_stream,
    execute_subscription_event,
    get_operation_ast,
    map_source_to_response_event,
)
from graphql import OperationType as CoreOperationType
from strawberry.exceptions import MissingQueryError
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types import ExecutionContext, ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from gqlnotify.auth import Viewer, view_as
from gqlnotify.cancellation import (
    only_own_cancellation,
    own_cancellation_or_close,
    run_within,
)
from gqlnotify.errors import (
    BadUserInput,
    CursorExpired,
    EventUnreadable,
    ExecutionCancelled,
    ExecutionTimeout,
    NotifyError,
)
from gqlnotify.execution.beginning import Position, begin, closed_on_failure, refuse_cursor
from gqlnotify.execution.documents import takes_part_in_preparation
from gqlnotify.execution.encoded_result import EncodedResult
from gqlnotify.execution.replay_budget import ReplayBudget
from gqlnotify.execution.results import (
    error_result,
    event_error,
    failed_result,
    is_expected,
    loses_a_change,
    loses_a_list,
    without_details,
)
from gqlnotify.execution.shared import Executions, Shareable
from gqlnotify.execution.strawberry_adapter import (
    Executor,
    answers,
    break_cycle,
    build_executor,
    closing_any,
    finish,
    operation_hooks,
    prepare,
)
from gqlnotify.observability import metrics, tracing
from gqlnotify.topics.live_list import LiveList
from gqlnotify.topics.local_member import LocalMember, join_as
from gqlnotify.topics.resumption import Resumption
from gqlnotify.topics.subscription import Subscription, note_unreadable

logger = logging.getLogger("gqlnotify.execution")

# How many events a filter may skip before the client is told its new position. With an old one it
# could not resume once the history has lost that event.
SKIPS = 50

ALL_OPERATIONS = frozenset(OperationType)
AMBIGUOUS = "The document has several operations: operationName must say which one to run"

_PLURALS = {
    OperationType.QUERY: "queries",
    OperationType.MUTATION: "mutations",
    OperationType.SUBSCRIPTION: "subscriptions",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a client requests, and its viewer.

    `document_id` names a persisted document. Documents that have to wait share their turns by
    `asker`. `last_cursor` is that of the client's last event, if the transport knows it. With
    `resumption`, a client that sends no cursor continues where it has got to. `present_as` is who
    is present at the topics that the operation subscribes to.
    """

    query: str | None
    operation_name: str | None = None
    variables: Mapping[str, Any] | None = None
    extensions: Mapping[str, Any] | None = None
    viewer: Viewer | None = None
    allowed: Iterable[OperationType] = ALL_OPERATIONS
    document_id: str | None = None
    asker: Hashable = None
    last_cursor: str | None = None
    resumption: Resumption | None = None
    present_as: LocalMember | None = None


async def stream(
    executions: Executions, operation: Operation, *, context: Any = None, root_value: Any = None
) -> AsyncGenerator[Any, None]:
    """Yield the results of `operation`, or a single `Shareable`.

    A query or a mutation has one result. A subscription to a topic that is not shared yields a
    `Position` before its events. A `PreExecutionError` ends the operation: nothing was executed, or
    nothing more can be. Iterate this in a separate task, because it sets the task's viewer to the
    operation's.
    """
    view_as(operation.viewer)
    join_as(operation.present_as)
    try:
        executions.limits.check_extensions(operation.extensions)
        query = await find_document(
            executions,
            operation.query,
            operation.document_id,
            operation.operation_name,
            operation.asker,
        )
    except NotifyError as error:
        yield error_result(error)
        return
    run = _Run(executions, operation, query, context, root_value)
    shareable: Shareable | None = None
    try:
        with own_cancellation_or_close():
            async with operation_hooks(run.runner), aclosing(await run.results()) as results:
                async for result in results:
                    if isinstance(result, Shareable):
                        shareable = result
                        break
                    if isinstance(result, Position):
                        yield result
                        continue
                    async with run.runner.on_stream_result(result):
                        yield result
    except BaseException:
        # The exit of an extension may fail, or wait and be cancelled.
        if shareable is not None:
            shareable.leave()
        raise
    if shareable is not None:
        yield shareable


async def find_document(
    executions: Executions,
    query: str | None,
    document_id: str | None,
    operation_name: str | None,
    asker: Hashable,
) -> str | None:
    """Return the text of the document that a client sends or names.

    Raises:
        PersistedQueryNotFound: no document has this name.
        BadUserInput: the document has several operations and none is named.
    """
    document = executions.persisted.find(query, document_id)
    if await executions.documents.is_ambiguous(document, operation_name, asker):
        raise BadUserInput(AMBIGUOUS)
    return document


async def unshared(
    results: AsyncGenerator[Any, None],
    budget: Callable[[], ReplayBudget] | None = None,
    make_part: Callable[[EncodedResult], Any] = EncodedResult.result,
) -> AsyncGenerator[Any, None]:
    """Yield the results, and what `make_part` returns for each of a `Shareable`.

    For transports without groups. It yields a `Position` before the first event, and after every
    `SKIPS` events that the subscription's filter skips.
    """
    shareable: Shareable | None = None
    try:
        async with aclosing(results):
            async for result in results:
                if isinstance(result, Shareable):
                    shareable = result
                    break
                yield result
        if shareable is not None:
            async with aclosing(_replayed(shareable, budget)) as replayed:
                async for each in replayed:
                    yield make_part(each) if isinstance(each, EncodedResult) else each
    except Exception as error:
        if not isinstance(error, NotifyError | GraphQLError):
            logger.exception("An operation failed")
        yield failed_result(error)
    finally:
        if shareable is not None:
            shareable.leave()


async def without_positions(results: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """Yield the results, but no `Position`. For transports that can't tell it."""
    async with aclosing(results):
        async for result in results:
            if not isinstance(result, Position):
                yield result


async def _replayed(
    shareable: Shareable, budget: Callable[[], ReplayBudget] | None
) -> AsyncGenerator[EncodedResult | Position, None]:
    subscriber, execution = shareable.subscriber, shareable.execution
    if not subscriber.lacks_snapshot:
        yield Position(subscriber.position)
    skipped = 0
    while True:
        while subscriber.expired and (told := await execution.told_of_gap(subscriber)):
            yield told
            if told.body is None:
                return
        try:
            event = await subscriber.next()
        except CursorExpired as expired:
            subscriber.skip_gap(expired)
            continue
        if event is None:
            return
        encoded = await execution.replay(event, budget)
        if encoded is None:
            skipped += 1
            if skipped % SKIPS == 0:
                yield Position(event.cursor)
            continue
        metrics.deliveries.inc()
        execution.count_saved()
        subscriber.note_sent()
        yield execution.marked(encoded, subscriber, event)
        if encoded.body is None:
            return


async def is_subscription(
    executions: Executions, query: str | None, operation_name: str | None, asker: Hashable
) -> bool:
    """Return whether the operation is a subscription, even in a document that is too large."""
    # A refused subscription gets its error over the same transport as an accepted one.
    document = await executions.documents.read(query or "", asker)
    found = None if document is None else get_operation_ast(document, operation_name)
    return found is not None and found.operation is CoreOperationType.SUBSCRIPTION


class _Run:
    """Runs one operation through Strawberry's extensions."""

    def __init__(
        self,
        executions: Executions,
        operation: Operation,
        query: str | None,
        context: Any,
        root_value: Any,
    ) -> None:
        self._executions = executions
        self._schema = executions.event_schema
        self._operation = operation
        self._context = ExecutionContext(
            query=query,
            schema=self._schema,
            allowed_operations=operation.allowed,
            context=context,
            root_value=root_value,
            variables=_dict(operation.variables),
            provided_operation_name=operation.operation_name,
            operation_extensions=_dict(operation.extensions),
        )
        extensions = self._schema.get_extensions()
        documents = executions.documents
        self._prepares_itself = not any(map(takes_part_in_preparation, extensions))
        if self._prepares_itself:
            documents.bound(self._context)
        else:
            extensions = documents.around(extensions, operation.asker)
        for extension in extensions:
            extension.execution_context = self._context
        self.runner = self._schema.create_extensions_runner(self._context, extensions)

    async def results(self) -> AsyncGenerator[Any, None]:
        """Prepare the operation, and return what yields the results for the client."""
        try:
            refusal = None
            if not (self._prepares_itself and await self._is_prepared()):
                with only_own_cancellation():
                    refusal = await prepare(self._schema, self._context, self.runner)
        except Exception as error:
            refusal = failed_result(_readable(error))
        if refusal is not None:
            return self._refused(refusal)
        _drop_undeclared(self._context)
        return self._answers() if self._is_answered_once() else self._events()

    async def _refused(self, refusal: ExecutionResult) -> AsyncGenerator[Any, None]:
        yield await self._finish(refusal)

    async def _is_prepared(self) -> bool:
        """Parse and validate. Return whether Strawberry would do and find nothing more.

        This does the same as `ValidateDocuments` and `ProvideDocuments`, in fewer steps.
        """
        context, documents = self._context, self._executions.documents
        await documents.provide(context, self._operation.asker)
        await documents.validate(context, self._operation.asker)
        if context.graphql_document is None or context.pre_execution_errors:
            return False
        operation = get_operation_ast(context.graphql_document, context.operation_name)
        return operation is not None and context.operation_type in self._operation.allowed

    def _is_answered_once(self) -> bool:
        return self._context.operation_type is not OperationType.SUBSCRIPTION

    async def _answers(self) -> AsyncGenerator[Any, None]:
        results = answers(self._schema, self._context, self.runner)
        async with aclosing(results):
            try:
                with only_own_cancellation(), self._span():
                    result = await anext(results, None)
            except ExecutionCancelled as error:
                result = await self._finish(error_result(error))
            while result is not None:
                yield without_details(result)
                result = await anext(results, None)

    async def _events(self) -> AsyncGenerator[Any, None]:
        unreadable = note_unreadable()
        try:
            executor, source = await self._create_source()
        except Exception as error:
            yield await self._finish(failed_result(error))
            return
        try:
            if isinstance(source, CoreResult):
                yield await self._finish(PreExecutionError(data=None, errors=source.errors))
                return
            if isinstance(source, Subscription):
                with closed_on_failure(source):
                    asked = self._operation
                    expired = await begin(
                        source, asked.extensions, asked.last_cursor, asked.resumption
                    )
                    if expired is not None:
                        yield await self._finish(_expired_result(executor, expired, source))
                    shareable = self._share(source)
                    if shareable is None and not source.subscriber.lacks_snapshot:
                        yield Position(source.subscriber.position)
                if shareable is not None:
                    yield shareable
                    return
            else:
                await refuse_cursor(source, self._operation.extensions)
                source = _telling_of(unreadable, source)
            results = _map_results(executor, source, self._executions.execution_timeout)
            async with aclosing(results):
                with own_cancellation_or_close():
                    async for result in results:
                        yield await self._finish(result)
        except Exception as error:
            yield await self._finish(error_result(error))
        finally:
            if isinstance(executor, Executor):
                break_cycle(executor)

    async def _create_source(self) -> tuple[Any, AsyncIterable[Any] | CoreResult]:
        with only_own_cancellation(), self._span():
            async with self.runner.executing():
                executor = self._build_executor()
                return executor, await _source_stream(executor)
        raise RuntimeError("A schema extension suppressed an exception")

    def _span(self) -> AbstractContextManager[None]:
        asked = self._context
        type_ = asked.operation_type.value
        return tracing.span(
            type_, lambda: tracing.operation(asked.query, asked.operation_name, type_)
        )

    def _share(self, source: Subscription[Any]) -> Shareable | None:
        if source.per_viewer:
            return None
        execution = self._executions.share(self._context, source)
        if execution is None:
            return None
        return Shareable(execution, source.subscriber, source.membership)

    def _build_executor(self) -> Executor[Any] | list[GraphQLError]:
        return build_executor(
            self._schema,
            self._context,
            variables=self._context.variables,
            extensions=self._context.operation_extensions,
            runner=self.runner,
        )

    async def _finish(self, result: ExecutionResult) -> ExecutionResult:
        ours = result.extensions or {}
        finished = await finish(
            self._schema, self._context, result, self.runner, quiet=is_expected(result)
        )
        if ours:
            finished.extensions = {**(finished.extensions or {}), **ours}
        return finished


def _readable(error: Exception) -> Exception:
    if isinstance(error, CannotGetOperationTypeError):
        return BadUserInput(error.as_http_error_reason())
    if isinstance(error, InvalidOperationTypeError):
        return BadUserInput(f"{_PLURALS[error.operation_type]} are not allowed")
    if isinstance(error, MissingQueryError):
        return BadUserInput(str(error))
    return error


def _drop_undeclared(context: ExecutionContext) -> None:
    """Remove the variables that the operation does not declare.

    They are removed in place, because the caller holds the same dict while the operation runs, and
    parsed JSON takes up to 26 times the bytes that were sent.
    """
    assert context.graphql_document is not None
    operation = get_operation_ast(context.graphql_document, context.operation_name)
    if not context.variables or operation is None:
        return
    declared = {node.variable.name.value for node in operation.variable_definitions or ()}
    for name in context.variables.keys() - declared:
        del context.variables[name]


async def _source_stream(
    executor: Executor[Any] | list[GraphQLError],
) -> AsyncIterable[Any] | CoreResult:
    if isinstance(executor, list):
        return CoreResult(None, errors=executor)
    created = create_source_event_stream(executor)
    return await created if isawaitable(created) else created


def _expired_result(
    executor: Any, expired: CursorExpired, source: Subscription[Any]
) -> ExecutionResult:
    """Return the result that tells of a gap. The operation goes on.

    Its client did not ask for a cursor itself, and could not handle the end of the operation.
    """
    metrics.refused(expired.code)
    result = event_error(executor, expired)
    result.extensions = {"cursor": str(source.subscriber.position)}
    return result


async def _telling_of(
    unreadable: deque[EventUnreadable], source: AsyncIterable[Any]
) -> AsyncGenerator[Any, None]:
    """Yield the values of an application's generator, and the errors for unreadable events.

    The errors of the events that the generator skipped come before its next value. Executing such
    an exception in place of a value gives an error result.
    """
    failure: Exception | None = None
    async with closing_any(aiter(source)) as values:
        try:
            async for value in values:
                while unreadable:
                    yield unreadable.popleft()
                yield value
        except Exception as error:
            failure = error
    while unreadable:
        yield unreadable.popleft()
    if failure is not None:
        raise failure


async def _map_results(
    executor: Any, source: AsyncIterable[Any], timeout: float
) -> AsyncGenerator[ExecutionResult, None]:
    # No timeout for an application's own generator: it has none without this library either.
    seconds = timeout if isinstance(source, Subscription) else None
    # Each event is executed before the next is taken, so the stream's cursor belongs to the result.
    if isinstance(source, Subscription):
        source.yields_errors = True
    if isinstance(source, LiveList):
        source.load_seconds = timeout
    results = map_source_to_response_event(executor, source, partial(_execute_event, seconds))
    async with aclosing(results):
        async for result in results:
            metrics.executions.inc()
            metrics.deliveries.inc()
            if isinstance(source, LiveList) and _loses_rows(result, source):
                source.load_again()
            extensions = _place_of(source) if isinstance(source, Subscription) else None
            yield ExecutionResult(data=result.data, errors=result.errors, extensions=extensions)


def _loses_rows(result: CoreResult, source: LiveList[Any]) -> bool:
    loses = loses_a_list if source.subscriber.is_at_snapshot else loses_a_change
    return any(loses(result.data, error.path) for error in result.errors or ())


async def _execute_event(seconds: float | None, executor: Executor[Any]) -> Any:
    try:
        with only_own_cancellation():
            result = execute_subscription_event(executor)
            if not isawaitable(result):
                return result
            if seconds is None:
                return await result
            return await run_within(
                seconds, _awaited(result), partial(_failed_to_end, executor), copy_context()
            )
    except ExecutionCancelled as error:
        return event_error(executor, error)


async def _awaited(result: Awaitable[Any]) -> Any:
    with only_own_cancellation():
        return await result


def _failed_to_end(
    executor: Executor[Any], error: ExecutionTimeout | ExecutionCancelled
) -> ExecutionResult:
    logger.error("The execution of an event did not end: %s", error.message)
    return event_error(executor, error)


def _place_of(source: Subscription[Any]) -> dict[str, Any]:
    # An error has none if the client has to get the same again.
    place: dict[str, Any] = {} if source.cursor is None else {"cursor": str(source.cursor)}
    if source.conflated:
        place["conflated"] = source.conflated
    if source.redelivered:
        place["redelivered"] = True
    return place


def _dict(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return values if values is None or isinstance(values, dict) else dict(values)
