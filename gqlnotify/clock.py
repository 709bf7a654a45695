"""The clocks that stored times are compared with, in one place, so that tests can move them.

What only measures how long something took reads the clock of the `time` module itself.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Source(Protocol):
    """Two clocks, in seconds. The module `time` is one."""

    def time(self) -> float:
        """Return the seconds since 1970."""

    def monotonic(self) -> float:
        """Return a time that never goes back."""


_source: Source = time


def now() -> float:
    """Return the seconds since 1970."""
    return _source.time()


def utc_now() -> datetime:
    """Return the time of `now` as a `datetime`."""
    return datetime.fromtimestamp(now(), UTC)


def monotonic() -> float:
    """Return a time in seconds that never goes back."""
    return _source.monotonic()


def use(source: Source) -> None:
    """Read these clocks from now on. Only tests and simulations call this."""
    global _source  # noqa: PLW0603
    _source = source
