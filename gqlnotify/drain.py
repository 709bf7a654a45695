"""The drain: what a process that is about to stop closes, one after the other over a window."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

# Of the time that is left behind the window: until when running operations may go on, and when
# the peers that are still there are let go. The rest is for the application's own end.
FINISH = 0.4
ABORT = 0.8
_LOOK_EVERY = 0.05

logger = logging.getLogger("gqlnotify.server")


class Leaver(Protocol):
    """A connection that outlives its answer, and so has to be ended."""

    @property
    def gone(self) -> bool:
        """Whether it has ended."""

    def leave(self) -> None:
        """Begin to end. It returns at once."""

    def abort(self) -> None:
        """End, whatever the peer has not read."""


class Drain:
    """The drain of one event loop, which is that of one server process."""

    def __init__(self) -> None:
        self.begun = False
        self.finish_by = float("inf")
        """When operations have to be over, in the time of the loop."""
        self._leavers: dict[Leaver, None] = {}
        self._spread = False
        self._work: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "Drain":
        """Return the one of `loop`."""
        if loop not in _drains:
            _drains[loop] = cls()
        return _drains[loop]

    def add(self, leaver: Leaver) -> None:
        """Have `leaver` leave in its turn; at once, if the turns have been given already."""
        if leaver in self._leavers:
            return
        self._leavers[leaver] = None
        if self._spread:
            _leave(leaver)

    def begin(self, window: float, margin: float) -> "asyncio.Task[None]":
        """Begin, unless it has; return what ends when all are gone, at the latest by force.

        Args:
            window: the seconds over which they leave, evenly.
            margin: the seconds behind it after which the process has to be gone.
        """
        if self._work is None:
            self.begun = True
            self._work = asyncio.create_task(self._run(window, margin))
        return self._work

    async def _run(self, window: float, margin: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + window
        self.finish_by = end + margin * FINISH
        # All of them are added in this turn.
        await asyncio.sleep(0)
        self._spread = True
        await _spread(list(self._leavers), window)
        while loop.time() < end + margin * ABORT and not self._is_over():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY)
        for leaver in self._leavers:
            if not leaver.gone:
                leaver.abort()

    def _is_over(self) -> bool:
        return all(leaver.gone for leaver in self._leavers)


def is_draining() -> bool:
    """Tell whether this process is about to stop, and so should get no more clients.

    To be asked in the event loop of the server.
    """
    return Drain.of(asyncio.get_running_loop()).begun


async def _spread(leavers: Sequence[Leaver], window: float) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for place, leaver in enumerate(leavers):
        early = begin + window * place / len(leavers) - loop.time()
        if early > 0:
            await asyncio.sleep(early)
        if not leaver.gone:
            _leave(leaver)


def _leave(leaver: Leaver) -> None:
    try:
        leaver.leave()
    except Exception:
        logger.exception("A connection failed to leave")
        leaver.abort()


_drains: WeakKeyDictionary[asyncio.AbstractEventLoop, Drain] = WeakKeyDictionary()
