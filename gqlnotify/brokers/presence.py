"""Presence: the members of a topic, over all processes.

The members of a topic with presence are the subjects who are subscribed to it. Each such topic has
a presence topic, which is reserved. Its events say who has joined, left or changed.

Each process tells the broker how many connections of each subject it has. So the broker needs no
record of each connection, and saving the same number again has no effect.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from gqlnotify.event import MAX_TOPIC_LENGTH, PRESENCE_TOPICS, Cursor

CHANGES_AT_ONCE = 500
"""The most changes of one `update`."""


def presence_topic(topic: str) -> str:
    """Return the name of the presence topic of `topic`."""
    name = f"{PRESENCE_TOPICS}.{topic}"
    if len(name) <= MAX_TOPIC_LENGTH:
        return name
    return f"{PRESENCE_TOPICS}:{sha256(topic.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Member:
    """A subject who is subscribed to a topic.

    Attributes:
        subject: The subject of the token. Without tokens, the name of the browser's anonymous
            session or of the connection.
        state: What the application has set last, a JSON value; None at first.
        connections: How many connections the subject has in all processes. It is 0 if the last one
            has ended a moment ago and may come back.
        since: When the subject joined, by the broker's clock, in UTC.
    """

    subject: str
    state: Any
    connections: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Joined:
    """A subject has subscribed, and was not there before."""

    member: Member


@dataclass(frozen=True, slots=True)
class Left:
    """The last connection of a subject has ended and did not come back."""

    member: Member


@dataclass(frozen=True, slots=True)
class Changed:
    """The state of a subject has changed."""

    member: Member


PresenceEvent = Joined | Left | Changed
_EVENTS: dict[str, type[PresenceEvent]] = {"joined": Joined, "left": Left, "changed": Changed}


@dataclass(frozen=True, slots=True)
class Present:
    """The members of a topic.

    Attributes:
        members: The first of them, in the order in which they joined.
        count: How many there are.
        cursor: The position of the presence topic. The events after it lead on from these members.
    """

    members: Sequence[Member]
    count: int
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Change:
    """What is new of a subject at one process. None leaves a part as it is.

    Attributes:
        subject: The subject.
        connections: How many connections it has at this process.
        state: Its state, as JSON. It has no effect on a subject who is not there.
    """

    subject: str
    connections: int | None = None
    state: bytes | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """What one process has saved of one topic.

    Attributes:
        presence_topic: The name of the presence topic.
        process: The name of the process at this topic. Empty if it has saved nothing.
        confirmed: The number of the last change that is known to be saved; 0 at first.
    """

    presence_topic: str
    process: str = ""
    confirmed: int = 0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the broker waits, in seconds.

    Attributes:
        grace: Before a subject without connections leaves.
        silence: Before a process without a sign of life counts as dead.
    """

    grace: float
    silence: float


class Presence(ABC):
    """Keeps the members of each topic, and publishes the changes to its presence topic.

    Every change and its event are one step. So a client that reads the members at a cursor,
    and then the events after it, misses nothing.
    """

    @abstractmethod
    async def update(
        self,
        registration: Registration,
        revision: int,
        changes: Sequence[Change],
        patience: Patience,
    ) -> bool:
        """Save changes of a process. They get the number `revision`.

        Return False, and save nothing, if the broker has lost changes that were confirmed. The
        process must then save everything again under a new name.

        Raises:
            BrokerUnavailable: It is unknown whether they were saved. Saving them again is safe.
        """

    @abstractmethod
    async def beat(
        self, registrations: Sequence[Registration], patience: Patience
    ) -> Sequence[bool]:
        """Show that this process lives, and let those leave whose time is over.

        These are subjects whose grace is over, and all connections at processes that are silent.
        Return for each registration whether the broker still has all that was confirmed.

        Raises:
            BrokerUnavailable: Some of this was not done. Doing it again is safe.
        """

    @abstractmethod
    async def remove(self, registration: Registration, patience: Patience) -> None:
        """Remove the process from the topic. Its subjects leave after their grace.

        Raises:
            BrokerUnavailable: Some of this was not done. Doing it again is safe.
        """

    @abstractmethod
    async def present(self, presence_topic: str, limit: int) -> Present:
        """Return the first `limit` members, their number, and the cursor of the presence topic.

        Raises:
            BrokerUnavailable: The broker can't be asked.
        """


def encode_event(event: PresenceEvent) -> bytes:
    """Return the payload of an event of a presence topic."""
    member = event.member
    values = {
        "subject": member.subject,
        "state": member.state,
        "connections": member.connections,
        "since": round(member.since.timestamp() * 1000),
    }
    return json.dumps({type(event).__name__.lower(): values}).encode()


def decode_event(value: Any) -> PresenceEvent:
    """Return the event with this payload, parsed.

    Raises:
        ValueError: it is not one, for example of a later version.
    """
    try:
        [(name, values)] = value.items()
        return _EVENTS[name](decode_member(**values))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("This is not an event of a presence topic") from error


def decode_member(*, subject: str, state: Any, connections: int, since: float) -> Member:
    """Return a member. `since` is in milliseconds since 1970."""
    return Member(subject, state, connections, datetime.fromtimestamp(since / 1000, UTC))
