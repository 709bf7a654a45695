"""How fast messages may come."""


class Rate:
    """So many messages a second for long, and so many at once: a leaky bucket (ITU-T I.371).

    What it keeps is the time by which all that has come would have come at the steady rate.
    """

    __slots__ = ("_due", "_interval", "_tolerance")

    def __init__(self, per_second: float, burst: int) -> None:
        self._interval = 1 / per_second
        # A little more than that: floats are not exact.
        self._tolerance = (burst - 1 + 1e-6) * self._interval
        self._due = 0.0

    def allows(self, now: float) -> bool:
        """Count a message at `now`, in seconds; tell whether it may come."""
        if self._due - now > self._tolerance:
            return False
        self._due = max(self._due, now) + self._interval
        return True
