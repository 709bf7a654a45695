"""A least-recently-used cache that is limited by weight."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Keeps values of a total weight up to `max_weight`. Evicts the least recently used first."""

    def __init__(self, max_weight: int) -> None:
        self._max_weight = max_weight
        self._weight = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return the value of `key`; None if it is not cached."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Keep `value`, unless it alone exceeds the maximum weight."""
        if weight > self._max_weight:
            return
        _, replaced = self._entries.pop(key, (None, 0))
        self._entries[key] = (value, weight)
        self._weight += weight - replaced
        while self._weight > self._max_weight:
            _, (_, forgotten) = self._entries.popitem(last=False)
            self._weight -= forgotten

    def discard(self, key: K) -> None:
        """Forget the value of `key`, if it is cached."""
        _, weight = self._entries.pop(key, (None, 0))
        self._weight -= weight

    @property
    def weight(self) -> int:
        """The total weight of the cached values."""
        return self._weight

    def __len__(self) -> int:
        return len(self._entries)
