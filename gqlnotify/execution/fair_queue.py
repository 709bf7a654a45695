"""Who is next, so that each asker has the same share of a resource that serves one at a time."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Waiting:
    asker: Hashable
    cost: float
    finish: float


class FairQueue(Generic[T]):
    """Weighted fair queueing: next is what would be done first if all askers were served at once.

    What an asker adds waits for its earlier items, and for the others only as long as they cost
    less. So many items, or large ones, delay those of their own asker. The clock is virtual: it
    advances with each item that is taken, by the cost divided by the number of those who wait.
    Every item is taken some day, as a new one begins at the clock.
    """

    def __init__(self) -> None:
        self._clock = 0.0
        self._waiting: dict[T, _Waiting] = {}
        # When the last item of each asker would be done.
        self._busy_until: dict[Hashable, float] = {}

    def add(self, item: T, asker: Hashable, cost: float) -> None:
        """Let `item` wait."""
        finish = max(self._clock, self._busy_until.get(asker, 0.0)) + cost
        self._waiting[item] = _Waiting(asker, cost, finish)
        self._busy_until[asker] = finish

    def discard(self, item: T) -> None:
        """Let `item` wait no more."""
        self._waiting.pop(item, None)

    def take(self) -> T | None:
        """Remove the next item and return it; None if nothing waits."""
        if not self._waiting:
            self._busy_until.clear()
            return None
        item = min(self._waiting, key=lambda item: self._waiting[item].finish)
        askers = {waiting.asker for waiting in self._waiting.values()}
        self._clock += self._waiting.pop(item).cost / len(askers)
        self._busy_until = {
            asker: until for asker, until in self._busy_until.items() if until > self._clock
        }
        return item

    def __len__(self) -> int:
        return len(self._waiting)
