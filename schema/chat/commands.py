"""What clients may do in the chat, over GraphQL and REST: checks the arguments and the rights."""

from collections.abc import Sequence
from uuid import uuid4

from gqlnotify import Cursor, Topic, authorize
from schema.chat.people import people_of, state_of
from schema.chat.types import (
    Message,
    People,
    PrivateMessage,
    PrivateMessages,
    inbox_topic,
    room_topic,
)
from schema.checks import MAX_MESSAGE, MAX_ROOM_NAME, check_page, check_storable, check_text
from schema.commands import scoped_id, subject
from schema.context import Context


def room_of(name: str) -> Topic[Message]:
    """Return the topic of a room.

    Raises:
        BadUserInput: the name does not have 1 to 60 characters, or a topic can't contain it.
    """
    return room_topic(check_text("room", name, most=MAX_ROOM_NAME))


async def say(context: Context, room: str, text: str, *, event_id: str | None = None) -> Message:
    """Send a message to a room. Requires the right to publish to `rooms.<room>`."""
    topic = room_of(room).name
    await authorize("publish", topic)
    author = subject()
    return await context.chat.say(
        id=_message_id(event_id, author, topic),
        room=room,
        text=check_text("text", text, most=MAX_MESSAGE),
        author=author,
    )


async def whisper(
    context: Context, to: str, text: str, *, event_id: str | None = None
) -> PrivateMessage:
    """Send a message to one subject. Requires the right to publish to `inbox.<to>`."""
    topic = inbox_topic(check_text("to", to)).name
    await authorize("publish", topic)
    author = subject()
    return await context.chat.whisper(
        id=_message_id(event_id, author, topic),
        to=to,
        text=check_text("text", text, most=MAX_MESSAGE),
        author=author,
    )


async def enter(context: Context, room: str) -> Cursor:
    """Return the cursor of a room. Read it before the messages.

    Requires the right to subscribe to `rooms.<room>`.
    """
    topic = room_of(room)
    await authorize("subscribe", topic.name)
    return await context.topics.cursor(topic)


async def messages(
    context: Context, room: str, *, last: int, before: str | None
) -> Sequence[Message]:
    """Return messages of a room. Requires what `enter` does, so call it first."""
    return await context.chat.messages(room, last=_last(last), before=_id(before))


async def people(context: Context, room: str) -> People:
    """Return who is in a room. Requires the right to the presence of `rooms.<room>`."""
    return people_of(await context.topics.present(room_of(room)))


async def set_typing(context: Context, room: str, *, typing: bool) -> None:
    """Tell a room whether the viewer types. Requires the right to subscribe to `rooms.<room>`.

    It has no effect on a viewer who is not in the room.
    """
    topic = room_of(room)
    await authorize("subscribe", topic.name)
    await context.topics.set_presence(topic, state_of(typing=typing))


async def private_messages(context: Context, *, last: int, before: str | None) -> PrivateMessages:
    """Return the viewer's private messages, and the cursor of what comes after them."""
    reader = subject()
    # Before the messages are read, as for the list of tasks.
    cursor = await context.topics.cursor(inbox_topic(reader))
    found = await context.chat.private_messages(reader, last=_last(last), before=_id(before))
    return PrivateMessages(messages=found, event_cursor=cursor)


def _message_id(event_id: str | None, *scope: str) -> str:
    return str(uuid4()) if event_id is None else scoped_id(event_id, *scope)


def _last(count: int) -> int:
    return check_page("last", count)


def _id(before: str | None) -> str | None:
    return None if before is None else check_storable("before", before)
