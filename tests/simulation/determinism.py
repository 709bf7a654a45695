"""Replaces the clocks and the randomness of this interpreter. Import it before anything else.

Modules bind names such as `from time import monotonic` when they are imported, so this has to come
first. `python -m tests.simulation` does so, in an interpreter of its own, with PYTHONHASHSEED=0.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from typing_extensions import override

EPOCH = 1_800_000_000.0
"""What a wall clock shows when a simulation begins, in seconds since 1970."""


class Clock:
    """The time of the simulation, and how far the wall clock of the running process is off."""

    def __init__(self) -> None:
        self.now = 0.0
        self.skew = 0.0

    def monotonic(self) -> float:
        """Return the seconds since the simulation began."""
        return self.now

    def wall(self) -> float:
        """Return what the wall clock of the running process shows."""
        return EPOCH + self.now + self.skew


CLOCK = Clock()
_random_bytes = random.Random(0)
_serials = count(1)


class SimulatedTask(asyncio.Task[Any]):
    """A task with a hash that does not depend on its address in memory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._serial = next(_serials)
        super().__init__(*args, **kwargs)

    @override
    def __hash__(self) -> int:
        return self._serial


def seed(number: int) -> None:
    """Begin at time 0, and make everything that is random follow from `number`."""
    global _serials
    CLOCK.now, _serials = 0.0, count(1)
    random.seed(number)
    _random_bytes.seed(number)


def replace_clocks() -> Callable[[], float]:
    """Replace what a module could import from `time`, `os` and `random`.

    Returns the real clock, to measure how long simulations take.
    """
    real = time.perf_counter
    for name in ("monotonic", "perf_counter", "thread_time", "process_time"):
        setattr(time, name, CLOCK.monotonic)
    time.time = CLOCK.wall
    for module, name in ((os, "urandom"), (random, "_urandom")):
        setattr(module, name, _random_bytes.randbytes)
    return real


def replace_hashes() -> None:
    """Give the objects that the library keeps in sets an order that follows from the seed."""
    from gqlnotify.server.http import HttpProtocol
    from gqlnotify.server.websocket import WebSocketProtocol
    from gqlnotify.topics.revocation import _Watch
    from gqlnotify.topics.subscriber import Subscriber
    from gqlnotify.websocket.shared_operation import SharedOperation

    for cls in (Subscriber, HttpProtocol, WebSocketProtocol):
        _with_serial(cls)
    _with_hash(_Watch, lambda watch: hash(watch.principal.subject))
    _with_hash(SharedOperation, lambda operation: hash(operation.id))


def _with_serial(cls: Any) -> None:
    def serial(self: Any) -> int:
        found: int | None = vars(self).get("_serial")
        if found is None:
            found = self._serial = next(_serials)
        return found

    _with_hash(cls, serial)


def _with_hash(cls: Any, hash_of: Callable[[Any], int]) -> None:
    cls.__hash__ = hash_of
