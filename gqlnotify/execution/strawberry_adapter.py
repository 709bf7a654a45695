"""The only module that uses private parts of Strawberry and graphql-core.

Other modules use the documented parts directly. This module wraps the undocumented parts, and
checks at import that they exist.
"""

import logging
from asyncio import iscoroutinefunction
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import lru_cache
from inspect import isasyncgenfunction
from typing import Any

from graphql import ExecutionResult as CoreResult
from graphql import GraphQLError, GraphQLObjectType, GraphQLSchema, MiddlewareManager
from graphql.execution import Executor, async_iterables
from graphql.execution.collect_fields import (
    CollectedFields,
    FieldDetailsList,
    GroupedFieldSet,
    collect_fields,
)
from graphql.execution.collect_fields import collect_subfields as core_collect_subfields
from graphql.language.ast import QUERY_DOCUMENT_KEYS
from graphql.pyutils import is_awaitable
from graphql.validation.validate import ValidationAbortedError
from strawberry import Schema
from strawberry.extensions import (
    AddValidationRules,
    MaskErrors,
    MaxTokensLimiter,
    SchemaExtension,
)
from strawberry.extensions.runner import SchemaExtensionsRunner
from strawberry.fastapi import GraphQLRouter
from strawberry.http.streaming import HTTPStreamTransport
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule
from strawberry.types import ExecutionContext, ExecutionResult
from strawberry.types.execution import PreExecutionError

from gqlnotify.execution.fingerprint import Same
from gqlnotify.frameworks import missing, require, warn_of_fallback

__all__ = [
    "QUERY_DOCUMENT_KEYS",
    "RULES",
    "Executor",
    "FieldDetailsList",
    "GroupedFieldSet",
    "SchemaExtensionsRunner",
    "ValidationAbortedError",
    "act_on_errors_only",
    "answers",
    "break_cycle",
    "build_executor",
    "closing_any",
    "collect_root_fields",
    "collect_subfields",
    "core_schema",
    "execute_event",
    "executes_as_usual",
    "finish",
    "is_awaitable",
    "is_default_resolver",
    "keep_subfields",
    "log_errors",
    "may_wait",
    "needs_no_extensions",
    "operation_hooks",
    "prepare",
    "root_type",
    "stream_transport",
    "stream_transports",
    "wraps_resolvers",
]

RULES = (MaybeNullValidationRule, OneOfInputValidationRule)
"""The rules that Strawberry always adds to the validation."""

# Closes any source. The standard library's `aclosing` fails if there is no `aclose`.
closing_any = async_iterables.aclosing

_PREPARATIONS = ("_prepare_operation_async", "_stream_non_subscription", "_handle_execution_result")
# The router overrides the last one. If Strawberry renamed it, the override would have no effect.
_OF_A_VIEW = ("_stream_transport_map", "_get_stream_transport_from_headers")
_OF_AN_EXECUTOR = ("build", "build_per_event_executor", "execute_operation", "collect_subfields")
_HOOKS_OF_AN_EVENT = ("on_operation", "on_execute", "on_stream_result")
_OF_EACH_RESULT = ("resolve", "get_results")
_RUNNER = "create_extensions_runner"
# What `MaskErrors` calls for each result, and what does nothing if the result has no errors.
_OF_MASK_ERRORS = ("_process_result", "_process_stream_result")
# These hooks only look at errors, or change how documents are parsed and validated.
_IDLE_HOOKS = {
    getattr(extension, name)
    for extension in (SchemaExtension, MaskErrors, AddValidationRules, MaxTokensLimiter)
    for name in _HOOKS_OF_AN_EVENT
}
_IDLE_AROUND_RESULTS: set[Any] = {SchemaExtension.on_operation}
# Without a hook for each result, `MaskErrors` masks the errors at the end of the operation.
if MaskErrors.on_stream_result is not SchemaExtension.on_stream_result:
    _IDLE_AROUND_RESULTS.add(MaskErrors.on_operation)
_STATE = ("schema", "fragments", "variable_values", "operation", "hide_suggestions")
_PER_EVENT = ("context_value", "middleware_manager")
_PACKAGES_OF_AN_EXECUTOR = {"builtins", "gqlnotify", "graphql", "strawberry", "typing"}

require(
    "strawberry-graphql",
    [
        *missing(Schema, "_schema", "_get_middleware_manager", "_process_errors", *_PREPARATIONS),
        *missing(GraphQLRouter, *_OF_A_VIEW),
        *missing(SchemaExtension, "get_results", "resolve", *_HOOKS_OF_AN_EVENT),
    ],
)
require("graphql-core", missing(Executor, *_OF_AN_EXECUTOR, *_STATE, *_PER_EVENT))

try:
    from strawberry.resolvers import is_default_resolver
