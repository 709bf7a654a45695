"""The encoded message for one event."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from graphql import GraphQLError
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError

from gqlnotify.event import Cursor
from gqlnotify.protocol.frames import Batch, SharedBody


@dataclass
class EncodedResult:
    """The encoded message for one event, and the errors in its result.

    Without a `body`, the errors end the operation.
    """

    cursor: Cursor
    body: SharedBody | None
    errors: Sequence[GraphQLError] = ()
    redelivered: "EncodedResult | None" = field(default=None, init=False, compare=False)
    """The same result for clients that may have received it before; made on first use."""

    @cached_property
    def batch(self) -> Batch:
        """The message as a batch of one, shared by the subscribers that read event by event."""
        assert self.body is not None
        return Batch((self.body,))

    def result(self) -> ExecutionResult:
        """Return the result that was encoded."""
        if self.body is None:
            return PreExecutionError(data=None, errors=[*self.errors])
        payload = self.body.message()["payload"]
        extensions = payload.get("extensions")
        return ExecutionResult(payload["data"], [*self.errors] or None, extensions)
