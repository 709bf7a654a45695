"""The events that a session adds. The commit of its transaction inserts them, as its last step.

An event gets its number when its row is inserted. A transaction that inserts at once may then wait
for a row that another one has locked, and commit after it with the lower number. Inserted last, an
event has a higher number than those of every transaction that its own has waited for.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from sqlalchemy import Table, event, insert
from sqlalchemy.orm import Session, SessionTransaction

_KEY = "gqlnotify.outbox"


@dataclass(frozen=True)
class Addition:
    """An event that a session has added.

    Attributes:
        table: The table of the outbox.
        row: The values of its columns.
        committed: Called after the end of the transaction.
    """

    table: Table
    row: dict[str, str]
    committed: Callable[[], None]


_Waiting: TypeAlias = tuple[SessionTransaction | None, Addition]


@dataclass
class _Additions:
    """Those of one session in its current transaction, and how far its commit is.

    Attributes:
        waiting: The events to insert, and the transaction or savepoint in which each was added.
        inserted: Those that were inserted, and the innermost savepoint at that time.
        committed: What to call after the end of the transaction, for the inserted events.
        savepoint_ends: A commit or the release of a savepoint has begun.
        released: The savepoint that was released last.
        commits: The commit has inserted what was added before it.
    """

    waiting: list[_Waiting] = field(default_factory=list)
    inserted: list[tuple[_Waiting, SessionTransaction | None]] = field(default_factory=list)
    committed: set[Callable[[], None]] = field(default_factory=set)
    savepoint_ends: bool = False
    released: SessionTransaction | None = None
    commits: bool = False


def add(session: Session, addition: Addition) -> None:
    """Insert an event when the current transaction of `session` commits."""
    if not session.in_transaction():
        session.begin()
    state = _state_of(session)
    if state.commits:
        # A listener of the commit, or of the flush that it begins with, adds this.
        _insert(session, state, [addition])
        return
    savepoint = session.get_nested_transaction()
    state.waiting.append((savepoint or session.get_transaction(), addition))


def _state_of(session: Session) -> _Additions:
    state: _Additions | None = session.info.get(_KEY)
    if state is None:
        state = session.info[_KEY] = _Additions()
    return state


def _insert(session: Session, state: _Additions, additions: Iterable[Addition]) -> None:
    rows: dict[Table, list[dict[str, str]]] = {}
    for each in additions:
        rows.setdefault(each.table, []).append(each.row)
        state.committed.add(each.committed)
    for table, values in rows.items():
        session.execute(insert(table), values)


# For all sessions: one can begin to commit before its first event is added.
@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    state = _state_of(session)
    # SQLAlchemy also calls this before it releases a savepoint, and does not say which. But if a
    # transaction commits while a savepoint is open, it calls this for both before one ends.
    if session.in_nested_transaction() and not state.savepoint_ends:
        state.savepoint_ends = True
        return
    if state.waiting:
        # First what waits for locks. Its listeners may add events, which are then the last ones.
        session.flush()
        _insert(session, state, [addition for _, addition in state.waiting])
        savepoint = session.get_nested_transaction()
        state.inserted += [(each, savepoint) for each in state.waiting]
        state.waiting.clear()
    state.commits = True


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    _state_of(session).released = session.get_nested_transaction()


@event.listens_for(Session, "after_soft_rollback")
def _after_rollback(session: Session, ended: SessionTransaction) -> None:
    _drop(_state_of(session), ended)


def _drop(state: _Additions, ended: SessionTransaction) -> None:
    """Drop what was added within a transaction or savepoint that was rolled back."""
    undone = [each for each, savepoint in state.inserted if _is_within(savepoint, ended)]
    if undone:
        # The release of a savepoint with an open one in it looked like a commit.
        state.inserted = [each for each in state.inserted if not _is_within(each[1], ended)]
        state.commits = False
    waiting = [*undone, *state.waiting]
    state.waiting = [each for each in waiting if not _is_within(each[0], ended)]


@event.listens_for(Session, "after_transaction_end")
def _after_end(session: Session, ended: SessionTransaction) -> None:
    state = _state_of(session)
    if ended.nested:
        state.savepoint_ends = False
        if ended is not state.released:
            # `close` rolls back without telling `after_soft_rollback`.
            _drop(state, ended)
    if ended.parent is None:
        del session.info[_KEY]
        for call in state.committed:
            call()


def _is_within(transaction: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while transaction is not None and transaction is not outer:
        transaction = transaction.parent
    return transaction is outer