except ImportError:
    warn_of_fallback(
        logging.getLogger("gqlnotify.execution"),
        "strawberry-graphql",
        ("resolvers.is_default_resolver",),
        "graphql-core executes each event, which costs ten times as much for plain ones",
    )

    def is_default_resolver(func: Callable[..., Any]) -> bool:  # noqa: ARG001
        """Return False: without Strawberry's function, a default resolver can't be recognised."""
        return False


def core_schema(schema: Schema) -> GraphQLSchema:
    """Return the graphql-core schema that Strawberry's schema wraps."""
    return schema._schema


def prepare(
    schema: Schema, context: ExecutionContext, runner: SchemaExtensionsRunner
) -> Awaitable[PreExecutionError | None]:
    """Parse and validate within the extensions. Return the error that prevents an execution."""
    return schema._prepare_operation_async(context, runner)


def answers(
    schema: Schema, context: ExecutionContext, runner: SchemaExtensionsRunner
) -> AsyncGenerator[Any, None]:
    """Execute a prepared query or mutation. Yield one result, or the parts of one."""
    results: Any = schema._stream_non_subscription(
        context,
        runner,
        schema._get_middleware_manager(runner.extensions),
        context.operation_extensions,
    )
    made: AsyncGenerator[Any, None] = results
    return made


def finish(
    schema: Schema,
    context: ExecutionContext,
    result: ExecutionResult,
    runner: SchemaExtensionsRunner,
    *,
    quiet: bool,
) -> Awaitable[ExecutionResult]:
    """Add the extensions' data to `result`, and log its errors unless `quiet`."""
    return schema._handle_execution_result(context, result, runner, skip_process_errors=quiet)


def may_wait(schema: Schema, extensions: Sequence[SchemaExtension]) -> bool:
    """Return whether the hooks that run for an event may wait for something.

    A hook that is a plain function or a generator can't wait.
    """
    if not _is_own(schema, _RUNNER, Schema):
        return True
    return any(_has_async_hooks(extension) for extension in extensions)


def _has_async_hooks(extension: SchemaExtension) -> bool:
    # `get_results` may return an awaitable without being a coroutine function.
    if not _is_own(extension, "get_results", SchemaExtension):
        return True
    hooks = [getattr(type(extension), name) for name in _HOOKS_OF_AN_EVENT]
    return any(isasyncgenfunction(hook) or iscoroutinefunction(hook) for hook in hooks)


def act_on_errors_only(schema: Schema, extensions: Sequence[SchemaExtension]) -> bool:
    """Return whether no extension has anything to do for an event's result without errors."""
    if not _is_own(schema, _RUNNER, Schema):
        return False
    return all(_acts_on_errors_only(extension) for extension in extensions)


def needs_no_extensions(schema: Schema) -> bool:
    """Return whether `act_on_errors_only` holds for `schema`, without creating its extensions.

    False if a function creates them: it may return another extension for each event.
    """
    if not (_is_own(schema, "get_extensions", Schema) and _is_own(schema, _RUNNER, Schema)):
        return False
    kinds = tuple(schema.extensions)
    if schema.directives or not all(isinstance(kind, type) for kind in kinds):
        return False
    try:
        return _idle(kinds)
    except Exception:
        # A constructor has failed. If it fails for the event too, that is the event's error.
        return False


@lru_cache
def _idle(kinds: tuple[type[SchemaExtension], ...]) -> bool:
    return all(_acts_on_errors_only(kind()) for kind in kinds)


def _acts_on_errors_only(extension: SchemaExtension) -> bool:
    if not all(_is_own(extension, name, SchemaExtension) for name in _OF_EACH_RESULT):
        return False
    if isinstance(extension, MaskErrors) and not all(
        _is_own(extension, name, MaskErrors) for name in _OF_MASK_ERRORS
    ):
        return False
    hooks = (getattr(type(extension), name) for name in _HOOKS_OF_AN_EVENT)
    return all(hook in _IDLE_HOOKS for hook in hooks)


def _is_own(of: object, name: str, base: type) -> bool:
    """Return whether neither a derived class nor the object itself overrides a method of `base`."""
    method = getattr(base, name, None)
    return method is not None and getattr(getattr(of, name), "__func__", None) is method


def operation_hooks(runner: SchemaExtensionsRunner) -> AbstractAsyncContextManager[None]:
    """Return what to run around an operation each of whose results gets `on_stream_result`.

    It is nothing for `MaskErrors`, which has masked all errors by then. Its hook takes 2 % of the
    time of a connection that subscribes.
    """
    idle = type(runner) is SchemaExtensionsRunner and all(
        type(extension).on_operation in _IDLE_AROUND_RESULTS for extension in runner.extensions
    )
    return nullcontext() if idle else runner.operation()


def wraps_resolvers(runner: SchemaExtensionsRunner) -> bool:
    """Return whether an extension has to be called for each field."""
    return any(
        type(extension).resolve is not SchemaExtension.resolve for extension in runner.extensions
    )


