"""From one GraphQL operation to the stream of its results. The one importer of graphql-core.

Queries and mutations run as Strawberry runs them. A subscription goes through Strawberry's
extensions and hooks as well, but its source stream is created here, so that a `Subscription`
returned by a resolver is seen: it is started before the first result, and each of its results
carries the cursor of its event.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from inspect import isawaitable
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLError,
    OperationDefinitionNode,
    create_source_event_stream,
    get_operation_ast,
    map_source_to_response_event,
    parse,
)
from graphql import ExecutionResult as CoreResult
from graphql.execution import Executor
from strawberry import Schema
from strawberry.extensions.runner import SchemaExtensionsRunner
from strawberry.types import ExecutionContext, ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from gqlnotify.auth import Viewer, view_as
from gqlnotify.errors import BadUserInput, NotifyError, TokenExpired
from gqlnotify.topics import Subscription

ALL_OPERATIONS = frozenset(OperationType)
AMBIGUOUS = "The document has several operations: operationName must say which one to run"

# Each operation begins with one, but for an anonymous query, which validation keeps alone.
_OPERATION_WORD = re.compile(r"\b(?:query|mutation|subscription)\b")


@dataclass(frozen=True, slots=True)
class Operation:
    """What a client asks for, and as whom."""

    query: str | None
    operation_name: str | None = None
    variables: Mapping[str, Any] | None = None
    extensions: Mapping[str, Any] | None = None
    viewer: Viewer | None = None
    allowed: Iterable[OperationType] = ALL_OPERATIONS


async def stream(
    schema: Schema, operation: Operation, *, context: Any = None, root_value: Any = None
) -> AsyncGenerator[Any, None]:
    """Yield the results of `operation`, one for a query or a mutation.

    A `PreExecutionError` ends the operation: nothing was executed, or nothing more can be.
    To be iterated in a task of its own, which then runs as the operation's viewer.
    """
    view_as(operation.viewer)
    if is_ambiguous(operation.query, operation.operation_name):
        yield error_result(BadUserInput(AMBIGUOUS))
        return
    results = (
        _subscribe(schema, operation, context, root_value)
        if _is_subscription(operation)
        else await _strawberry_stream(schema, operation, context, root_value)
    )
    async with aclosing(results):
        async for result in results:
            yield result


def error_result(error: Exception) -> PreExecutionError:
    """Return the result that ends an operation with `error`."""
    return PreExecutionError(data=None, errors=[_graphql_error(error)])


def is_ambiguous(query: str | None, operation_name: str | None) -> bool:
    """Tell whether nothing says which of a document's operations is meant.

    "If operationName is null [...] if document contains exactly one operation, return [it];
    otherwise raise a request error" (GraphQL, section 6.1). Strawberry takes the first.
    """
    if operation_name is not None or len(_OPERATION_WORD.findall(query or "")) < 2:
        return False
    document = _parse(query or "")
    definitions = document.definitions if document is not None else ()
    return sum(isinstance(d, OperationDefinitionNode) for d in definitions) > 1


async def until_expiry(
    results: AsyncGenerator[Any, None], viewer: Viewer | None
) -> AsyncGenerator[Any, None]:
    """Yield `results` for as long as the viewer's token is valid, then the error that it expired.

    For transports without a connection that could end with the token.
    """
    expires_at = None if viewer is None else viewer.principal.expires_at
    async with aclosing(results):
        while True:
            try:
                async with asyncio.timeout(_remaining(expires_at)) as validity:
                    result = await anext(results)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not validity.expired():
                    raise
                yield error_result(TokenExpired("The token has expired"))
                return
            yield result


def _remaining(expires_at: datetime | None) -> float | None:
    return None if expires_at is None else (expires_at - datetime.now(UTC)).total_seconds()


async def _strawberry_stream(
    schema: Schema, operation: Operation, context: Any, root_value: Any
) -> AsyncGenerator[Any, None]:
    results: Any = await schema.stream(
        operation.query,
        variable_values=_variables(operation),
        context_value=context,
        root_value=root_value,
        operation_name=operation.operation_name,
        allowed_operation_types=operation.allowed,
        operation_extensions=_extensions(operation),
    )
    generator: AsyncGenerator[Any, None] = results
    return generator


async def _subscribe(
    schema: Schema, operation: Operation, context_value: Any, root_value: Any
) -> AsyncGenerator[ExecutionResult, None]:
    context = ExecutionContext(
        query=operation.query,
        schema=schema,
        allowed_operations=operation.allowed,
        context=context_value,
        root_value=root_value,
        variables=_variables(operation),
        provided_operation_name=operation.operation_name,
        operation_extensions=_extensions(operation),
    )
    extensions = schema.get_extensions()
    for extension in extensions:
        extension.execution_context = context
    runner = schema.create_extensions_runner(context, extensions)

    async with runner.operation():
        results = _subscription_results(schema, operation, context, runner)
        async with aclosing(results):
            async for result in results:
                finished = await _finish(schema, context, runner, result)
                async with runner.on_stream_result(finished):
                    yield finished


async def _subscription_results(
    schema: Schema, operation: Operation, context: ExecutionContext, runner: SchemaExtensionsRunner
) -> AsyncGenerator[ExecutionResult, None]:
    try:
        refusal = await schema._prepare_operation_async(context, runner)
        if refusal is not None:
            yield refusal
            return
        async with runner.executing():
            executor = _build_executor(schema, context, runner)
            source = await _source_stream(executor)
        if isinstance(source, CoreResult):
            yield PreExecutionError(data=None, errors=source.errors)
            return
        if isinstance(source, Subscription):
            await _begin(source, operation)
        results = _map_results(executor, source)
        async with aclosing(results):
            async for result in results:
                yield result
    except Exception as error:
        yield error_result(error)


def _build_executor(
    schema: Schema, context: ExecutionContext, runner: SchemaExtensionsRunner
) -> Executor[Any] | list[GraphQLError]:
    assert context.graphql_document is not None
    return schema.execution_context_class.build(
        schema._schema,
        context.graphql_document,
        context.root_value,
        context.context,
        context.variables,
        context.operation_name,
        middleware=schema._get_middleware_manager(runner.extensions),
        operation_extensions=context.operation_extensions,
    )


async def _source_stream(
    executor: Executor[Any] | list[GraphQLError],
) -> AsyncIterable[Any] | CoreResult:
    if isinstance(executor, list):
        return CoreResult(None, errors=executor)
    created = create_source_event_stream(executor)
    return await created if isawaitable(created) else created


async def _begin(subscription: Subscription[Any], operation: Operation) -> None:
    after = (operation.extensions or {}).get("after")
    if after is not None and not isinstance(after, str):
        raise BadUserInput("extensions.after must be a cursor, which is a string")
    if after is not None:
        subscription.resume(after)
    await subscription.start()


async def _map_results(
    executor: Any, source: AsyncIterable[Any]
) -> AsyncGenerator[ExecutionResult, None]:
    # Each event is executed before the next is taken, so the stream's cursor is the result's.
    results = map_source_to_response_event(executor, source)
    async with aclosing(results):
        async for result in results:
            extensions = (
                {"cursor": str(source.cursor)} if isinstance(source, Subscription) else None
            )
            yield ExecutionResult(data=result.data, errors=result.errors, extensions=extensions)


async def _finish(
    schema: Schema,
    context: ExecutionContext,
    runner: SchemaExtensionsRunner,
    result: ExecutionResult,
) -> ExecutionResult:
    ours = result.extensions or {}
    finished = await schema._handle_execution_result(
        context, result, runner, skip_process_errors=_is_expected(result)
    )
    if ours:
        finished.extensions = {**(finished.extensions or {}), **ours}
    return finished


def _is_expected(result: ExecutionResult) -> bool:
    # What a client did is its own affair: no traceback in the log for an expired cursor.
    return all(isinstance(e.original_error, NotifyError) for e in result.errors or ())


def _is_subscription(operation: Operation) -> bool:
    # Most queries don't hold the word, and are spared a second parsing.
    if not operation.query or "subscription" not in operation.query:
        return False
    document = _parse(operation.query)
    if document is None:
        return False
    definition = get_operation_ast(document, operation.operation_name)
    return definition is not None and definition.operation.value == "subscription"


def _parse(query: str) -> DocumentNode | None:
    try:
        return parse(query, no_location=True)
    except (GraphQLError, RecursionError):
        return None


def _graphql_error(error: Exception) -> GraphQLError:
    if isinstance(error, GraphQLError):
        return error
    if isinstance(error, NotifyError):
        return GraphQLError(error.message, extensions=error.extensions, original_error=error)
    return GraphQLError(str(error), original_error=error)


def _variables(operation: Operation) -> dict[str, Any] | None:
    return None if operation.variables is None else dict(operation.variables)


def _extensions(operation: Operation) -> dict[str, Any] | None:
    return None if operation.extensions is None else dict(operation.extensions)
