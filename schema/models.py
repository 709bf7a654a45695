"""The tables of the database."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Enum, Index, Integer, LargeBinary, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from gqlnotify.outbox import outbox_table
from schema.types import TaskStatus

# SQLite generates a primary key only if its type is exactly INTEGER, which has 64 bits there.
_Counter = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A time with a time zone. SQLite stores no time zone, so all times are stored in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert an aware time to UTC."""
        return value and value.astimezone(UTC)

    @override
    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Return a stored time with its time zone, UTC."""
        return value and value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """The base of all tables."""


class TaskRow(Base):
    """A task. `position` is its place in the list, and is never used for another task."""

    __tablename__ = "tasks"
    # Otherwise SQLite would give the position of the last task, once deleted, to the next one. A
    # client's cursor after that position would then skip the new task.
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


class MessageRow(Base):
    """A message to a room. `position` is its place in the room."""

    __tablename__ = "messages"
    __table_args__ = (Index("messages_of_room", "room", "position"), {"sqlite_autoincrement": True})

    position: Mapped[int] = mapped_column(_Counter, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    room: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    sent_at: Mapped[datetime] = mapped_column(UtcDateTime)


class PrivateMessageRow(Base):
    """A message that only its author and its recipient may read."""

    __tablename__ = "private_messages"
    __table_args__ = (
        Index("private_messages_sent", "author", "recipient", "position"),
        Index("private_messages_received", "recipient", "position"),
        {"sqlite_autoincrement": True},
    )

    position: Mapped[int] = mapped_column(_Counter, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    author: Mapped[str] = mapped_column(Text)
    recipient: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    sent_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ProbeRow(Base):
    """The row that the check of readiness writes. Each write replaces it."""

    __tablename__ = "probe"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    filling: Mapped[bytes] = mapped_column(LargeBinary)


OUTBOX = outbox_table(Base.metadata)
"""The events of committed changes that are not known to be published."""
