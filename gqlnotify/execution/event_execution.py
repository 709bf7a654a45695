"""Executes one event for identical subscriptions, without a viewer, and encodes the result."""

import json
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from dataclasses import dataclass
from typing import Any

from graphql import GraphQLError
from strawberry import Schema
from strawberry.extensions import SchemaExtension
from strawberry.types import ExecutionContext, ExecutionResult
from strawberry.types.graphql import OperationType

from gqlnotify.auth import view_as_everybody
from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.errors import InternalError, NoViewer
from gqlnotify.event import Event
from gqlnotify.execution.documents import has_extensions
from gqlnotify.execution.encoded_result import EncodedResult
from gqlnotify.execution.resolver_times import ResolverTimes
from gqlnotify.execution.results import (
    ends_the_operation,
    error_result,
    event_error,
    is_expected,
    payload_of,
    unencodable,
)
from gqlnotify.execution.selections import Selections
from gqlnotify.execution.strawberry_adapter import (
    Executor,
    SchemaExtensionsRunner,
    act_on_errors_only,
    build_executor,
    execute_event,
    finish,
    is_awaitable,
    keep_subfields,
    log_errors,
    may_wait,
    needs_no_extensions,
    wraps_resolvers,
)
from gqlnotify.execution.task_on_demand import TaskOnDemand, begin
from gqlnotify.protocol.frames import SharedBody
from gqlnotify.topics.conflation import Skipped
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.projection import Projection
from gqlnotify.topics.subscriber import NOWHERE

logger = logging.getLogger("gqlnotify.execution")

Encode = Callable[[object], str | bytes]
"""Turns a message into JSON."""

MakeContext = Callable[[Any], Any]
"""A hook: given the scope, it makes the context of one event's shared execution.

It returns the context, an awaitable of it, or a context manager that holds it for the event.
"""


