"""The database, and its sessions for reading and writing."""

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
# Readiness is checked often, and by many processes. This limits what the checks write.
_WRITE_SECONDS = 5.0
_PROBE_BYTES = 16 * 1024
# All programs that use a PostgreSQL database share its advisory locks, so this number is unusual.
# It must not change: processes of two versions run at the same time during a deploy.
_CREATING = 0x7461736B0001


class Database:
    """A database, SQLite or PostgreSQL.

    Args:
        url: `sqlite:///file` or `postgresql://...`. It may name its driver; by default the async
            one is used.

    Raises:
        ValueError: the URL is of another kind of database, its driver is not installed, or the
            file or directory of a SQLite database does not exist or can't be written.
    """

    def __init__(self, url: str) -> None:
        self._url = async_url(url)
        self._engine = self._connect()
        writing = self._engine.execution_options(immediate=True)
        self.sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._write = async_sessionmaker(writing, expire_on_commit=False)
        self._written_at = -math.inf
        # SQLite allows one writer at a time. The others poll, in no fair order, and fail after
        # `busy_timeout`. Within this process they wait in order here instead.
        self._write_lock: AbstractAsyncContextManager[Any] = (
            asyncio.Lock() if self._is_sqlite else nullcontext()
        )

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    async def create(self) -> None:
        """Create missing tables. Several processes may do so at the same time.

        Raises:
            OSError: the database can't be reached, opened or written.
        """
        # With a lock: two processes that both find a table missing would both create it, and the
        # second one would fail.
        try:
            async with self._engine.execution_options(immediate=True).begin() as connection:
                await self._lock_for_creating(connection)
                await connection.run_sync(Base.metadata.create_all)
        except (SQLAlchemyError, OSError) as error:
            reason = getattr(error, "orig", None) or error
            raise OSError(
                f"GQLNOTIFY_DATABASE_URL, {self._url!r}, can't be used: {reason}"
            ) from error

    async def check(self) -> None:
        """Return if the database can be read, and could be written in the last 5 seconds.

        Raises:
            SQLAlchemyError: it can't, for example because the disk is full.
        """
        async with self.reading() as session:
            # From a table: SQLite answers `SELECT 1` without reading the file, even a broken one.
            await session.execute(select(TaskRow.id).limit(1))
        if time.monotonic() - self._written_at >= _WRITE_SECONDS:
            await self._write_a_probe()

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def _write_a_probe(self) -> None:
        # As large as a large task, because a nearly full disk still takes small rows. And
        # committed, because the disk may be used only then.
        async with self.writing() as session:
            await session.execute(delete(ProbeRow).where(ProbeRow.id == 1))
            session.add(ProbeRow(id=1, filling=token_bytes(_PROBE_BYTES)))
        self._written_at = time.monotonic()

    def reading(self) -> AsyncSession:
        """Return a session for reading. Use it as an async context manager."""
        return self.sessions()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction for writing. It commits at the end; an exception rolls it back.

        Raises:
            SQLAlchemyError: the database can't be used. On SQLite, also if another process was
                writing for 5 seconds.
        """
        async with self._write_lock, self._write.begin() as session:
            yield session

    async def _lock_for_creating(self, connection: AsyncConnection) -> None:
        # Nothing to do for SQLite: BEGIN IMMEDIATE has taken its lock.
        if not self._is_sqlite:
            await connection.execute(select(func.pg_advisory_xact_lock(_CREATING)))

    def _connect(self) -> AsyncEngine:
        # Without parameters in errors: the log must not contain the text of tasks.
        try:
            engine = create_async_engine(self._url, hide_parameters=True, pool_pre_ping=True)
        except (SQLAlchemyError, ImportError) as error:
            raise ValueError(f"GQLNOTIFY_DATABASE_URL can't be used: {error}") from None
        if self._is_sqlite:
            event.listen(engine.sync_engine, "connect", _configure_sqlite)
            event.listen(engine.sync_engine, "connect", _write_ahead)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine


def async_url(text: str) -> URL:
    """Return the URL of a database with its async driver.

    Raises:
        ValueError: it is not the URL of a SQLite file or a PostgreSQL database, or the file or
            its directory can't be used.
    """
    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError):
        # Without the reason, which may contain the password.
        raise ValueError("GQLNOTIFY_DATABASE_URL is not the URL of a database") from None
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    if url.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ValueError("GQLNOTIFY_DATABASE_URL must start with sqlite:// or postgresql://")
    if url.get_backend_name() == "sqlite" and ":memory:" in (url.database or ":memory:"):
        raise ValueError(
            "GQLNOTIFY_DATABASE_URL: SQLite needs a file, because its connections can't share a "
            "database in memory"
        )
    if url.get_backend_name() == "sqlite":
        _require_place(Path(url.database or ""))
    return url


def _require_place(file: Path) -> None:
    if not file.parent.is_dir():
        raise ValueError(f"GQLNOTIFY_DATABASE_URL: there is no directory {file.parent}")
    # The directory too: SQLite creates a journal next to the file.
    if not os.access(file.parent, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise ValueError(f"GQLNOTIFY_DATABASE_URL: {file} can't be written")


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # The driver begins a transaction only before the first write, so two reads could see different
    # states. `_begin_sqlite` begins it instead.
    connection.isolation_level = None
    _execute(connection, f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")


def _write_ahead(connection: Any, _record: Any) -> None:
    # With a write-ahead log, readers do not wait for the writer, nor the writer for them.
    _execute(connection, "PRAGMA journal_mode = WAL")


def _execute(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # If a transaction has read before it writes, SQLite does not let it wait for another writer,
    # but fails it immediately (SQLITE_BUSY). So a writer takes the lock when it begins.
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
