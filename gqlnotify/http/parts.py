"""Executes an operation, and makes the parts of a stream over HTTP from its results."""

from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from fastapi import Request
from strawberry.http import GraphQLRequestData
from strawberry.types import ExecutionResult
from strawberry.types.graphql import OperationType

from gqlnotify import execution
from gqlnotify.auth import current_viewer
from gqlnotify.connections.router_state import asker_of
from gqlnotify.http.encoded_part import Cut, EncodedPart
from gqlnotify.http.handler import GraphQLOverHTTP, Router, document_id_of
from gqlnotify.topics.local_member import LocalMember
from gqlnotify.topics.resumption import Resumption

Wrap = Callable[[object], object]
"""Returns the object that a stream sends for a response."""


def parts_of(
    router: Router,
    request: Request,
    data: GraphQLRequestData,
    *,
    context: Any,
    root_value: Any,
    allowed: Iterable[OperationType],
    wrap: Wrap | None,
    resumption: Resumption | None = None,
) -> AsyncGenerator[Any, None]:
    """Execute an operation for the current viewer, and yield its parts while the token is valid.

    A `Position` is among them wherever it changes without an event. `wrap` is that of the stream's
    format; None for an application's own format, which gets plain results.
    """
    viewer = current_viewer()
    operation = execution.Operation(
        query=data.query,
        operation_name=data.operation_name,
        variables=data.variables,
        extensions=data.extensions,
        viewer=viewer,
        allowed=frozenset(allowed),
        document_id=document_id_of(data),
        asker=asker_of(viewer, request.client),
        last_cursor=request.headers.get("last-event-id") or None,
        resumption=resumption,
        # Each stream is a connection of its own.
        present_as=LocalMember.of(viewer),
    )
    executions = router._gqlnotify.executions(router.schema)
    budget = executions.budgets.of(None if viewer is None else viewer.principal.subject)
    results = execution.stream(executions, operation, context=context, root_value=root_value)
    parts = execution.unshared(results, lambda: budget, _make_part(router, wrap))
    return execution.while_valid(parts, viewer, router._gqlnotify.watch)


def takes_parts(router: Router) -> bool:
    """Return whether the application overrides none of the methods that get the parts."""
    return all(
        getattr(getattr(router, name), "__func__", None) is getattr(GraphQLOverHTTP, name)
        for name in ("process_result", "encode_json_string")
    )


def _make_part(
    router: Router, wrap: Wrap | None
) -> Callable[[execution.EncodedResult], EncodedPart | ExecutionResult]:
    """Return the function that makes a part from an encoded result.

    It returns a plain result if the application overrides what Strawberry calls with it.
    """
    if wrap is None or not takes_parts(router):
        return execution.EncodedResult.result
    cut = Cut.learn(router.encode_json_string, wrap)
    return execution.EncodedResult.result if cut is None else cut.part_of
