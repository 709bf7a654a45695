"""Executes GraphQL operations. The only package that imports graphql-core.

operation.py      runs one operation and yields its results
beginning.py      begins a subscription at the position of its client
documents.py      parses and validates each document once
limits.py         limits the size of a document
merging.py        checks whether a document's fields can be merged
validation.py     validates in steps, so that the event loop can run between them
pace.py           limits the time that unknown documents take
fair_queue.py     chooses the client whose document is next
persisted.py      finds persisted documents by their names
selections.py     renders plain selections once, even if variables or filters differ
shared.py         executes and encodes each event once for identical subscriptions
snapshots.py      loads and encodes the snapshots of live lists once for all who need them
replay_budget.py  limits the rate of executions that replay past events for a subject
pipeline.py       executes several events of a topic at a time, and keeps their order
group.py          sends the encoded results of a shared execution to its members, in order
validity.py       ends a stream without a connection when its token ends
"""

from gqlnotify.execution.beginning import Position
from gqlnotify.execution.cache import Cache
from gqlnotify.execution.encoded_result import EncodedResult
from gqlnotify.execution.event_execution import EventContext, MakeContext
from gqlnotify.execution.fan_out import Member
from gqlnotify.execution.group import Group
from gqlnotify.execution.limits import Limits
from gqlnotify.execution.operation import (
    Operation,
    find_document,
    is_subscription,
    stream,
    unshared,
    without_positions,
)
from gqlnotify.execution.persisted import PersistedOperations
from gqlnotify.execution.pipeline import Ended
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
from gqlnotify.execution.validity import Watch, while_valid

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
    "Position",
    "ReplayBudget",
    "Shareable",
    "SharedExecution",
    "Watch",
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
    "without_positions",
]
