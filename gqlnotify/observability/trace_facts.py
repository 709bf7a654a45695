"""What `gqlnotify trace` tells: one thing that happened to a subject or on a topic. Pure."""

from enum import StrEnum
from sys import getsizeof
from typing import Any, NamedTuple

# Measured: the object, its time, its place in a deque, and the numbers of a cursor.
_FACT_BYTES = 240


class Kind(StrEnum):
    """What a fact says."""

    CONNECTED = "connected"
    """A socket was admitted."""
    CLOSED = "closed"
    """A connection ended."""
    SUBSCRIBED = "subscribed"
    """A subscription began after `cursor`."""
    ENDED = "ended"
    """A subscription ended. It had been sent everything up to `cursor`."""
    REFUSED = "refused"
    """Something was refused, with `code`."""
    EXPIRED = "expired"
    """A connection was closed, or refused, because its token has expired."""
    REVOKED = "revoked"
    """A connection was closed, or refused, because its token was revoked."""
    TOO_SLOW = "too_slow"
    """A connection was closed because its peer did not read."""
    PEER_SILENT = "peer_silent"
    """A connection was closed because its peer did not answer a ping."""
    RESUMED = "resumed"
    """A subscription goes back to `cursor`, where its client had got to."""
    FAILED = "failed"
    """An operation ended with an error, `code`."""
    NOT_PUBLISHED = "not_published"
    """Publishing to `topic` was refused, with `code`."""
    GAP = "gap"
    """The events after `cursor`, up to `until`, could not be read any more."""
    UNREADABLE = "unreadable"
    """The event at `cursor` could not be decoded."""

    # These are told only while somebody watches.
    PUBLISHED = "published"
    RECEIVED = "received"
    """The process has got the event from the broker."""
    EXECUTED = "executed"
    """The event was executed once for all subscriptions of a group."""
    FILTERED = "filtered"
    """The filter of a subscription, or of a group, has dropped the event."""
    PUSHED = "pushed"
    """Everything up to `cursor` was passed to the connection."""
    WAITING = "waiting"
    """The socket is full."""
    WRITTEN = "written"
    """The kernel has everything up to `cursor`."""
    SENT = "sent"
    """A subscription that is not in a group, or catches up, sends the event."""
    ACKNOWLEDGED = "acknowledged"
    """The client has confirmed everything up to `cursor`."""


# A tuple, because several are made for each event that a trace follows.
class Fact(NamedTuple):
    """One thing that happened.

    Attributes:
        at: When, in seconds since 1970, by the clock of this process.
        kind: What happened.
        subject: To whom; None if it concerns everybody.
        topic: On which topic; None if it concerns all.
        cursor: Where on the topic.
        until: Where a gap ends.
        connection: The id of the connection, as in its log lines.
        code: The stable name of an error.
        text: For people. It contains no payload.
    """

    at: float
    kind: Kind
    subject: str | None = None
    topic: str | None = None
    cursor: str | None = None
    until: str | None = None
    connection: str | None = None
    code: str | None = None
    text: str = ""

    @property
    def weight(self) -> int:
        """The estimated bytes that the fact takes, as if no other one had the same texts."""
        texts = (self.subject, self.topic, self.cursor, self.until, self.connection, self.text)
        return _FACT_BYTES + sum(getsizeof(text) for text in texts if text)

    def formatted(self) -> dict[str, Any]:
        """Return the fact as an object of JSON, without what it does not say."""
        return {name: value for name, value in zip(_NAMES, self, strict=True) if value}

    def concerns(self, subject: str | None, topic: str | None) -> bool:
        """Return whether the fact is about this subject and topic. None stands for any."""
        if subject is None:
            return topic in {None, self.topic}
        # What concerns everybody concerns the subject, and so does its connection.
        return self.subject in {None, subject} and (topic is None or self.topic in {None, topic})


_NAMES = tuple(Fact.__annotations__)


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts, as text."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
