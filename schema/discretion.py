"""What clients are told when something breaks, and what the log keeps of it."""

import strawberry
from graphql import GraphQLError
from strawberry.extensions import MaskErrors
from strawberry.types import ExecutionContext
from typing_extensions import override

from gqlnotify import errors


class Discretion(MaskErrors):
    """Tells clients of their own errors in full, and of the service's only that there was one.

    A failed statement would show them the tables otherwise. The log has it all.
    """

    def __init__(self) -> None:
        super().__init__(_is_ours, "Internal server error")

    @override
    def anonymise_error(self, error: GraphQLError) -> GraphQLError:
        """Return the error without what it tells, under a stable code."""
        masked = super().anonymise_error(error)
        masked.extensions = {"code": errors.NotifyError.code}
        return masked


class DiscreetSchema(strawberry.Schema):
    """Logs what broke. What a client did wrong is told to that client alone."""

    @override
    def process_errors(
        self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None
    ) -> None:
        """Log the service's own errors, each with its traceback."""
        ours = [error for error in errors if _is_ours(error)]
        super().process_errors(ours, execution_context)


def _is_ours(error: GraphQLError) -> bool:
    original = error.original_error
    if isinstance(original, errors.InternalError):
        return True
    return not isinstance(original, errors.NotifyError | GraphQLError | None)
