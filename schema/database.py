"""The database at a URL, and the locks for reading, writing and sending the outbox."""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from secrets import token_bytes
from typing import Any

from sqlalchemy import URL, Connection, delete, event, func, make_url, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from schema.models import Base, ProbeRow, TaskRow

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
_BUSY_MILLISECONDS = 5000
# A probe of many processes is then a handful of writes a second at the most.
_WRITE_SECONDS = 5.0
_PROBE_BYTES = 16 * 1024
# Advisory locks are shared by everything in a PostgreSQL database: not 1 and 2, then.
_CREATING = 0x7461736B0001
_DRAINING = 0x7461736B0002


class Database:
    """One database, SQLite or PostgreSQL.

    `sqlite:///file` and `postgresql://...` get their async drivers; a URL that names its driver
    keeps it.

    Raises:
        ValueError: another kind of database, no driver for it, or SQLite without a file or a
            directory that is there.
    """

    def __init__(self, url: str) -> None:
        self._url = async_url(url)
        self._engine = self._locks = self._connect(self._url)
        if self._is_sqlite:
            event.listen(self._engine.sync_engine, "connect", _write_ahead)
            # A file of its own: the drain waits for the broker, and writers must not.
            self._locks = self._connect(self._url.set(database=f"{self._url.database}-outbox"))
        writing = self._engine.execution_options(immediate=True)
        self._read = async_sessionmaker(self._engine, expire_on_commit=False)
        self._write = async_sessionmaker(writing, expire_on_commit=False)
        self._written_at = -math.inf
        # SQLite has one writer at a time and wakes those who wait in no order, by polling: within
        # the process they queue here instead.
        self._turn: AbstractAsyncContextManager[Any] = (
            asyncio.Lock() if self._is_sqlite else nullcontext()
        )

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    async def create(self) -> None:
        """Make the tables that are not there yet. Any number of processes may do so at once.

        Raises:
            OSError: the database can't be reached, opened or written.
        """
        try:
            async with self._engine.execution_options(immediate=True).begin() as connection:
                await self._queue(connection, _CREATING)
                await connection.run_sync(Base.metadata.create_all)
        except (SQLAlchemyError, OSError) as error:
            reason = getattr(error, "orig", None) or error
            raise OSError(
                f"GQLNOTIFY_DATABASE_URL, {self._url!r}, can't be used: {reason}"
            ) from error

    async def check(self) -> None:
        """Return if the database can be read and has taken a write in the last seconds.

        Raises:
            SQLAlchemyError: it refuses, as on a full disk.
        """
        async with self.reading() as session:
            # SQLite would answer without a table from a file that is broken.
            await session.execute(select(TaskRow.id).limit(1))
        if time.monotonic() - self._written_at >= _WRITE_SECONDS:
            await self._write_a_probe()

    async def close(self) -> None:
        """Let go of every connection."""
        await self._engine.dispose()
        await self._locks.dispose()

    async def _write_a_probe(self) -> None:
        # Committed, since a full disk may refuse no sooner, and as much as a large task needs.
        async with self.writing() as session:
            await session.execute(delete(ProbeRow).where(ProbeRow.id == 1))
            session.add(ProbeRow(id=1, filling=token_bytes(_PROBE_BYTES)))
        self._written_at = time.monotonic()

    def reading(self) -> AsyncSession:
        """Return a session that only reads."""
        return self._read()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction that writes: committed at the end, rolled back by an exception."""
        async with self._turn, self._write.begin() as session:
            yield session

    @asynccontextmanager
    async def draining(self) -> AsyncIterator[None]:
        """Be the only one inside, of all the processes on this database. Writers are not kept out.

        Raises:
            OperationalError: on SQLite, another process was inside for 5 seconds.
        """
        async with self._locks.execution_options(immediate=True).begin() as connection:
            await self._queue(connection, _DRAINING)
            yield

    async def _queue(self, connection: AsyncConnection, key: int) -> None:
        # SQLite has queued already: one transaction that began with BEGIN IMMEDIATE at a time.
        if not self._is_sqlite:
            await connection.execute(select(func.pg_advisory_xact_lock(key)))

    def _connect(self, url: URL) -> AsyncEngine:
        # A failed statement must not carry people's tasks into a log.
        try:
            engine = create_async_engine(url, hide_parameters=True, pool_pre_ping=True)
        except (SQLAlchemyError, ImportError) as error:
            raise ValueError(f"GQLNOTIFY_DATABASE_URL can't be used: {error}") from None
        if self._is_sqlite:
            event.listen(engine.sync_engine, "connect", _configure_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine


def async_url(text: str) -> URL:
    """Return the URL with the async driver of its database.

    Raises:
        ValueError: see `Database`.
    """
    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError):
        # Not the reason, which may repeat a password.
        raise ValueError("GQLNOTIFY_DATABASE_URL is not the URL of a database") from None
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    if url.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ValueError("GQLNOTIFY_DATABASE_URL must start with sqlite:// or postgresql://")
    if url.get_backend_name() == "sqlite" and ":memory:" in (url.database or ":memory:"):
        raise ValueError("Give SQLite a file: connections can't share a database in memory")
    if url.get_backend_name() == "sqlite":
        _require_place(Path(url.database or ""))
    return url


def _require_place(file: Path) -> None:
    if not file.parent.is_dir():
        raise ValueError(f"GQLNOTIFY_DATABASE_URL: there is no directory {file.parent}")
    # SQLite writes a journal next to the file.
    if not os.access(file.parent, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise ValueError(f"GQLNOTIFY_DATABASE_URL: {file} can't be written")


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # The driver would begin transactions late, and read-only ones not at all.
    connection.isolation_level = None
    _execute(connection, f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")


def _write_ahead(connection: Any, _record: Any) -> None:
    # Readers and the writer keep out of each other's way.
    _execute(connection, "PRAGMA journal_mode = WAL")


def _execute(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later can't wait for another writer: SQLite fails
    # it at once. So one that will write says so when it begins.
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
