"""From a GraphQL operation to its results. The one importer of graphql-core.

operation.py      one operation and the stream of its results
documents.py      each document is parsed and validated once
limits.py         how large it may be
merging.py        whether its fields can be merged
validation.py     validates in steps, with the event loop's turns between them
pace.py           when an unknown document may be parsed
fair_queue.py     whose document is next
persisted.py      which documents are known by their names
shared.py         each event is executed and encoded once for all who ask the same
replay_budget.py  how fast the past is executed again for one subject
group.py          who gets the result of such an execution, and in which order
validity.py       a stream without a connection ends with its token
"""

from gqlnotify.execution.cache import Cache
from gqlnotify.execution.event_execution import EncodedResult, EventContext, MakeContext
from gqlnotify.execution.group import Ended, Group, Member
from gqlnotify.execution.limits import Limits
from gqlnotify.execution.operation import (
    Operation,
    find_document,
    is_subscription,
    stream,
    unshared,
)
from gqlnotify.execution.persisted import PersistedOperations
from gqlnotify.execution.replay_budget import ReplayBudget
from gqlnotify.execution.results import (
    NOT_JSON,
    ends_the_operation,
    error_result,
    is_request_error,
    payload_of,
    status_of,
    unencodable,
    without_details,
)
from gqlnotify.execution.shared import (
    Executions,
    Shareable,
    SharedExecution,
)
from gqlnotify.execution.validity import while_valid

__all__ = [
    "NOT_JSON",
    "Cache",
    "EncodedResult",
    "Ended",
    "EventContext",
    "Executions",
    "Group",
    "Limits",
    "MakeContext",
    "Member",
    "Operation",
    "PersistedOperations",
    "ReplayBudget",
    "Shareable",
    "SharedExecution",
    "ends_the_operation",
    "error_result",
    "find_document",
    "is_request_error",
    "is_subscription",
    "payload_of",
    "status_of",
    "stream",
    "unencodable",
    "unshared",
    "while_valid",
    "without_details",
]
