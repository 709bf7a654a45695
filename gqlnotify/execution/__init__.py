"""From a GraphQL operation to its results. The one importer of graphql-core.

operation.py   one operation and the stream of its results
documents.py   each document is parsed and validated once
shared.py      each event is executed and encoded once for all who ask the same
group.py       who gets the result of such an execution, and in which order
validity.py    a stream without a connection ends with its token
"""

from gqlnotify.execution.events import EventContext, MakeContext, Outcome
from gqlnotify.execution.group import Ended, Group, Member
from gqlnotify.execution.operation import (
    AMBIGUOUS,
    Operation,
    is_ambiguous,
    stream,
    unshared,
)
from gqlnotify.execution.results import (
    ends_the_operation,
    error_result,
    is_request_error,
    payload_of,
)
from gqlnotify.execution.shared import (
    Executions,
    Shareable,
    SharedExecution,
)
from gqlnotify.execution.validity import while_valid

__all__ = [
    "AMBIGUOUS",
    "Ended",
    "EventContext",
    "Executions",
    "Group",
    "MakeContext",
    "Member",
    "Operation",
    "Outcome",
    "Shareable",
    "SharedExecution",
    "ends_the_operation",
    "error_result",
    "is_ambiguous",
    "is_request_error",
    "payload_of",
    "stream",
    "unshared",
    "while_valid",
]
