"""Timers of connections, which share one timer of their event loop.

With its handle, its context and the method that it calls, a timer of uvloop takes 0.6 kB. Each
connection has three for most of its life.
"""

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from heapq import heapify, heappop, heappush
from time import monotonic

from gqlnotify.event_loop import SLICE_SECONDS, OnePerLoop

# uvloop's timers have whole milliseconds, so one may be early.
_EARLY_SECONDS = 0.001
_FIRST_SWEEP = 1024

logger = logging.getLogger("gqlnotify")


class Timer:
    """Calls a function once, unless it is cancelled before."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], object]) -> None:
        self.due = due
        self.call: Callable[[], object] | None = call

    def __lt__(self, other: "Timer") -> bool:
        return self.due < other.due

    def cancel(self) -> None:
        """Cancel the timer."""
        self.call = None


class Timers(OnePerLoop):
    """The timers of one event loop. They run in an empty `contextvars` context.

    If many are due at once, they run in slices of about `SLICE_SECONDS`.
    """

    def __init__(self) -> None:
        self._waiting: list[Timer] = []  # a heap
        # When the loop's timers run, the earliest last. Not those timers: they refer to the loop,
        # which would then never be freed.
        self._wakes_at: list[float] = []
        self._sweep_at = _FIRST_SWEEP

    def __len__(self) -> int:
        return len(self._waiting)

    def after(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call `call` in `seconds`."""
        # A timer that sets another one for the last millisecond must not run again at once.
        seconds = max(seconds, _EARLY_SECONDS)
        timer = Timer(asyncio.get_running_loop().time() + seconds, call)
        heappush(self._waiting, timer)
        self._sweep_sometimes()
        self._wake_in_time()
        return timer

    def _sweep_sometimes(self) -> None:
        # A cancelled timer may be due in hours. Only once their number has doubled, so that the
        # cost for each timer stays constant.
        if len(self._waiting) < self._sweep_at:
            return
        self._waiting = [timer for timer in self._waiting if timer.call is not None]
        heapify(self._waiting)
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._waiting))

    def _wake_in_time(self) -> None:
        if not self._waiting:
            return
        due = self._waiting[0].due
        if not self._wakes_at or due < self._wakes_at[-1]:
            self._wakes_at.append(due)
            asyncio.get_running_loop().call_at(due, self._run, context=Context())

    def _run(self) -> None:
        now = asyncio.get_running_loop().time() + _EARLY_SECONDS
        while self._wakes_at and self._wakes_at[-1] <= now:
            self._wakes_at.pop()
        self._call_due(now)
        self._wake_in_time()

    def _call_due(self, now: float) -> None:
        end = monotonic() + SLICE_SECONDS
        while self._waiting and self._waiting[0].due < now and monotonic() < end:
            call = heappop(self._waiting).call
            if call is None:
                continue
            try:
                call()
            except Exception:
                logger.exception("A timer of a connection failed")