class EventContext:
    """The default context of a shared execution. It has only the scope."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NoViewer(f"context.{name}")

    def __getitem__(self, key: object) -> Any:
        raise NoViewer(f"context[{key!r}]")


@dataclass(frozen=True, slots=True)
class SharedRequest:
    """What identical subscriptions request, without anything of a single subscriber."""

    schema: Schema
    context: ExecutionContext
    topics: TopicManager
    projection: Projection
    scope: Hashable
    event_context: MakeContext
    encode: Encode
    selections: Selections
    selected: Hashable
    """The key of what is selected, for `Selections.of`."""


@dataclass(slots=True)
class _Extended:
    """One event, the extensions that run around it, and the task that they may need."""

    event: Event
    context: ExecutionContext
    extensions: list[SchemaExtension]
    task: TaskOnDemand


class EventExecution:
    """Executes the events of a shared request.

    Raises:
        GraphQLError: the variables can't be coerced.
    """

    def __init__(self, request: SharedRequest) -> None:
        self._request = request
        self._schema = request.schema
        self.resolver_times = ResolverTimes()
        self._executor = _executor(request.schema, request.context)
        assert request.context.graphql_document is not None
        self._selection = request.selections.of(
            request.selected, request.context.graphql_document, self._executor
        )
        self._takes_all_events = request.projection.where is None

    @property
    def _extended(self) -> bool:
        # Asked for each event: an application may change its schema's extensions at any time.
        return has_extensions(self._schema)

    def known(self, event: Event) -> EncodedResult | None:
        """Return the encoded result of `event` if another execution of the selection has made it.

        The selection's key contains what maps events to values. So if there is no filter and no
        extension, `event` need not even be decoded.
        """
        if self._selection is None or not self._selection.is_shared or not self._takes_all_events:
            return None
        if self._extended and not needs_no_extensions(self._schema):
            return None
        return self._selection.known(event)

    def begin(
        self, event: Event
    ) -> EncodedResult | Coroutine[Any, Any, EncodedResult | None] | None:
        """Return the encoded result of `event` or a coroutine for it; None if it is filtered out.

        Call it in a clean `contextvars` context that is used for this event only.
        """
        view_as_everybody()
        if not self._extended or needs_no_extensions(self._schema):
            return self._begin_alone(event)
        try:
            with only_own_cancellation():
                extensions = self._schema.get_extensions()
                idle = act_on_errors_only(self._schema, extensions)
        except Exception as error:
            return self.failed(event, error)
        if idle:
            return self._begin_alone(event)
        run = self._run(event, extensions)
        return begin(self._guarded(event, self._execute_with_extensions(run)))

    async def execute(self, event: Event, value: Any) -> EncodedResult:
        """Return the encoded result of `value`, which is not the payload of `event`.

        Call it in a context as `begin`.
        """
        extensions = self._schema.get_extensions() if self._extended else []
        if self._extended and not act_on_errors_only(self._schema, extensions):
            return await self._execute_among(self._run(event, extensions), value)
        plain = self._render_plainly(value)
        made = self._begin_value(event, value) if plain is None else self._conclude(event, plain)
        return made if isinstance(made, EncodedResult) else await made

    def _begin_alone(
        self, event: Event
    ) -> EncodedResult | Coroutine[Any, Any, EncodedResult | None] | None:
        """Do what `begin` does, without extensions."""
        try:
            with only_own_cancellation():
                value = self._request.projection.apply(event)
        except Exception as error:
            return self._conclude(event, error_result(error))
        if isinstance(value, Skipped):
            return None
        plain = self._known_or_rendered(event, value)
        if plain is not None:
            return plain
        return self._begin_value(event, value)

    def _begin_value(
        self, event: Event, value: Any
    ) -> EncodedResult | Coroutine[Any, Any, EncodedResult]:
        try:
            with only_own_cancellation():
                result = self._execute_in_fresh_context(value)
        except Exception as error:
            result = event_error(self._executor, error)
        if is_awaitable(result):
            return self._finish(event, result)
        return self._conclude(event, result)

    def _run(self, event: Event, extensions: list[SchemaExtension]) -> _Extended:
        request = self._request.context
        context = viewerless(request, request.variables, request.operation_extensions)
        return _Extended(event, context, extensions, TaskOnDemand())

    def failed(self, event: Event, error: Exception) -> EncodedResult:
        """Return the encoded result of an event whose execution failed as a whole."""
        return self._encode_and_log(event, event_error(self._executor, error))

    def refused(self, event: Event, error: Exception) -> EncodedResult:
        """Return what ends the operation with `error`."""
        return self._conclude(event, error_result(error))

    def failed_to_end(self, event: Event, error: Exception) -> EncodedResult:
        """Return the encoded result of an event whose execution timed out or was cancelled."""
        logger.error("Event %s of %s got no result: %s", event.cursor, event.topic, error)
        return self.failed(event, error)

    def _known_or_rendered(self, event: Event, value: Any) -> EncodedResult | None:
        """Return the encoded result of a plain selection; None if `value` has to be executed."""
        if self._selection is None:
            return None
        known = self._selection.known(event)
        if known is not None:
            return known
        result = self._render_plainly(value)
        if result is None:
            return None
        encoded = self._conclude(event, result)
        self._selection.remember(encoded)
        return encoded

    def _render_plainly(self, value: Any) -> ExecutionResult | None:
        if self._selection is None or isinstance(value, Exception):
            return None
        try:
            return ExecutionResult(data=self._selection.render(value), errors=None)
        except Exception:
            # The full execution may still have a result, or an error with a path.
            return None

    def _execute_in_fresh_context(self, value: Any) -> Any:
        made = self._request.event_context(self._request.scope)
        if is_awaitable(made) or _is_context_manager(made):
            return self._execute_in_entered_context(value, made)
        return self._execute(value, made)

    async def _execute_in_entered_context(self, value: Any, made: Any) -> Any:
        async with _entered(made) as context:
            with only_own_cancellation():
                result = self._execute(value, context)
                return await result if is_awaitable(result) else result
        raise RuntimeError("The context manager of event_context suppressed an exception")

    async def _guarded(
        self, event: Event, making: Coroutine[Any, Any, EncodedResult | None]
    ) -> EncodedResult | None:
        try:
            with only_own_cancellation():
                return await making
        except Exception as error:
            return self.failed(event, error)

    async def _finish(self, event: Event, making: Awaitable[Any]) -> EncodedResult:
        try:
            with only_own_cancellation():
                result = await making
        except Exception as error:
            result = event_error(self._executor, error)
        return self._conclude(event, result)

    async def _execute_with_extensions(self, run: _Extended) -> EncodedResult | None:
        """Run Strawberry's extensions around the event, as if it were an operation."""
        try:
            with only_own_cancellation():
                value = self._request.projection.apply(run.event)
        except Exception as error:
            return await self._among_extensions(run, error_result(error))
        if isinstance(value, Skipped):
            return None
        return await self._execute_among(run, value)

    async def _execute_among(self, run: _Extended, value: Any) -> EncodedResult:
        async with AsyncExitStack() as stack:
            try:
                with only_own_cancellation():
                    made = self._request.event_context(self._request.scope)
                    if is_awaitable(made) or isinstance(made, AbstractAsyncContextManager):
                        await run.task
                    run.context.context = await stack.enter_async_context(_entered(made))
            except Exception as error:
                value = event_error(self._executor, error)
            return await self._among_extensions(run, value)

    async def _among_extensions(self, run: _Extended, value: Any) -> EncodedResult:
        if may_wait(self._schema, run.extensions):
            await run.task
        for extension in run.extensions:
            extension.execution_context = run.context
        runner = self._schema.create_extensions_runner(run.context, run.extensions)
        async with runner.operation():
            result = await self._result_among_extensions(run, runner, value)
            finished = await finish(
                self._schema, run.context, result, runner, quiet=is_expected(result)
            )
            async with runner.on_stream_result(finished):
                return self._encoded(run.event, finished)
        raise RuntimeError("A schema extension suppressed an exception")

    async def _result_among_extensions(
        self, run: _Extended, runner: SchemaExtensionsRunner, value: Any
    ) -> ExecutionResult:
        if isinstance(value, ExecutionResult):
            return value
        try:
            with only_own_cancellation():
                async with runner.executing():
                    result = self._execute_among_resolvers(run.context, runner, value)
                    if is_awaitable(result):
                        await run.task
                        result = await result
        except Exception as error:
            return event_error(self._executor, error)
        return ExecutionResult(data=result.data, errors=result.errors)

    def _execute_among_resolvers(
        self, context: ExecutionContext, runner: SchemaExtensionsRunner, value: Any
    ) -> Any:
        plain = None if wraps_resolvers(runner) else self._render_plainly(value)
        return plain or self._execute(value, context.context, runner)

    def _execute(
        self, value: Any, context: Any, runner: SchemaExtensionsRunner | None = None
    ) -> Any:
        # Build it again if there are variables: a resolver may have changed their values.
        request = self._request.context
        base = _executor(self._schema, request) if request.variables else self._executor
        return execute_event(base, value, context, self._schema, runner, self.resolver_times.timing)

    def _conclude(self, event: Event, result: Any) -> EncodedResult:
        """Encode the result, after the extensions that act on errors."""
        if not isinstance(result, ExecutionResult):
            result = ExecutionResult(data=result.data, errors=result.errors)
        if not result.errors or not self._extended:
            return self._encode_and_log(event, result)
        try:
            run = self._run(event, self._schema.get_extensions())
            encoded = begin(self._among_extensions(run, result))
        except Exception as error:
            return self.failed(event, error)
        assert isinstance(encoded, EncodedResult), "These extensions have plain hooks"
        return encoded

    def _encode_and_log(self, event: Event, result: ExecutionResult) -> EncodedResult:
        if result.errors and not is_expected(result):
            self._log_errors(result.errors)
        return self._encoded(event, result)

    def _log_errors(self, errors: Sequence[GraphQLError]) -> None:
        try:
            with only_own_cancellation():
                log_errors(self._schema, errors, self._request.context)
        except Exception:
            logger.exception("The schema's `process_errors` failed")

    def _encoded(self, event: Event, result: ExecutionResult) -> EncodedResult:
        errors = result.errors or ()
        if errors and ends_the_operation(result):
            return EncodedResult(event.cursor, None, errors)
        result.extensions = {**(result.extensions or {}), "cursor": str(event.cursor)}
        try:
            body = self._next(result)
        except Exception:
            logger.exception("A result can't be encoded")
            result = unencodable(result)
            body, errors = self._next(result), result.errors or ()
        return EncodedResult(event.cursor, body, errors)

    def marked(self, encoded: EncodedResult, left_out: int, *, redelivered: bool) -> EncodedResult:
        """Return `encoded` with what only this subscriber has to know about it.

        `left_out` events were dropped before it, and the client may have received it before.
        """
        if encoded.body is None or not (left_out or redelivered):
            return encoded
        if left_out:
            # This encodes the message again, but only slow subscribers need it.
            return self._with(encoded, left_out, redelivered)
        if encoded.redelivered is None:
            # After a restart many clients need the same one.
            encoded.redelivered = self._with(encoded, 0, redelivered)
        return encoded.redelivered

    def _with(self, encoded: EncodedResult, left_out: int, redelivered: bool) -> EncodedResult:
        assert encoded.body is not None
        message = encoded.body.message()
        extensions = message["payload"]["extensions"]
        if left_out:
            extensions["conflated"] = left_out
        if redelivered:
            extensions["redelivered"] = True
        return EncodedResult(encoded.cursor, self._body(message), encoded.errors)

    def without_cursor(self, encoded: EncodedResult) -> EncodedResult:
        """Return `encoded` without a cursor, so that its client does not resume after it."""
        if encoded.body is None:
            return encoded
        message = encoded.body.message()
        del message["payload"]["extensions"]["cursor"]
        return EncodedResult(NOWHERE, self._body(message), encoded.errors)

    def _next(self, result: ExecutionResult) -> SharedBody:
        return self._body({"type": "next", "payload": payload_of(result)})

    def _body(self, message: Mapping[str, Any]) -> SharedBody:
        encoded = self._request.encode(message)
        # An application's encoder may return bytes.
        return SharedBody(encoded.decode() if isinstance(encoded, bytes) else encoded)


