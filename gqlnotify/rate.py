"""Limits how often something may happen. Pure."""


class Rate:
    """Allows `per_second` items per second, and up to `burst` at once.

    This is a leaky bucket in the form of the generic cell rate algorithm (ITU-T I.371): its only
    state is the time at which all items so far would have arrived at the steady rate.
    """

    __slots__ = ("_due", "_interval", "_tolerance")

    def __init__(self, per_second: float, burst: int) -> None:
        self._interval = 1 / per_second
        # A little more, because floats are not exact.
        self._tolerance = (burst - 1 + 1e-6) * self._interval
        self._due = 0.0

    def allows(self, now: float) -> bool:
        """Return whether an item may happen at `now`, in seconds. If so, count it."""
        if self.wait(now) > 0:
            return False
        self.count(now)
        return True

    def wait(self, now: float) -> float:
        """Return how many seconds the next item must wait; 0 or less if it may happen now."""
        return self._due - now - self._tolerance

    def count(self, now: float) -> None:
        """Count an item, even if it was not allowed."""
        self._due = max(self._due, now) + self._interval
