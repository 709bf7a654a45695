"""Says what is wrong with what a reader got under `chaos`, and where the cause probably is."""

from collections.abc import Sequence

from gqlnotify.testing.errors import OperationFailed
from gqlnotify.testing.reader import CONTROL, Operation, Reader, Viewer
from gqlnotify.testing.report import Kind, Problem


def audit(reader: Reader, step: str) -> Problem | None:
    """Return what is wrong with a reader; None if it has got everything, once and in order."""
    if reader.is_attached and reader.client.is_lost:
        what = f"the server closed the connection of a client that {reader.role}"
        return _problem(Kind.FAILED, reader, what, step, _FAILURE)
    if reader.errors:
        what, look_at = f"the client got an error: {reader.errors[0]}", _FAILURE
        return _problem(Kind.FAILED, reader, what, step, look_at)
    missing = reader.missing()
    if missing and reader.joined is not None:
        expected = reader.truth.since(reader.joined)
        what = (
            f"{len(missing)} of {len(expected)} events did not come to a client that "
            f"{reader.role}. The first is {_shown(reader, missing[0])}"
        )
        return _problem(Kind.LOST, reader, what, step, _cause_of_loss(reader, missing))
    if reader.repeated:
        what = (
            f"{len(reader.repeated)} events came again, not marked `redelivered`, to a client that "
            f"{reader.role}. The first is {_shown(reader, reader.repeated[0])}"
        )
        return _problem(Kind.REPEATED, reader, what, step, _REPEAT)
    if reader.late:
        what = f"{_shown(reader, reader.late[0])} came after a later event"
        return _problem(Kind.REORDERED, reader, what, step, _DISORDER)
    return None


def could_not_come_back(reader: Reader, error: Exception, step: str) -> Problem:
    """Return the problem of a client that can't reconnect."""
    return _problem(Kind.FAILED, reader, f"the client can't reconnect: {error}", step, _FAILURE)


def nobody_got(operation: Operation, viewer: Viewer, step: str) -> Problem:
    """Return the problem of an operation that no longer has results."""
    what = "clients that stayed connected get no event any more"
    return Problem(Kind.LOST, operation.title, viewer.subject or "", what, step, _SHARED_END)


def no_event(operation: Operation, error: Exception, count: int, step: str) -> Problem:
    """Return the problem of an application that can't make an event while clients are connected."""
    told = "did not return" if isinstance(error, TimeoutError) else f"failed with {error!r}"
    what = f"its `cause` worked with one client, and {told} with {count} subscriptions"
    return Problem(Kind.FAILED, operation.title, "", what, step, _CROWD)


def unread(operation: Operation, error: OperationFailed | None, step: str) -> Problem:
    """Return the problem of an operation that never had a result."""
    what = f"no viewer got an event: {error or 'nothing arrived'}"
    look_at = "the Operation's document, its `cause`, and the rights of the viewers"
    return Problem(Kind.FAILED, operation.title, "", what, step, look_at)


def crowded_out(
    operation: Operation, viewer: Viewer, served: int, count: int, step: str
) -> Problem:
    """Return the problem of an operation that works for a few clients only."""
    what = f"{count - served} of {count} clients got no event"
    return Problem(Kind.LOST, operation.title, viewer.subject or "", what, step, _CROWD)


def _problem(kind: Kind, reader: Reader, what: str, step: str, look_at: str) -> Problem:
    subject = reader.viewer.subject or ""
    return Problem(kind, reader.operation.title, subject, what, step, look_at)


def _cause_of_loss(reader: Reader, missing: Sequence[str]) -> str:
    if reader.role == CONTROL:
        return _SHARED_END
    has_cursor = reader.last is not None and reader.last.cursor is not None
    if reader.operation.resume is None and not has_cursor:
        return _NO_CURSOR
    missed_together = reader.truth.since(reader.truth.turns[missing[0]])
    came = missed_together.index(missing[0])
    return _PAGES.format(came=came) if came else _BEGINNING


def _shown(reader: Reader, key: str) -> str:
    return str(reader.truth.results[key].data)


_FAILURE = "the application's log, which has the traceback"
_REPEAT = "where the resolver continues after a cursor: it has to begin with the next event"
_DISORDER = "tasks or queues of your own between the topic and the results"
_SHARED_END = (
    "what the resolver does when another client leaves, for example in a `finally`: it may end a "
    "task, or clear a list, that other subscriptions use too"
)
_NO_CURSOR = (
    "the resolver: its results have no cursor, so no client can resume. Return "
    "`topics.subscribe(...)` instead of a generator, or pass `resume` to the Operation if clients "
    "have another way"
)
_PAGES = (
    "how the resolver reads what comes after a cursor: the first {came} came, then it went on with "
    "the newest. Read pages until one is not full"
)
_BEGINNING = "how the resolver begins after a cursor: it has to read the history before live events"
_CROWD = (
    "what each socket holds as long as it is open, until a pool is empty: for example a database "
    "session in the context, or around the loop of a generator. Open one for each event "
    "(docs/how-to/sessions.md)"
)
