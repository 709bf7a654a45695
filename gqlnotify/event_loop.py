"""Objects that exist once for each event loop, and work that waits for its next tick."""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from itertools import chain
from time import monotonic
from typing import Any, ClassVar, Protocol, Self
from weakref import WeakKeyDictionary

from typing_extensions import override

# Executions and writes that follow a slice come on top: with 5,000 subscribers, the longest stretch
# of the loop is usually 2 to 6 ms.
SLICE_SECONDS = 0.001
# More would be noticed as a delay, however long a fan-out takes.
LONGEST_REST_SECONDS = 0.1
# A shorter fan-out costs less than the wait for others to join it.
_WORTH_A_REST_SECONDS = 0.002
_LOOK_SHARE = 1 / 8
_LEAST_LOOK_SECONDS = 0.001
_LONGEST_INTERVAL_SECONDS = 60.0
_ROUNDS_OF_THE_UNURGENT = 8
# A visit causes the answer of a client, which costs more than the visit. With a thousand busy
# clients a process spends a tenth of its time on both. With very many it spends more, or what it
# knows of them would be older than `_OLD_SECONDS`, which would be repeated to those that come back.
_REST_AFTER_A_ROUND = 200
_LEAST_REST_AFTER_A_ROUND = 50
_OLD_SECONDS = 2.0

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
        assert self._began_at is not None
        now = monotonic()
        took = now - self._began_at
        self._began_at = None
        # What waits now is for the next tick. If it prolonged this one, clients that replay in each
        # turn would put off the next fan-out for seconds.
        self._scheduled = goes_on = bool(self._waiting)
        if self._fans_out:
            self._fans_out = False
            self._rest = min(took, LONGEST_REST_SECONDS) if took >= _WORTH_A_REST_SECONDS else 0.0
            self._rests_until = now + self._rest
        if self._put_off and not self._looks:
            self._begin_or_rest()
        if goes_on:
            self._run()


class Visited(Protocol):
    """Has something to do some time after it has changed."""

    __slots__ = ()

    def on_round(self) -> Iterable["Visited"]:
        """Do it, and return what else is to be visited in this round. This returns at once."""


class Rounds(OnePerLoop):
    """Visits what has changed, at most once per interval, in slices of about `SLICE_SECONDS`.

    Without changes there is no timer. If a round takes long, because much has changed, the next one
    comes later, so that all rounds take 0.5 % of the time, or 2 % if rounds would else be rare.
    """

    def __init__(self) -> None:
        self.number = 0
        """The number of the current round, or of the last one."""
        self._interval = _LONGEST_INTERVAL_SECONDS
        self._changed: OrderedDict[Visited, None] = OrderedDict()
        self._unurgent: OrderedDict[Visited, None] = OrderedDict()
        self._visiting: OrderedDict[Visited, None] = OrderedDict()
        self._also: Iterator[Visited] = iter(())
        self._next_at = 0.0
        self._took = 0.0
        # Not the timer: it refers to the loop, which would then never be freed.
        self._scheduled = False

    def at_least_every(self, seconds: float) -> None:
        """Make the interval at most this long."""
        self._interval = min(self._interval, seconds)

    def add(self, changed: Visited, *, is_urgent: bool = True) -> None:
        """Call `changed.on_round()` in the next round, or in some rounds if it is not urgent."""
        (self._changed if is_urgent else self._unurgent)[changed] = None
        self._schedule()

    def discard(self, changed: Visited) -> None:
        """Visit this object no more."""
        for visited in (self._changed, self._unurgent, self._visiting):
            visited.pop(changed, None)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            wait = max(self._next_at - monotonic(), 0)
            asyncio.get_running_loop().call_later(wait, self._begin, context=Context())

    def _begin(self) -> None:
        self.number += 1
        self._visiting, self._changed = self._changed, OrderedDict()
        if self.number % _ROUNDS_OF_THE_UNURGENT == 0:
            self._visiting.update(self._unurgent)
            self._unurgent.clear()
        self._visit_some()

    def _visit_some(self) -> None:
        began = monotonic()
        while (visited := self._next()) is not None:
            self._visit(visited)
            if monotonic() >= began + SLICE_SECONDS:
                break
        self._took += monotonic() - began
        if visited is not None:
            _soon(self._visit_some)
        else:
            self._end()

    def _next(self) -> Visited | None:
        also = next(self._also, None)
        if also is None and self._visiting:
            return self._visiting.popitem(last=False)[0]
        return also

    def _visit(self, visited: Visited) -> None:
        try:
            also = visited.on_round()
        except Exception:
            logger.exception("A visit by the event loop failed")
        else:
            # Not a list of all: each collection of garbage would visit thousands.
            self._also = chain(also, self._also) if also else self._also

    def _end(self) -> None:
        rest = max(
            min(self._took * _REST_AFTER_A_ROUND, _OLD_SECONDS),
            self._took * _LEAST_REST_AFTER_A_ROUND,
        )
        self._next_at = monotonic() + max(self._interval, rest)
        self._took, self._scheduled = 0.0, False
        if self._changed or self._unurgent:
            self._schedule()


def _soon(run: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(run, context=Context())
