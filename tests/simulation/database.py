"""The application's database: a real SQLite file, with a table of its own and an outbox.

Each call of a session takes virtual time, and the process may be killed before its answer arrives.
A killed process loses its connections, as the kernel closes them.
"""

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    NullPool,
    QueuePool,
    Table,
    Text,
    create_engine,
    func,
    insert,
    select,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from gqlnotify import TopicManager
from gqlnotify.outbox import Outbox, outbox_table, rows
from tests.simulation.application import Message, room
from tests.simulation.history import Appended, Violation

_METADATA = MetaData()
_MESSAGES = Table(
    "messages",
    _METADATA,
    Column("id", Integer, primary_key=True),
    Column("number", Integer, unique=True, nullable=False),
    Column("room", Text, nullable=False),
)
_OUTBOX = outbox_table(_METADATA)

_NO_LIMIT = -1


def _connect(file: str, **options: Any) -> sqlite3.Connection:
    loop: Any = asyncio.get_running_loop()
    connection: sqlite3.Connection = sqlite3.connect(file, **options)
    loop.connections.append(connection)
    return connection


# The lock of the outbox is a connection too.
vars(rows)["sqlite3"] = SimpleNamespace(**{**vars(sqlite3), "connect": _connect})


class Database:
    """The file, for all processes of a simulation."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gqlnotify-simulation-"))
        self._engine = create_engine(f"sqlite:///{self._folder / 'app.db'}", poolclass=NullPool)
        _METADATA.create_all(self._engine)

    def sessions(self) -> "sessionmaker[Session]":
        """Return what makes the sessions of one process."""

        def connect() -> sqlite3.Connection:
            # A writer that finds the file locked fails at once: all threads are this one.
            connection = _connect(str(self._folder / "app.db"), timeout=0)
            connection.execute("PRAGMA synchronous = OFF")
            return connection

        engine = create_engine(
            "sqlite://", creator=connect, poolclass=QueuePool, max_overflow=_NO_LIMIT
        )
        return sessionmaker(engine)

    def committed(self) -> Sequence[tuple[str, int]]:
        """Return the rooms and numbers of the committed messages, in the order of the commits."""
        query = select(_MESSAGES.c.room, _MESSAGES.c.number).order_by(_MESSAGES.c.id)
        with self._engine.connect() as connection:
            return [(row.room, row.number) for row in connection.execute(query)]

    @property
    def waiting(self) -> int:
        """How many events are in the outbox."""
        with self._engine.connect() as connection:
            found: int = connection.scalar(select(func.count()).select_from(_OUTBOX)) or 0
            return found

    def remove(self) -> None:
        """Delete the file."""
        shutil.rmtree(self._folder)


class Writer:
    """What one process writes, and its outbox."""

    def __init__(self, topics: TopicManager, database: Database) -> None:
        self._sessions = database.sessions()
        self.outbox = Outbox(topics, self._sessions, _OUTBOX)

    async def write(self, name: str, number: int, *, commits: bool) -> None:
        """Store a message and its event in one transaction, and commit it or roll it back.

        Raises:
            OperationalError: Another process writes.
        """
        session = self._sessions()

        def add() -> None:
            session.execute(insert(_MESSAGES).values(number=number, room=name))
            self.outbox.add(session, room(name), Message(number=number))

        try:
            await asyncio.to_thread(add)
            await asyncio.to_thread(session.commit if commits else session.rollback)
        except IntegrityError:
            # It is there already: the process that committed it was killed before it could say so.
            pass
        finally:
            await asyncio.to_thread(session.close)


def broken(
    name: str,
    committed: Sequence[tuple[str, int]],
    written: set[int],
    events: Sequence[Appended],
) -> Iterator[Violation]:
    """Yield where the events of a room differ from its committed messages. Pure.

    Args:
        name: The room.
        committed: What `Database.committed` returns.
        written: The numbers that were given to the database, whether or not they were committed.
        events: What was appended to the room.
    """
    numbers = [_number(event) for event in events]
    published = [number for number in dict.fromkeys(numbers) if number in written]
    expected = [number for room, number in committed if room == name]
    for number in expected:
        if number not in published:
            yield Violation("commit = event", f"{number} was committed, and never published")
    for number in published:
        if number not in expected:
            yield Violation("commit = event", f"{number} was published, and never committed")
    both = [number for number in published if number in expected]
    if both != [number for number in expected if number in both]:
        yield Violation("order of commits", f"{name} has {both} instead of {expected}")


def _number(event: Appended) -> int | None:
    text = event.payload.removeprefix(b'{"number":').removesuffix(b"}")
    return int(text) if text.isdigit() else None
