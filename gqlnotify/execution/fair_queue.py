"""Shares a resource that serves one item at a time equally between askers."""

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
    """Weighted fair queueing: takes the item that would finish first if all askers ran in parallel.

    An item waits for earlier items of its own asker. It waits for items of other askers only if
    they cost less. So an asker with many or large items mostly delays itself. The clock is
    virtual: each item that is taken advances it by the item's cost, divided by the number of
    waiting askers. New items start at the clock, so every item is taken at some point.

    An item can be in the queue only once. Each operation takes time logarithmic in the length of
    the queue.
    """

    def __init__(self) -> None:
        self._clock = 0.0
        self._waiting: dict[T, _Waiting] = {}
        # A heap, ordered by the virtual finish time. It still has the discarded items.
        self._order: list[tuple[float, int, T]] = []
        self._numbers = count()
        self._items_of: Counter[Hashable] = Counter()
        # The virtual finish time of each asker's last item.
        self._busy_until: dict[Hashable, float] = {}
        self._sweep_at = _SWEEP_AT

    def add(self, item: T, asker: Hashable, cost: float) -> None:
        """Add `item` to the queue."""
        finish = max(self._clock, self._busy_until.get(asker, 0.0)) + cost
        self._waiting[item] = _Waiting(asker, cost)
        self._items_of[asker] += 1
        heappush(self._order, (finish, next(self._numbers), item))
        self._busy_until[asker] = finish
        if max(len(self._order), len(self._busy_until)) > self._sweep_at:
            self._sweep()

    def discard(self, item: T) -> None:
        """Remove `item` from the queue, if it is there."""
        if item in self._waiting:
            self._remove(item)

    def take(self) -> T | None:
        """Remove the next item and return it; None if the queue is empty."""
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
        """Drop discarded items and idle askers. Rare enough that the cost per item stays low."""
        self._order = [entry for entry in self._order if entry[2] in self._waiting]
        heapify(self._order)
        self._busy_until = {
            asker: until for asker, until in self._busy_until.items() if until > self._clock
        }
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._order), 2 * len(self._busy_until))

    def __len__(self) -> int:
        return len(self._waiting)