def _is_context_manager(made: Any) -> bool:
    return isinstance(made, AbstractAsyncContextManager | AbstractContextManager)


@asynccontextmanager
async def _entered(made: Any) -> AsyncIterator[Any]:
    """Enter what `event_context` returned for one event, and exit it afterwards."""
    # A pooled connection can be awaitable and a context manager. Only the latter releases it.
    if is_awaitable(made) and not _is_context_manager(made):
        made = await made
    finished = False
    try:
        async with AsyncExitStack() as stack:
            yield await _enter(stack, made)
            finished = True
    except Exception as error:
        if not finished:
            raise
        raise InternalError("A context of event_context could not be released") from error


async def _enter(stack: AsyncExitStack, made: Any) -> Any:
    if isinstance(made, AbstractAsyncContextManager):
        return await stack.enter_async_context(made)
    if isinstance(made, AbstractContextManager):
        return stack.enter_context(made)
    return made


def viewerless(
    context: ExecutionContext,
    variables: Mapping[str, Any] | None,
    extensions: Mapping[str, Any] | None,
) -> ExecutionContext:
    """Return a copy of `context` without the viewer's context and root value."""
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
    executor = build_executor(
        schema,
        context,
        variables=_copied(context.variables),
        extensions=_copied(context.operation_extensions),
    )
    if isinstance(executor, list):
        raise executor[0]
    keep_subfields(executor)
    return executor


def _copied(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    # A deep copy, because a viewer's resolver may change the values that it gets.
    return None if values is None else dict(json.loads(canonical(values)))


def canonical(values: Mapping[str, Any]) -> str:
    """Return `values` as JSON with sorted keys.

    Raises:
        TypeError: they can't be encoded as JSON.
        ValueError: they contain themselves.
    """
    return json.dumps(values, sort_keys=True)
