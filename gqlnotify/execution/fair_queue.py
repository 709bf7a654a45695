"""Who is next, so that each asker has the same share of a resource that serves one at a time."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_SWEEP_AT = 1000


@dataclass(frozen=True, slots=True)
class _Waiting:
    asker: Hashable
    cost: float


class FairQueue(Generic[T]):
    """Weighted fair queueing: next is what would be done first if all askers were served at once.

    What an asker adds waits for its earlier items, and for the others only as long as they cost
    less. So many items, or large ones, delay those of their own asker. The clock is virtual: it
    advances with each item that is taken, by the cost divided by the number of those who wait.
    Every item is taken some day, as a new one begins at the clock.

    An item may wait once. However many wait, each costs a logarithm of their number.
    """

    def __init__(self) -> None:
        self._clock = 0.0
        self._waiting: dict[T, _Waiting] = {}
        # A heap, by when each would be done. What was discarded is still in it.
        self._order: list[tuple[float, int, T]] = []
        self._numbers = count()
        self._items_of: Counter[Hashable] = Counter()
        # When the last item of each asker would be done.
        self._busy_until: dict[Hashable, float] = {}
        self._sweep_at = _SWEEP_AT

    def add(self, item: T, asker: Hashable, cost: float) -> None:
        """Let `item` wait."""
        finish = max(self._clock, self._busy_until.get(asker, 0.0)) + cost
        self._waiting[item] = _Waiting(asker, cost)
        self._items_of[asker] += 1
        heappush(self._order, (finish, next(self._numbers), item))
        self._busy_until[asker] = finish
        if max(len(self._order), len(self._busy_until)) > self._sweep_at:
            self._sweep()

    def discard(self, item: T) -> None:
        """Let `item` wait no more."""
        if item in self._waiting:
            self._remove(item)

    def take(self) -> T | None:
        """Remove the next item and return it; None if nothing waits."""
        while self._order:
            _, _, item = heappop(self._order)
            if item in self._waiting:
                askers = len(self._items_of)
                self._clock += self._remove(item).cost / askers
                return item
        self._busy_until.clear()
        return None

    def _remove(self, item: T) -> _Waiting:
        waiting = self._waiting.pop(item)
        self._items_of[waiting.asker] -= 1
        if not self._items_of[waiting.asker]:
            del self._items_of[waiting.asker]
        return waiting

    def _sweep(self) -> None:
        """Forget what was discarded, and who was busy; so seldom that an item costs no more."""
        self._order = [entry for entry in self._order if entry[2] in self._waiting]
        heapify(self._order)
        self._busy_until = {
            asker: until for asker, until in self._busy_until.items() if until > self._clock
        }
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._order), 2 * len(self._busy_until))

    def __len__(self) -> int:
        return len(self._waiting)
