"""Messages in the database. A message and its events are committed in one transaction."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import strawberry
from sqlalchemy import ColumnElement, Executable, and_, delete, or_, select
from sqlalchemy.exc import IntegrityError

from gqlnotify import Topic
from gqlnotify.outbox import Outbox
from schema.chat.types import Message, PrivateMessage, inbox_topic, room_topic
from schema.database import Database
from schema.models import MessageRow, PrivateMessageRow

KEPT = 1000
"""The newest messages of a room, or of one subject to another, that are kept."""

T = TypeVar("T")
Row = TypeVar("Row", MessageRow, PrivateMessageRow)


class ChatStore:
    """Reads and writes messages.

    It does not check its arguments: resolvers do. A message whose id is stored already is not
    stored again, and has no second event.

    Args:
        database: where the messages are.
        outbox: what publishes their events.
        kept: how many messages of a room, or of one subject to another, are kept.
    """

    def __init__(self, database: Database, outbox: Outbox, *, kept: int = KEPT) -> None:
        self._database = database
        self._outbox = outbox
        self._kept = kept

    async def say(self, *, id: str, room: str, text: str, author: str) -> Message:  # noqa: A002
        """Store a message to a room, and delete the room's oldest messages."""
        row = MessageRow(id=id, room=room, author=author, text=text, sent_at=datetime.now(UTC))
        message = _message(row)
        if await self._add(row, MessageRow.room == room, {room_topic(room): message}):
            return message
        return _message(await self._stored(MessageRow, id))

    async def whisper(
        self,
        *,
        id: str,  # noqa: A002
        to: str,
        text: str,
        author: str,
    ) -> PrivateMessage:
        """Store a private message, and delete the author's oldest messages to this recipient."""
        row = PrivateMessageRow(
            id=id, recipient=to, author=author, text=text, sent_at=datetime.now(UTC)
        )
        message = _private(row)
        # Of the same author only: else somebody could make the messages of others disappear.
        same = and_(PrivateMessageRow.author == author, PrivateMessageRow.recipient == to)
        if await self._add(row, same, {inbox_topic(each): message for each in (author, to)}):
            return message
        return _private(await self._stored(PrivateMessageRow, id))

    async def messages(
        self, room: str, *, last: int, before: str | None = None
    ) -> Sequence[Message]:
        """Return the newest `last` messages of a room, or of those before a message."""
        rows = await self._newest(MessageRow, MessageRow.room == room, last=last, before=before)
        return [_message(row) for row in rows]

    async def private_messages(
        self, subject: str, *, last: int, before: str | None = None
    ) -> Sequence[PrivateMessage]:
        """Return the newest `last` messages from and to a subject, or of those before one."""
        own = or_(PrivateMessageRow.author == subject, PrivateMessageRow.recipient == subject)
        rows = await self._newest(PrivateMessageRow, own, last=last, before=before)
        return [_private(row) for row in rows]

    async def _newest(
        self, table: type[Row], wanted: ColumnElement[bool], *, last: int, before: str | None
    ) -> Sequence[Row]:
        page = select(table).where(wanted).order_by(table.position.desc()).limit(last)
        if before is not None:
            # Nothing is before a message that was deleted: those before it were deleted earlier.
            place = select(table.position).where(wanted, table.id == before).scalar_subquery()
            page = page.where(table.position < place)
        async with self._database.reading() as session:
            return (await session.scalars(page)).all()[::-1]

    async def _add(self, row: Row, same: ColumnElement[bool], events: Mapping[Topic[T], T]) -> bool:
        """Add a row with its events, and delete the oldest of the `same` kind.

        Returns False, and does nothing, if a row has this id.
        """
        try:
            async with self._database.writing() as session:
                session.add(row)
                for topic, message in events.items():
                    self._outbox.add(session, topic, message)
                await session.execute(self._delete_oldest(type(row), same))
        except IntegrityError:
            return False
        return True

    def _delete_oldest(self, table: type[Row], same: ColumnElement[bool]) -> Executable:
        surplus = select(table.position).where(same).order_by(table.position.desc())
        newest_surplus = surplus.offset(self._kept).limit(1).scalar_subquery()
        old = delete(table).where(same, table.position <= newest_surplus)
        return old.execution_options(synchronize_session=False)

    async def _stored(self, table: type[Row], id: str) -> Row:  # noqa: A002
        async with self._database.reading() as session:
            return (await session.scalars(select(table).where(table.id == id))).one()


def _message(row: MessageRow) -> Message:
    return Message(
        id=strawberry.ID(row.id),
        room=row.room,
        author=row.author,
        text=row.text,
        sent_at=row.sent_at,
    )


def _private(row: PrivateMessageRow) -> PrivateMessage:
    return PrivateMessage(
        id=strawberry.ID(row.id),
        to=row.recipient,
        author=row.author,
        text=row.text,
        sent_at=row.sent_at,
    )
