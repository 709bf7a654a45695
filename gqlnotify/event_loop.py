"""Objects that exist once for each event loop, and work that waits for its next tick."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from typing import Any, ClassVar, Protocol, Self
from weakref import WeakKeyDictionary

from typing_extensions import override

# Executions and writes that follow a slice come on top: with 5,000 subscribers, the longest stretch
# of the loop was 6.5 ms.
SLICE_SECONDS = 0.001
# More would be noticed as a delay, however long a fan-out takes.
LONGEST_REST_SECONDS = 0.1
# A shorter fan-out costs less than the wait for others to join it.
_WORTH_A_REST_SECONDS = 0.002
_LOOK_SHARE = 1 / 8
_LEAST_LOOK_SECONDS = 0.001

logger = logging.getLogger("gqlnotify")


class OnePerLoop:
    """Base of classes with one instance for each event loop, which exists as long as the loop."""

    _known: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Any]]

    @override
    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._known = WeakKeyDictionary()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Self:
        """Return the instance of `loop`, and create it on first use."""
        found: Self | None = cls._known.get(loop)
        if found is None:
            found = cls._known[loop] = cls()
        return found


class Waiting(Protocol):
    """Has work for the next tick."""

    def on_tick(self) -> None:
        """Do the work. This returns at once."""


class TickBatcher(OnePerLoop):
    """Does the work of one event loop's next tick, in slices of about `SLICE_SECONDS`.

    Between two slices, the loop handles what else is ready: messages, pings and timers. Each slice
    has its own `contextvars` context. It must not inherit the viewer or the trace of the first
    caller.

    It also paces the fan-outs of events. A fan-out that took long is followed by a rest. The rest
    ends when no further event came for an eighth of that time, at the latest after as long as the
    last fan-out took. So a busy process sends many events together, and does not fall behind.
    After the rest, the next fan-out begins at once.
    """

    def __init__(self) -> None:
        self.slice = 1
        """The number of the current slice, or of the last one."""
        self._waiting: deque[Waiting] = deque()
        self._scheduled = False
        self._began_at: float | None = None
        self._fans_out = False
        self._put_off: list[Waiting] = []
        self._is_quiet = True
        self._rest = 0.0
        self._rests_until = 0.0
        # Not the timer: it refers to the loop, which would then never be freed.
        self._looks = False

    def add(self, waiting: Waiting) -> None:
        """Call `waiting.on_tick()` in the next tick."""
        self._waiting.append(waiting)
        if not self._scheduled:
            self._scheduled = True
            _soon(self._run)

    def add_fan_out(self, waiting: Waiting) -> None:
        """Call `waiting.on_tick()` in the next tick, or after the rest of the last fan-out."""
        self._put_off.append(waiting)
        self._is_quiet = False
        if self._began_at is None and not self._looks:
            self._begin_or_rest()

    def extend_rest(self) -> None:
        """Note a further event of a fan-out that is put off."""
        self._is_quiet = False

    def _begin_or_rest(self) -> None:
        if self._is_quiet or monotonic() >= self._rests_until:
            self._fans_out = True
            put_off, self._put_off = self._put_off, []
            for one in put_off:
                self.add(one)
            return
        self._is_quiet = True
        seconds = max(self._rest * _LOOK_SHARE, _LEAST_LOOK_SECONDS)
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, self._look_again, context=Context())
        self._looks = True

    def _look_again(self) -> None:
        self._looks = False
        if self._began_at is None:
            self._begin_or_rest()

    def _run(self) -> None:
        self.slice += 1
        # uvloop's own clock stands still within a tick.
        now = monotonic()
        if self._began_at is None:
            self._began_at = now
        try:
            self._run_slice(now + SLICE_SECONDS)
        finally:
            # What an event loop or a task writes after this tick belongs to the work.
            _soon(self._run if self._waiting else self._settle)

    def _run_slice(self, deadline: float) -> None:
        while self._waiting:
            try:
                self._waiting.popleft().on_tick()
            except Exception:
                logger.exception("Work for a tick of the event loop failed")
            if monotonic() >= deadline:
                break

    def _settle(self) -> None:
        if self._waiting:
            self._run()
            return
        assert self._began_at is not None
        now = monotonic()
        took = now - self._began_at
        self._began_at, self._scheduled = None, False
        if self._fans_out:
            self._fans_out = False
            self._rest = min(took, LONGEST_REST_SECONDS) if took >= _WORTH_A_REST_SECONDS else 0.0
            self._rests_until = now + self._rest
        if self._put_off and not self._looks:
            self._begin_or_rest()


def _soon(run: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(run, context=Context())
