"""Deadlines for peers, which do not expire while this process itself is blocked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# A deadline consists of parts, and only a part that ends on time counts.
_PARTS = 2
# How late a part may end, as a share of its length. With less, a loop that is always a little late
# would postpone every deadline forever.
_TOLERANCE = 1.0
_LEAST_TOLERANCE_SECONDS = 0.25


class Deadline:
    """Calls `expired` once, after `seconds` in which the event loop ran.

    While the loop is blocked, it reads no data from peers. So if a part of the time ends very late,
    the deadline starts again.
    """

    __slots__ = ("_due", "_expired", "_left", "_loop", "_part", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, expired: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._part = seconds / _PARTS
        self._expired = expired
        self._left = _PARTS
        self._wait()

    def cancel(self) -> None:
        """Cancel the deadline."""
        self._timer.cancel()
        # It is often a method of the object that keeps this one: a cycle.
        self._expired = _nothing

    def _wait(self) -> None:
        self._due = self._loop.time() + self._part
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        late = self._loop.time() - self._due
        if late > max(self._part * _TOLERANCE, _LEAST_TOLERANCE_SECONDS):
            self._left = _PARTS
        else:
            self._left -= 1
        if self._left:
            self._wait()
            return
        expired = self._expired
        self.cancel()
        expired()


def _nothing() -> None:
    """Take the place of what is called, because the deadline is over."""


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """Limit the body to `seconds`, as `asyncio.timeout` does, but by a `Deadline`.

    Raises:
        TimeoutError: The time is over.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        deadline = Deadline(loop, seconds, lambda: limit.reschedule(loop.time()))
        try:
            yield
        finally:
            deadline.cancel()
