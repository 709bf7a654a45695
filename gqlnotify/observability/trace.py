"""What happened lately to subjects and topics in this process, for `gqlnotify trace`.

Only rare facts are recorded: the begin and the end of connections and subscriptions, refusals and
gaps. A delivery is never recorded, and neither is a payload. What a delivery has led to is found
out when somebody asks, from the history and from the subscriptions that run then.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from gqlnotify import clock
from gqlnotify.observability import logs

MAX_BYTES = 2_000_000
MAX_SECONDS = 900.0
# Measured with `sys.getsizeof`: the object, its time and its place in the deque.
_FACT_BYTES = 160
_MAX_TEXT = 200


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
    """A connection was closed because its token expired."""
    REVOKED = "revoked"
    """A connection was closed because its token was revoked."""
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


@dataclass(frozen=True, slots=True)
class Fact:
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
        """The estimated bytes that the fact takes."""
        return _FACT_BYTES + len(self.text) + len(self.subject or "") + len(self.topic or "")

    def formatted(self) -> dict[str, Any]:
        """Return the fact as an object of JSON, without what it does not say."""
        return {name: value for name, value in asdict(self).items() if value not in {None, ""}}

    def concerns(self, subject: str | None, topic: str | None) -> bool:
        """Return whether the fact is about this subject and topic. None stands for any."""
        if subject is None:
            return topic in {None, self.topic}
        # What concerns everybody concerns the subject, and so does its connection.
        return self.subject in {None, subject} and (topic is None or self.topic in {None, topic})


class Ring:
    """The latest facts, bounded in bytes and in time.

    Args:
        max_bytes: how much the facts may take together; 0 records none.
        max_seconds: how long a fact is kept.
        now: the clock, in seconds since 1970.
    """

    def __init__(
        self,
        max_bytes: int = MAX_BYTES,
        max_seconds: float = MAX_SECONDS,
        *,
        now: Callable[[], float] = clock.now,
    ) -> None:
        self._now = now
        self._facts: deque[Fact] = deque()
        self._bytes = 0
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._began = now()
        self._dropped_at: float | None = None

    def limit(self, max_bytes: int, max_seconds: float) -> None:
        """Change the bounds."""
        self._max_bytes, self._max_seconds = max_bytes, max_seconds
        self._trim()

    def clear(self) -> None:
        """Forget everything. For tests."""
        self._facts.clear()
        self._bytes, self._began, self._dropped_at = 0, self._now(), None

    @property
    def reaches_back_to(self) -> float:
        """Since when every fact is here, in seconds since 1970."""
        self._trim()
        return self._began if self._dropped_at is None else self._dropped_at

    def note(
        self,
        kind: Kind,
        *,
        subject: str | None = None,
        topic: str | None = None,
        cursor: str | None = None,
        until: str | None = None,
        connection: str | None = None,
        code: str | None = None,
        text: str = "",
    ) -> None:
        """Record a fact. Without `connection`, it is about the one that the caller runs for."""
        if self._max_bytes <= 0:
            return
        connection = connection or logs.connection_id.get()
        fact = Fact(
            self._now(), kind, subject, topic, cursor, until, connection, code, text[:_MAX_TEXT]
        )
        self._facts.append(fact)
        self._bytes += fact.weight
        self._trim()

    def about(self, subject: str | None, topic: str | None, *, since: float = 0.0) -> list[Fact]:
        """Return the facts about this subject and topic since that time, oldest first."""
        self._trim()
        return [fact for fact in self._facts if fact.at >= since and fact.concerns(subject, topic)]

    def _trim(self) -> None:
        oldest = self._now() - self._max_seconds
        while self._facts and (self._bytes > self._max_bytes or self._facts[0].at < oldest):
            dropped = self._facts.popleft()
            self._bytes -= dropped.weight
            self._dropped_at = dropped.at


ring = Ring()
"""The facts of this process."""
note = ring.note
