"""What a subscription makes of each event: its value, filtered, and made into something else."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gqlnotify.callables import plain_result
from gqlnotify.errors import EventUnreadable
from gqlnotify.event import Cursor, Event, Topic
from gqlnotify.observability import metrics
from gqlnotify.topics.conflation import SKIPPED, Skipped

logger = logging.getLogger("gqlnotify.topics")


@dataclass(frozen=True, slots=True)
class Projection:
    """What is made of each event: its value, filtered, and made into something else."""

    topic: Topic[Any]
    where: Callable[[Any], bool] | None = None
    select: Callable[[Any, Event], Any] | None = None

    def apply(self, event: Event) -> Any:
        """Return what is made of `event`; `SKIPPED` where it is left out.

        An event that can't be read makes an `EventUnreadable`, returned and not raised: executing
        it gives an error for this one event, as for any exception in place of a value.
        """
        try:
            value = self.topic.decode(event.payload)
        except ValueError as error:
            _report_unreadable(event.topic, event.cursor, str(error))
            return EventUnreadable(event.cursor)
        if not self._lets_through(value):
            return SKIPPED
        return value if self.select is None else plain_result(self.select(value, event), "map")

    def _lets_through(self, value: Any) -> bool:
        return self.where is None or bool(plain_result(self.where(value), "where"))

    def key_of(self, event: Event) -> Hashable | Skipped:
        """Return the key that the topic gives to `event`; `SKIPPED` where it is left out.

        What is left out makes nothing old news: whoever lags ends up where all others are.
        """
        assert self.topic.latest_by is not None
        try:
            value = self.topic.decode(event.payload)
            if not self._lets_through(value):
                return SKIPPED
        except Exception:
            # It comes, and is told of when it is its turn.
            return None
        key: Hashable = plain_result(self.topic.latest_by(value), "latest_by")
        return key


@lru_cache(maxsize=1024)
def _report_unreadable(topic: str, cursor: Cursor, why: str) -> None:
    """Log and count an event once, however many subscriptions meet it."""
    metrics.unreadable_events.inc()
    logger.error("The event of %r at %s can't be read: %s", topic, cursor, why)
