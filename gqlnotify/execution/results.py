"""Converts results and errors for the client."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphql import GraphQLError, located_error
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError

from gqlnotify.errors import InternalError, NotifyError, server_error_status
from gqlnotify.execution.strawberry_adapter import Executor, collect_root_fields

NOT_JSON = (TypeError, ValueError, RecursionError)
"""What encoders raise for a value that can't be encoded as JSON."""

_PLACE = {"cursor", "conflated", "redelivered"}


def error_result(error: Exception) -> PreExecutionError:
    """Return the result that ends an operation with `error`."""
    return PreExecutionError(data=None, errors=[_graphql_error(error)])


def failed_result(error: Exception) -> PreExecutionError:
    """Return the result that ends an operation which failed with `error` before its execution.

    An extension or a hook raised it. Clients see only a `GraphQLError` or a `NotifyError`.
    """
    if not isinstance(error, GraphQLError | NotifyError):
        error = _unexpected(error)
    return error_result(error)


def _unexpected(error: Exception) -> InternalError:
    failure = InternalError(f"An operation failed outside of its resolvers: {error!r}")
    failure.__cause__ = error
    return failure


def without_details(result: Any) -> Any:
    """Return `result` without the text of an unexpected exception.

    Strawberry has logged the exception, but would also send its text to the client.
    """
    if not isinstance(result, ExecutionResult):
        # The first part of an incremental result: the operation was executed.
        return result
    failures = (_failure_in(error) for error in result.errors or ())
    failure = next(filter(None, failures), None)
    if failure is None:
        return result
    told = failed_result(failure)
    told.extensions = result.extensions
    return told


def event_error(executor: Executor[Any], error: Exception) -> ExecutionResult:
    """Return the result of one event that failed as a whole; the operation goes on.

    The error has the path of the operation's field, as an error of its resolver would.
    """
    if not isinstance(error, GraphQLError | NotifyError):
        error = _unexpected(error)
    name, fields = next(iter(collect_root_fields(executor).items()))
    located = located_error(error, [field.node for field in fields], [name])
    return ExecutionResult(data=None, errors=[located])


def is_expected(result: ExecutionResult) -> bool:
    """Return whether all errors are the client's fault. These need no traceback in the log."""
    return all(_is_the_clients(error.original_error) for error in result.errors or ())


def payload_of(result: ExecutionResult) -> dict[str, Any]:
    """Return `result` as a GraphQL response."""
    payload: dict[str, Any] = {"data": result.data}
    if result.errors:
        payload["errors"] = [error.formatted for error in result.errors]
    if result.extensions:
        payload["extensions"] = result.extensions
    return payload


def unencodable(result: ExecutionResult) -> ExecutionResult:
    """Return the error to send instead of `result`, which can't be encoded as JSON."""
    place = {k: v for k, v in (result.extensions or {}).items() if k in _PLACE}
    return ExecutionResult(None, [encoding_error(result.data)], place or None)


def encoding_error(data: Any) -> GraphQLError:
    """Return the error for `data`, which can't be encoded as JSON, at the field that causes it.

    It always has a path. Without one, it would be an error of the whole operation.
    """
    first = [next(iter(data))] if isinstance(data, dict) and data else []
    error = InternalError("A result can't be encoded as JSON")
    try:
        path = next(_infinite_in(data), first)
    except RecursionError:
        # The data is nested too deeply, or contains itself.
        path = first
    return GraphQLError(error.message, path=path, extensions=error.extensions)


def is_request_error(response: Mapping[str, Any]) -> bool:
    """Return whether a response's errors are about the request itself, before any execution.

    The error of a field has a path; one of the document, its variables or the request has none.
    """
    errors = response.get("errors") or []
    return bool(errors) and response.get("data") is None and not any("path" in e for e in errors)


def loses_a_list(data: Any, path: Sequence[str | int] | None) -> bool:
    """Return whether the error at `path` has taken a whole list in `data`, and not only an item."""
    for step in path or ():
        if data is None:
            return True
        if isinstance(step, int):
            return False
        data = data.get(step)
    return data is None


def loses_a_change(data: Any, path: Sequence[str | int] | None) -> bool:
    """Return whether the error at `path` has taken more of a change than the field itself."""
    return any(loses_a_list(data, each) for each in ((path or ())[:1], (path or ())[:-1]))


def status_of(response: Mapping[str, Any]) -> int:
    """Return the HTTP status of a response: 400 for a request error, and 200 for a result.

    A request error that is the server's fault has the status of its code: 500 or 503.
    """
    if not is_request_error(response):
        return 200
    codes = [(error.get("extensions") or {}).get("code") for error in response["errors"]]
    return max(server_error_status(code) or 400 for code in codes)


def ends_the_operation(result: ExecutionResult) -> bool:
    """Return whether the client gets `result` as an `error` message, which ends the operation."""
    return isinstance(result, PreExecutionError) or (
        result.data is None and is_request_error(payload_of(result))
    )


def _infinite_in(data: Any) -> Iterator[list[str | int]]:
    """Yield the paths of NaN and infinite numbers, which JSON does not have."""
    if isinstance(data, float) and not math.isfinite(data):
        yield []
    items: Any = ()
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, list | tuple):
        items = enumerate(data)
    for key, value in items:
        for rest in _infinite_in(value):
            yield [key, *rest]


def _is_the_clients(error: BaseException | None) -> bool:
    return isinstance(error, NotifyError) and not isinstance(error, InternalError)


def _failure_in(error: GraphQLError) -> Exception | None:
    """Return the exception that an extension or a hook raised, unless it is meant for clients.

    An error in a document or a variable has nodes, and an error in a resolver has a path.
    """
    original = error.original_error
    if error.nodes or error.path or isinstance(original, GraphQLError) or original is None:
        return None
    return None if _is_the_clients(original) else original


def _graphql_error(error: Exception) -> GraphQLError:
    if isinstance(error, GraphQLError):
        return error
    if isinstance(error, NotifyError):
        return GraphQLError(error.message, extensions=error.extensions, original_error=error)
    return GraphQLError(str(error), original_error=error)
