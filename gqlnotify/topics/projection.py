"""Turns each event of a subscription into a value: decodes, filters and maps it."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gqlnotify.callables import plain_result
from gqlnotify.errors import EventUnreadable
from gqlnotify.event import Cursor, Event, Topic
from gqlnotify.observability import metrics, trace
from gqlnotify.topics.conflation import SKIPPED, Skipped

logger = logging.getLogger("gqlnotify.topics")


@dataclass(frozen=True, slots=True)
class Projection:
    """How a subscription turns an event into a value: decode, filter, map."""

    topic: Topic[Any]
    where: Callable[[Any], bool] | None = None
    select: Callable[[Any, Event], Any] | None = None

    def apply(self, event: Event) -> Any:
        """Return the value for `event`, or `SKIPPED` if the filter drops it.

        For an event that can't be decoded, this returns an `EventUnreadable` instead of raising
        it. Executing an exception in place of a value gives an error for this event only.
        """
        try:
            value = self.topic.decode(event.payload)
        except ValueError as error:
            _report_unreadable(event.topic, event.cursor, str(error))
            return EventUnreadable(event.cursor)
        if not self.lets_through(value):
            return SKIPPED
        return value if self.select is None else plain_result(self.select(value, event), "map")

    def reads(self, event: Event) -> bool:
        """Return whether `event` can be decoded."""
        try:
            self.topic.decode(event.payload)
        except ValueError as error:
            _report_unreadable(event.topic, event.cursor, str(error))
            return False
        return True

    def lets_through(self, value: Any) -> bool:
        """Return whether the filter, if there is one, accepts the decoded value."""
        return self.where is None or bool(plain_result(self.where(value), "where"))

    def key_of(self, event: Event) -> Hashable | Skipped:
        """Return the `latest_by` key of `event`, or `SKIPPED` if the filter drops it.

        A dropped event must not replace an earlier one. Otherwise a slow subscriber would end with
        another state than a fast one.
        """
        assert self.topic.latest_by is not None
        try:
            value = self.topic.decode(event.payload)
            if not self.lets_through(value):
                return SKIPPED
        except Exception:
            # The event is kept, and `apply` reports the error.
            return None
        key: Hashable = plain_result(self.topic.latest_by(value), "latest_by")
        return key


@lru_cache(maxsize=1024)
def _report_unreadable(topic: str, cursor: Cursor, why: str) -> None:
    """Log and count an unreadable event once, even if many subscriptions read it."""
    metrics.unreadable_events.inc()
    # Without the reason: it may contain a part of the payload.
    trace.note(trace.Kind.UNREADABLE, topic=topic, cursor=cursor)
    logger.error("The event of %r at %s can't be read: %s", topic, cursor, why)
