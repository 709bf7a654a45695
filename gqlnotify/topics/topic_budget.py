"""Limits the new topics that a subject may ask for. Pure, except for the clock."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from gqlnotify import clock
from gqlnotify.errors import TooManyTopics
from gqlnotify.observability import metrics
from gqlnotify.rate import Rate

MAX_KNOWN = 10_000
_HOUR = 3600.0


class TopicBudget:
    """A leaky bucket for each subject. It limits topics that are new to this process.

    A new topic costs memory in this process and, in a Redis cluster, a short-lived history. A
    right such as `user.*` allows any number of them, hence the limit. A topic that any subject has
    asked for recently costs nothing.

    Args:
        limit: How many new topics a subject may ask for at once, and again in each hour.
        max_known: How many topics, and how many subjects, are remembered.
        now: The clock, in seconds.
    """

    def __init__(
        self,
        limit: int,
        *,
        max_known: int = MAX_KNOWN,
        now: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._limit = limit
        self._max_known = max_known
        self._now = now
        self._topics: OrderedDict[str, None] = OrderedDict()
        self._rates: OrderedDict[str, Rate] = OrderedDict()

    def spend(self, subject: str, topic: str) -> None:
        """Count `topic` if it is new.

        Raises:
            TooManyTopics: The subject has to wait; `extensions.retryAfter` says how many seconds.
        """
        if topic not in self._topics:
            self._count(subject)
        self._remember(self._topics, topic, None)

    def _count(self, subject: str) -> None:
        rate = self._rates.get(subject) or Rate(self._limit / _HOUR, self._limit)
        self._remember(self._rates, subject, rate)
        now = self._now()
        if not rate.allows(now):
            metrics.refused(TooManyTopics.code)
            raise TooManyTopics(
                f"More than {self._limit} new topics of one subject: wait, or raise "
                "GQLNOTIFY_NEW_TOPICS_PER_SUBJECT",
                retryAfter=math.ceil(rate.wait(now)),
            )

    def _remember(self, known: OrderedDict[str, Any], name: str, value: Any) -> None:
        known[name] = value
        known.move_to_end(name)
        if len(known) > self._max_known:
            known.popitem(last=False)
