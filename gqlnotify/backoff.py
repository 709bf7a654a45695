"""How long to wait before the next attempt at something that fails. Pure."""

import random


class Backoff:
    """Waits that double from `shortest` to `longest` seconds.

    Each wait is shortened at random by up to a half, so that many processes that lost the same
    server do not reconnect at the same moment.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = self._wait = shortest
        self._longest = longest

    def next(self) -> float:
        """Return how many seconds to wait now. The next wait is twice as long, up to `longest`."""
        wait, self._wait = self._wait, min(self._wait * 2, self._longest)
        return wait * random.uniform(0.5, 1)  # noqa: S311

    def reset(self) -> None:
        """Start with the shortest wait again. Call this after a success."""
        self._wait = self._shortest
