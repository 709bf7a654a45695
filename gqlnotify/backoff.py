"""How long to wait before the next attempt at something that fails. Pure."""

import random


class Backoff:
    """Waits that double from `shortest` to `longest` seconds.

    Each is shortened by up to a half at random, so that many processes that lost the same server
    don't all come back in the same moment.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = self._wait = shortest
        self._longest = longest

    def next(self) -> float:
        """Return how many seconds to wait now; the next wait is longer."""
        wait, self._wait = self._wait, min(self._wait * 2, self._longest)
        return wait * random.uniform(0.5, 1)  # noqa: S311

    def reset(self) -> None:
        """Begin with the shortest wait again, after a success."""
        self._wait = self._shortest