def log_errors(
    schema: Schema, errors: Sequence[GraphQLError], context: ExecutionContext | None
) -> None:
    """Log errors as the schema does."""
    schema._process_errors([*errors], context)


def build_executor(
    schema: Schema,
    context: ExecutionContext,
    *,
    variables: dict[str, Any] | None,
    extensions: dict[str, Any] | None,
    runner: SchemaExtensionsRunner | None = None,
) -> Executor[Any] | list[GraphQLError]:
    """Return the executor of a prepared operation, or the errors in its variables.

    Without a `runner`, the executor is shared: it gets no context and no root value.
    """
    assert context.graphql_document is not None
    shared = runner is None
    built: Executor[Any] | list[GraphQLError] = schema.execution_context_class.build(
        schema._schema,
        context.graphql_document,
        None if shared else context.root_value,
        None if shared else context.context,
        variables,
        context.operation_name,
        middleware=None if runner is None else schema._get_middleware_manager(runner.extensions),
        operation_extensions=extensions,
    )
    return built


def break_cycle(executor: Executor[Any]) -> None:
    """Let `executor`, which has nothing left to do, be freed without the garbage collector.

    It refers to its own bound methods. With that, each subscription left some twenty objects to the
    collector, and some twenty more for each event.
    """
    vars(executor).pop("async_helpers", None)


def execute_event(
    executor: Executor[Any],
    value: Any,
    context: Any,
    schema: Schema,
    runner: SchemaExtensionsRunner | None,
    timing: MiddlewareManager | None = None,
) -> Any:
    """Execute the operation for one event; return the result, or an awaitable of it.

    `timing` wraps the resolvers if no extension does.
    """
    once = executor.build_per_event_executor(value)
    once.context_value = context
    if runner is not None:
        once.middleware_manager = schema._get_middleware_manager(runner.extensions)
    once.middleware_manager = once.middleware_manager or timing
    result = once.execute_operation(False)
    # After an error, resolvers of other fields may still run and execute the fields below them.
    if isinstance(result, CoreResult) and not result.errors:
        break_cycle(once)
    return result


def executes_as_usual(executor: Executor[Any]) -> bool:
    """Return whether its class is not one that an application has derived.

    An application may pass such a class to its schema, as `execution_context_class`.
    """
    packages = {kind.__module__.partition(".")[0] for kind in type(executor).__mro__}
    return packages <= _PACKAGES_OF_AN_EXECUTOR


def root_type(executor: Executor[Any]) -> GraphQLObjectType:
    """Return the type that the operation selects from."""
    root = executor.schema.get_root_type(executor.operation.operation)
    assert root is not None
    return root


def collect_root_fields(executor: Executor[Any]) -> GroupedFieldSet:
    """Return the operation's root fields by their response names."""
    return collect_fields(
        executor.schema,
        executor.fragments,
        executor.variable_values,
        root_type(executor),
        executor.operation,
        executor.hide_suggestions,
    ).grouped_field_set


def collect_subfields(
    executor: Executor[Any], return_type: GraphQLObjectType, fields: FieldDetailsList
) -> CollectedFields:
    """Return the fields below `fields` by their response names."""
    return core_collect_subfields(
        executor.schema,
        executor.fragments,
        executor.variable_values,
        executor.operation,
        return_type,
        fields,
        executor.hide_suggestions,
    )


def keep_subfields(executor: Executor[Any]) -> None:
    """Make `executor` collect the subfields of a field once for all events.

    graphql-core collects them for each event, and keeps each collection as long as the executor.
    This executor lives as long as its subscription, so the collections would pile up.
    """
    executor.collect_subfields = _SubfieldsOnce(executor)  # type: ignore[method-assign, assignment]


class _SubfieldsOnce:
    def __init__(self, executor: Executor[Any]) -> None:
        self._executor = executor
        self._collected: dict[Hashable, CollectedFields] = {}

    def __call__(self, return_type: GraphQLObjectType, fields: FieldDetailsList) -> CollectedFields:
        if any(field.fragment_variable_values is not None for field in fields):
            return collect_subfields(self._executor, return_type, fields)
        key = (return_type, *(Same(field.node) for field in fields))
        if key not in self._collected:
            self._collected[key] = collect_subfields(self._executor, return_type, fields)
        return self._collected[key]


def stream_transports(view: Any) -> Collection[HTTPStreamTransport]:
    """Return the transports by which a view streams over HTTP."""
    found: Collection[HTTPStreamTransport] = view._stream_transport_map.values()
    return found


def stream_transport(view: Any, protocol: str) -> HTTPStreamTransport | None:
    """Return a view's HTTP stream transport for `protocol`; None if it has none."""
    found: HTTPStreamTransport | None = view._stream_transport_map.get(protocol)
    return found
