"""Moves time: the clocks of the library, and the event loop's own clock with all of its timers."""

import asyncio
import time
from heapq import heappop, heappush
from math import inf
from typing import Any

from gqlnotify import clock
from gqlnotify.event_loop import OnePerLoop

# A timer may begin work that takes several turns, and sets further timers.
_TURNS_OF_A_TIMER = 10
_TURNS_TO_SETTLE = 50


class Clock:
    """The clock of one test. It runs like a real one, and can be moved forward.

    It moves the timers and timeouts of the event loop, `asyncio.sleep` included, and the clocks of
    gqlnotify: the expiry of tokens, the age of histories, pings. It does not move `time.time` and
    `datetime.now` in the application's own code, nor what runs in threads.
    """

    def __init__(self) -> None:
        self._ahead = 0.0

    def time(self) -> float:
        """Return the seconds since 1970."""
        return time.time() + self._ahead

    def monotonic(self) -> float:
        """Return a time in seconds that never goes back."""
        return time.monotonic() + self._ahead

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once. Every timer that falls due runs at its own time, in order.

        Raises:
            ValueError: `seconds` is negative.
            RuntimeError: The event loop is not asyncio's own.
        """
        if seconds < 0:
            raise ValueError("Time does not go back: pass a number of seconds that is not negative")
        timers = Timers.of(asyncio.get_running_loop())
        left = float(seconds)
        while left > 0:
            step = min(timers.until_next(), left)
            timers.ahead += step
            self._ahead += step
            left -= step
            await settle(_TURNS_OF_A_TIMER)
        await settle()

    def start(self) -> None:
        """Show this clock to gqlnotify."""
        clock.use(self)

    def stop(self) -> None:
        """Show the real clock to gqlnotify again."""
        clock.use(time)


async def settle(turns: int = _TURNS_TO_SETTLE) -> None:
    """Let the event loop run what is ready, and what that makes ready."""
    for _ in range(turns):
        await asyncio.sleep(0)


class Timers(OnePerLoop):
    """When the timers of one event loop fall due, and how far its clock is ahead.

    They stay with the loop: its clock must not go back when a test has ended.
    """

    def __init__(self) -> None:
        self.ahead = 0.0
        self._moves = False
        # Not the timers: they refer to the loop, which would then never be freed.
        self._due: list[float] = []

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to move the clock of `loop`, and to note its timers. Other loops stay as they are.

        Timers that were set earlier move too, but may run late.
        """
        if self._moves or getattr(type(loop), "time", None) is not asyncio.BaseEventLoop.time:
            return
        self._moves = True
        call_at = loop.call_at

        def noted(when: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
            heappush(self._due, when)
            return call_at(when, *arguments, **options)

        replaced: Any = loop
        replaced.time, replaced.call_at = self._time, noted

    def until_next(self) -> float:
        """Return the seconds until the next timer; infinity if there is none.

        Raises:
            RuntimeError: The clock of this event loop can't be moved.
        """
        if not self._moves:
            raise RuntimeError(
                "Time can only be moved in asyncio's own event loop, after `connect`. With uvloop, "
                "take asyncio's default policy for the tests"
            )
        now = self._time()
        while self._due and self._due[0] <= now:
            heappop(self._due)
        return self._due[0] - now if self._due else inf

    def _time(self) -> float:
        return time.monotonic() + self.ahead
