"""What is made of a result on its way to the client."""

from collections.abc import Mapping
from typing import Any

from graphql import GraphQLError, located_error
from graphql.execution import Executor
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError

from gqlnotify.errors import NotifyError
from gqlnotify.execution.plain import collect_root_fields


def error_result(error: Exception) -> PreExecutionError:
    """Return the result that ends an operation with `error`."""
    return PreExecutionError(data=None, errors=[_graphql_error(error)])


def event_error(executor: Executor[Any], error: Exception) -> ExecutionResult:
    """Return the result of one event that failed as a whole; the operation goes on.

    The error has the path of the operation's field, as an error of its resolver would.
    """
    name, fields = next(iter(collect_root_fields(executor).items()))
    located = located_error(error, [field.node for field in fields], [name])
    return ExecutionResult(data=None, errors=[located])


def is_expected(result: ExecutionResult) -> bool:
    """Tell whether all errors are the client's own affair: no traceback in the log for these."""
    return all(isinstance(e.original_error, NotifyError) for e in result.errors or ())


def payload_of(result: ExecutionResult) -> dict[str, Any]:
    """Return `result` as a GraphQL response spells it."""
    payload: dict[str, Any] = {"data": result.data}
    if result.errors:
        payload["errors"] = [error.formatted for error in result.errors]
    if result.extensions:
        payload["extensions"] = result.extensions
    return payload


def is_request_error(response: Mapping[str, Any]) -> bool:
    """Tell whether a response's errors come from the request itself, before any execution.

    The error of a field has a path; one of the document, its variables or the request has none.
    """
    errors = response.get("errors") or []
    return bool(errors) and response.get("data") is None and not any("path" in e for e in errors)


def ends_the_operation(result: ExecutionResult) -> bool:
    """Tell whether a client is told of `result` by an `error`, behind which nothing comes."""
    return isinstance(result, PreExecutionError) or (
        result.data is None and is_request_error(payload_of(result))
    )


def _graphql_error(error: Exception) -> GraphQLError:
    if isinstance(error, GraphQLError):
        return error
    if isinstance(error, NotifyError):
        return GraphQLError(error.message, extensions=error.extensions, original_error=error)
    return GraphQLError(str(error), original_error=error)
