"""The rows of the outbox, for the process that publishes them. No broker."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar
from zlib import crc32

from sqlalchemy import ColumnElement, Table, delete, extract, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

T = TypeVar("T")

Sessions: TypeAlias = "async_sessionmaker[Any] | sessionmaker[Any]"

_BATCH = 100
# The first number of the advisory lock. All programs share the locks of a database, so it is
# unusual. It must not change: during a deploy, two versions run at once.
_LOCKS = 0x67716C6E
_SECONDS_A_DAY = 86400


class Busy(Exception):
    """Another process publishes the events of this outbox now."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the outbox. `docs/outbox.md` describes its columns."""

    id: int
    event_id: str
    topic: str
    payload: str


@dataclass
class Batch:
    """The oldest events, and what became of them so far.

    Attributes:
        events: The events, the oldest first.
        published: The row ids of those that were published. They are deleted.
        refused: Why others can never be published, by row id. They are kept, with the reason.
    """

    events: Sequence[StoredEvent]
    published: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Backlog:
    """What is in the outbox.

    Attributes:
        waiting: The number of events that wait to be published.
        refused: The number of events that can't be published.
        lag: The age in seconds of the oldest event that waits; 0 if none does.
    """

    waiting: int
    refused: int
    lag: float


class _Run(Protocol):
    async def __call__(self, work: Callable[[Session], T], /) -> T: ...


class Rows:
    """The rows of an outbox in PostgreSQL or SQLite."""

    def __init__(self, sessions: Sessions, table: Table) -> None:
        self._sessions = sessions
        self._table = table
        self._key = crc32(table.fullname.encode()) - 2**31
        # Known with the first session: an application may bind its sessions late.
        self._is_sqlite: bool | None = None
        self._lock_file = ""

    async def require_known_database(self) -> None:
        """Check the kind of the database.

        Raises:
            ValueError: It is neither PostgreSQL nor SQLite.
        """
        async with self._session():
            pass

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[Batch]:
        """Lock the outbox and yield its oldest events. At the end, store what became of them.

        Raises:
            Busy: Another process holds the lock.
            SQLAlchemyError: The database can't be used.
        """
        async with self._session() as run:
            with self._file_lock():
                batch = Batch(await run(self._lock_and_read))
                try:
                    yield batch
                finally:
                    # Also after a failure, for the events before it. If this fails, or the process
                    # ends before it, they are published again, which has no effect.
                    await run(partial(self._settle, batch))

    async def backlog(self) -> Backlog:
        """Count the events of the outbox.

        Raises:
            SQLAlchemyError: The database can't be used.
        """
        async with self._session() as run:
            return await run(self._count)

    def _lock_and_read(self, session: Session) -> list[StoredEvent]:
        if not self._is_sqlite:
            # Its snapshots are newer than the lock, so that no event of its last holder is read.
            session.connection(execution_options={"isolation_level": "READ COMMITTED"})
            # The server releases it as soon as the connection is lost.
            lock = select(func.pg_try_advisory_xact_lock(_LOCKS, self._key))
            if not session.scalar(lock):
                raise Busy
        columns = self._table.c
        oldest = (
            select(columns.id, columns.event_id, columns.topic, columns.payload)
            .where(columns.error.is_(None))
            .order_by(columns.id)
            .limit(_BATCH)
        )
        events = [StoredEvent(*row) for row in session.execute(oldest)]
        if self._is_sqlite:
            # A transaction that has read can't wait for another writer: its DELETE would fail.
            session.rollback()
        return events

    def _settle(self, batch: Batch, session: Session) -> None:
        row_id = self._table.c.id
        if batch.published:
            session.execute(delete(self._table).where(row_id.in_(batch.published)))
        for refused, reason in batch.refused.items():
            session.execute(update(self._table).where(row_id == refused).values(error=reason))
        session.commit()

    def _count(self, session: Session) -> Backlog:
        waits = self._table.c.error.is_(None)
        oldest = func.min(self._table.c.created_at).filter(waits)
        all_rows, refused, lag = session.execute(
            select(func.count(), func.count(self._table.c.error), self._age(oldest))
        ).one()
        return Backlog(all_rows - refused, refused, max(float(lag or 0), 0.0))

    def _age(self, moment: ColumnElement[Any]) -> ColumnElement[Any]:
        # By the database's clock, which also wrote the moment.
        if self._is_sqlite:
            return (func.julianday("now") - func.julianday(moment)) * _SECONDS_A_DAY
        return extract("epoch", func.clock_timestamp() - moment)

    def _file_lock(self) -> AbstractContextManager[None]:
        return _locked(self._lock_file) if self._lock_file else nullcontext()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[_Run]:
        async with _opened(self._sessions()) as run:
            if self._is_sqlite is None:
                await run(self._look_at)
            yield run

    def _look_at(self, session: Session) -> None:
        dialect = session.get_bind(clause=select(self._table)).dialect.name
        if dialect not in {"postgresql", "sqlite"}:
            raise ValueError(f"An outbox must be in PostgreSQL or SQLite, and this is {dialect}")
        if dialect == "sqlite":
            self._lock_file = _lock_file(session)
        self._is_sqlite = dialect == "sqlite"


@asynccontextmanager
async def _opened(session: Session | AsyncSession) -> AsyncIterator[_Run]:
    if isinstance(session, AsyncSession):
        async with session:
            yield session.run_sync
        return
    try:
        yield partial(_in_thread, session)
    finally:
        await _in_thread(session, Session.close)


async def _in_thread(session: Session, work: Callable[[Session], T]) -> T:
    running = asyncio.ensure_future(asyncio.to_thread(work, session))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # A thread can't be cancelled, and only one may use the session.
        await asyncio.wait([running])
        raise


def _lock_file(session: Session) -> str:
    """Return the file whose lock stands for that of a SQLite outbox; "" if it is in memory."""
    databases = session.connection().exec_driver_sql("PRAGMA database_list")
    file: str = next(database.file for database in databases if database.name == "main")
    session.rollback()
    # SQLite locks whole files, and publishing waits for the broker. A lock on the database itself
    # would block all writers for that time.
    return file and f"{file}-outbox"


@contextmanager
def _locked(file: str) -> Iterator[None]:
    connection = sqlite3.connect(file, timeout=0, isolation_level=None)
    try:
        _begin(connection)
        yield
    finally:
        connection.close()


def _begin(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise Busy from None
        raise
