"""How fast something may come. Pure."""


class Rate:
    """So many a second for long, and so many at once: a leaky bucket (ITU-T I.371).

    What it keeps is the time by which all that has come would have come at the steady rate.
    """

    __slots__ = ("_due", "_interval", "_tolerance")

    def __init__(self, per_second: float, burst: int) -> None:
        self._interval = 1 / per_second
        # A little more than that: floats are not exact.
        self._tolerance = (burst - 1 + 1e-6) * self._interval
        self._due = 0.0

    def allows(self, now: float) -> bool:
        """Count one more at `now`, in seconds, if it may come; return whether it may."""
        if self.wait(now) > 0:
            return False
        self.count(now)
        return True

    def wait(self, now: float) -> float:
        """Return for how many seconds none may come; 0 or less if one may."""
        return self._due - now - self._tolerance

    def count(self, now: float) -> None:
        """Count one more, whether it may come or not."""
        self._due = max(self._due, now) + self._interval
