"""The GraphQL types of the chat, and its topics."""

from collections.abc import Sequence
from datetime import datetime

import strawberry

from gqlnotify import Topic, escape_segment
from schema.types import documented


@documented
@strawberry.type
class Message:
    """A message to all who are in a room."""

    id: strawberry.ID
    room: str
    author: str = strawberry.field(description="The subject whose token sent it.")
    text: str
    sent_at: datetime


@documented
@strawberry.type
class PrivateMessage:
    """A message that its author and its recipient can read, and nobody else."""

    id: strawberry.ID
    to: str = strawberry.field(description="The subject that receives it.")
    author: str = strawberry.field(description="The subject whose token sent it.")
    text: str
    sent_at: datetime


@documented
@strawberry.type
class PrivateMessages:
    """The private messages that the viewer has sent and received, oldest first."""

    messages: Sequence[PrivateMessage]
    event_cursor: str = strawberry.field(
        description="Pass it to inbox as after, to get all messages since this list."
    )


ROOMS = Topic("rooms.<room>", Message)
INBOXES = Topic("inbox.<subject>", PrivateMessage)


def room_topic(name: str) -> Topic[Message]:
    """Return the topic of a room's messages. Any text can be the name of a room.

    Raises:
        BadUserInput: the name is too long for a topic, or contains a lone surrogate.
    """
    return ROOMS(room=escape_segment(name))


def inbox_topic(subject: str) -> Topic[PrivateMessage]:
    """Return the topic of the private messages that a subject sends and receives.

    Raises:
        BadUserInput: the subject is too long for a topic, or contains a lone surrogate.
    """
    return INBOXES(subject=escape_segment(subject))
