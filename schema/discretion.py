"""Hides the details of internal errors from clients, and logs them."""

import strawberry
from graphql import GraphQLError
from strawberry.extensions import MaskErrors
from strawberry.types import ExecutionContext
from typing_extensions import override

from gqlnotify import errors


class Discretion(MaskErrors):
    """Sends clients their own errors in full. For an internal error they get a fixed text.

    Without it, a failed SQL statement would show clients the tables. The log has the details.
    """

    def __init__(self) -> None:
        super().__init__(_is_ours, "Internal server error")

    @override
    def anonymise_error(self, error: GraphQLError) -> GraphQLError:
        """Return the error with a fixed text and a stable code."""
        masked = super().anonymise_error(error)
        masked.extensions = {"code": errors.NotifyError.code}
        return masked


class DiscreetSchema(strawberry.Schema):
    """Logs internal errors. Errors of clients are not logged: any client could fill the log."""

    @override
    def process_errors(
        self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None
    ) -> None:
        """Log the internal errors, each with its traceback."""
        ours = [error for error in errors if _is_ours(error)]
        super().process_errors(ours, execution_context)


def _is_ours(error: GraphQLError) -> bool:
    original = error.original_error
    if isinstance(original, errors.InternalError):
        return True
    return not isinstance(original, errors.NotifyError | GraphQLError | None)
