"""The tables."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Enum, Integer, LargeBinary, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from schema.types import TaskStatus

# SQLite numbers rows by itself only where the type is spelled INTEGER.
_Counter = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time. SQLite keeps no time zone, so what it holds is UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn any aware time into UTC."""
        return value and value.astimezone(UTC)

    @override
    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Give the time zone back."""
        return value and value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """What all tables share."""


class TaskRow(Base):
    """A task. `position` orders the list and is never used twice."""

    __tablename__ = "tasks"
    __table_args__ = ({"sqlite_autoincrement": True},)

    position: Mapped[int] = mapped_column(_Counter, primary_key=True)
    id: Mapped[str] = mapped_column(String(36), unique=True)
    title: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    status: Mapped[TaskStatus] = mapped_column(Enum(TaskStatus, native_enum=False, length=20))
    assignee: Mapped[str | None] = mapped_column(Text, index=True)
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    version: Mapped[int]


class ProbeRow(Base):
    """What the check of readiness writes: one row, replaced each time."""

    __tablename__ = "probe"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    filling: Mapped[bytes] = mapped_column(LargeBinary)


class OutboxRow(Base):
    """An event that is committed and perhaps not yet published. It is deleted once it is."""

    __tablename__ = "outbox"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_Counter, primary_key=True)
    event_id: Mapped[str] = mapped_column(String(36), unique=True)
    topic: Mapped[str] = mapped_column(Text)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
