"""The GraphQL types of the chat, and its topics."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

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
    """A message that only its author and its recipient can read."""

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


@documented
@strawberry.type
class Person:
    """A subject who follows a room's messages."""

    subject: str
    typing: bool
    since: datetime


@documented
@strawberry.type
class People:
    """Who is in a room: the first 1 000 who have come, and how many there are."""

    count: int
    members: Sequence[Person]


@strawberry.enum(description="What has happened to a person in a room.")
class PersonEventKind(StrEnum):
    """What has happened to a person in a room."""

    JOINED = "JOINED"
    CHANGED = "CHANGED"
    LEFT = "LEFT"


@documented
@strawberry.type
class PersonEvent:
    """Somebody joined a room, began or stopped typing, or left."""

    kind: PersonEventKind
    person: Person


@documented
@strawberry.type
class PeopleUpdate:
    """Either everybody who is in a room, or one change."""

    snapshot: People | None = None
    change: PersonEvent | None = None


ROOMS = Topic("rooms.<room>", Message, presence=True)
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
