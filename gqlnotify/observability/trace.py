"""What happened lately to subjects and topics in this process, for `gqlnotify trace`.

Only rare facts are recorded: the begin and the end of connections and subscriptions, refusals and
gaps. A delivery is never recorded, and neither is a payload. What a delivery has led to is found
out when somebody asks, from the history and from the subscriptions that run then.
"""

from collections import deque
from collections.abc import Callable

from gqlnotify import clock
from gqlnotify.errors import TokenExpired, TokenRevoked, Unauthenticated
from gqlnotify.observability import logs
from gqlnotify.observability.trace_facts import Fact, Kind
from gqlnotify.observability.trace_live import live

__all__ = ["Fact", "Kind", "Ring", "live", "note", "note_token", "ring"]

MAX_BYTES = 2_000_000
MAX_SECONDS = 900.0
_MAX_TEXT = 200


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
        if self._max_bytes <= 0 and not live.on:
            return
        connection = connection or logs.connection_id.get()
        fact = Fact(
            self._now(), kind, subject, topic, cursor, until, connection, code, text[:_MAX_TEXT]
        )
        self._facts.append(fact)
        self._bytes += fact.weight
        if live.on:
            live.add(fact)
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


def note_token(error: Unauthenticated, subject: str) -> None:
    """Record that a token has ended, or was refused."""
    kind = Kind.REFUSED
    if isinstance(error, TokenExpired):
        kind = Kind.EXPIRED
    elif isinstance(error, TokenRevoked):
        kind = Kind.REVOKED
    note(kind, subject=subject, code=error.code, text=error.message)
