"""Only the latest event of each key, for those who lag. Pure: no I/O, no clock."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import Enum, auto
from typing import TypeVar

E = TypeVar("E")


class Skipped(Enum):
    """What a filter makes of an event that it does not let through."""

    SKIPPED = auto()


SKIPPED = Skipped.SKIPPED


def conflate(
    waiting: Sequence[E], key_of: Callable[[E], Hashable | Skipped]
) -> Iterator[tuple[E, int]]:
    """Yield what is left of `waiting`, in order, each with how many were left out before it.

    An event is left out if a later one has its key. One whose key is None stands for itself, and
    one that is `SKIPPED` is told to nobody: it only marks how far the reader is, and a number
    waits for the next one that is told. Whoever has but one waiting does not lag.
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
