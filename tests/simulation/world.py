"""One seeded schedule of several event loops in virtual time.

Each process, Redis and the clients have an event loop of their own, as they have in reality. The
world runs one turn of one of them at a time and then lets time pass. So what one loop does between
two turns of another is up to the seed, and a process that is killed is a loop that gets no more
turns: everything in it stops between two awaits.

Within a loop, callbacks run in the order in which they became ready: asyncio documents this order,
and code may rely on it. The seed decides what asyncio does not: which loop is next, and when data,
replies and timers of different sources arrive.
"""

import asyncio
import hashlib
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from math import inf
from threading import get_ident
from typing import Any

from typing_extensions import override

from tests.simulation.determinism import CLOCK, SimulatedTask

_RESOLUTION = 1e-9
_TURN_SECONDS = (2e-6, 5e-4)
_MOST_TURNS = 100_000


class _NoSelector:
    """Returns no events: everything that arrives is a timer of the loop that gets it."""

    def select(self, timeout: float | None) -> list[Any]:
        return []


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop whose turns the world runs."""

    # Attributes of asyncio's class that typeshed does not know.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _run_once: Callable[[], None]

    def __init__(self, world: "World", name: str) -> None:
        super().__init__()
        self.name = name
        self.skew = 0.0
        self.paused_until = 0.0
        self.turns, self.lagged_in, self.expired_in = 0, -2, -2
        """How many turns it has had, and in which a member fell behind or a token ended."""
        self.call_seconds = (1e-4, 5e-3)
        """How long a call in a thread takes, and its answer."""
        self.world = world
        self._selector = _NoSelector()
        self._clock_resolution = _RESOLUTION
        self.set_task_factory(lambda loop, coro, **more: SimulatedTask(coro, loop=loop, **more))
        self.set_exception_handler(self._failed)
        # `is_running` is true for as long as the process lives.
        self._thread_id = get_ident()

    @override
    def time(self) -> float:
        return CLOCK.now

    @property
    def next_at(self) -> float:
        """When this loop has something to do."""
        due = CLOCK.now if self._ready else self._scheduled[0].when() if self._scheduled else inf
        return due if due > self.paused_until else self.paused_until

    def turn(self) -> None:
        """Run the callbacks that are ready now."""
        CLOCK.skew = self.skew
        self.turns += 1
        events._set_running_loop(self)
        try:
            self._run_once()
        finally:
            events._set_running_loop(None)

    def later(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Call back in `seconds`. The caller may run in another loop."""
        self.call_later(seconds, callback, *args, context=Context())

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run `work` in this loop. The caller may run in another loop."""
        return self.create_task(work, context=Context())

    @override
    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = self.create_future()
        self._after_a_call(_call, func, args, answer, self._after_a_call)
        return answer

    def _after_a_call(self, callback: Callable[..., object], *args: Any) -> None:
        self.call_later(self.world.random.uniform(*self.call_seconds), callback, *args)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.world.note(self.name, f"unhandled: {context['message']}: {error!r}")
        self.world.unhandled.append(f"{self.name}: {context['message']}: {error!r}")


def _call(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    answer: "asyncio.Future[Any]",
    later: Callable[..., None],
) -> None:
    try:
        result = func(*args)
    except Exception as error:
        later(_settle, answer, answer.set_exception, error)
    else:
        later(_settle, answer, answer.set_result, result)


def _settle(answer: "asyncio.Future[Any]", settle: Callable[[Any], None], outcome: Any) -> None:
    if not answer.done():
        settle(outcome)


class World:
    """The loops, the seeded choices and the trace."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.trace: list[str] = []
        self.unhandled: list[str] = []
        self.reached: set[str] = set()
        self._loops: list[SimulatedLoop] = []

    def loop(self, name: str) -> SimulatedLoop:
        """Return a new loop."""
        loop = SimulatedLoop(self, name)
        self._loops.append(loop)
        return loop

    def stop(self, loop: SimulatedLoop) -> None:
        """Give this loop no more turns."""
        self._loops.remove(loop)

    def note(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{CLOCK.now:11.6f} {who:9} {what}")

    def saw(self, state: str) -> None:
        """Note that a rare state was reached."""
        self.reached.add(state)

    @property
    def hash(self) -> str:
        """Identifies the trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]

    def run(self, until: Callable[[], bool]) -> bool:
        """Run turns until `until()` is true. Return False if that takes too many of them."""
        for _ in range(_MOST_TURNS):
            if until():
                return True
            times = [loop.next_at for loop in self._loops]
            CLOCK.now = max(CLOCK.now, min(times))
            latest = CLOCK.now + _RESOLUTION
            ready = [loop for loop, at in zip(self._loops, times, strict=True) if at <= latest]
            (ready[0] if len(ready) == 1 else self.random.choice(ready)).turn()
            CLOCK.now += self.random.uniform(*_TURN_SECONDS)
        return False
