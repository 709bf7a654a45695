"""Keeps only the latest event of each key for slow subscribers. Pure: no I/O, no clock."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import Enum, auto
from typing import TypeVar

E = TypeVar("E")


class Skipped(Enum):
    """The result for an event that a filter drops."""

    SKIPPED = auto()


SKIPPED = Skipped.SKIPPED


def conflate(
    waiting: Sequence[E], key_of: Callable[[E], Hashable | Skipped]
) -> Iterator[tuple[E, int]]:
    """Yield the events of `waiting` to deliver, in order, each with the number dropped before it.

    An event is dropped if a later one has the same key. An event with the key None is always kept.
    A `SKIPPED` event is yielded, but not delivered: it only advances the subscriber's position,
    and the number of dropped events goes to the next delivered one. A single waiting event is
    yielded as it is, because its subscriber is not slow.
    """
    if len(waiting) < 2:
        yield from ((event, 0) for event in waiting)
        return
    keys = [key_of(event) for event in waiting]
    places = {key: place for place, key in enumerate(keys)}
    left_out = 0
    for place, (event, key) in enumerate(zip(waiting, keys, strict=True)):
        if key is SKIPPED:
            yield event, 0
        elif key is not None and places[key] != place:
            left_out += 1
        else:
            yield event, left_out
            left_out = 0
