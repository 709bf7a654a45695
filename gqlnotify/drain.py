"""The drain: before a process stops, it closes its connections, spread evenly over a window.

If all closed at once, all clients would reconnect to the other processes at once.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from gqlnotify.event_loop import OnePerLoop

# Fractions of the time left after the window: when running operations must end, and when the
# remaining peers are dropped. The rest is for the application's own shutdown.
FINISH = 0.4
ABORT = 0.8
_LOOK_EVERY = 0.05

logger = logging.getLogger("gqlnotify.server")


class Drainable(Protocol):
    """A connection that the drain has to close: a WebSocket, or a stream over HTTP."""

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""

    def leave(self) -> None:
        """Begin to close the connection. This returns at once."""

    def abort(self) -> None:
        """Close the connection at once, even if the peer has not read everything."""


class Drain(OnePerLoop):
    """The drain of one event loop, which is that of one server process."""

    def __init__(self) -> None:
        self.begun = False
        self.finish_by = float("inf")
        """When operations must have ended, in seconds of the loop's clock."""
        self._drainables: dict[Drainable, None] = {}
        self._spread = False
        self._work: asyncio.Task[None] | None = None

    def add(self, drainable: Drainable) -> None:
        """Close `drainable` during the window, or at once if the window has begun."""
        if drainable in self._drainables:
            return
        self._drainables[drainable] = None
        if self._spread:
            _leave(drainable)

    def begin(self, window: float, margin: float) -> "asyncio.Task[None]":
        """Begin the drain, if it has not begun. Return a task that ends when all have closed.

        Args:
            window: The seconds over which the connections close, spread evenly.
            margin: The seconds after the window in which the process must end. A connection that
                is still open after most of them is aborted.
        """
        if self._work is None:
            self.begun = True
            self._work = asyncio.create_task(self._run(window, margin))
        return self._work

    async def _run(self, window: float, margin: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + window
        self.finish_by = end + margin * FINISH
        # uvicorn tells each connection to shut down in this tick, and each adds itself.
        await asyncio.sleep(0)
        self._spread = True
        await _spread(list(self._drainables), window)
        while loop.time() < end + margin * ABORT and not self._is_over():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY)
        for drainable in self._drainables:
            if not drainable.gone:
                drainable.abort()

    def _is_over(self) -> bool:
        return all(drainable.gone for drainable in self._drainables)


def is_draining() -> bool:
    """Return whether this process is about to stop and should get no more clients.

    Call this in the event loop of the server.
    """
    return Drain.of(asyncio.get_running_loop()).begun


async def _spread(drainables: Sequence[Drainable], window: float) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for place, drainable in enumerate(drainables):
        early = begin + window * place / len(drainables) - loop.time()
        if early > 0:
            await asyncio.sleep(early)
        if not drainable.gone:
            _leave(drainable)


def _leave(drainable: Drainable) -> None:
    try:
        drainable.leave()
    except Exception:
        logger.exception("A connection failed to close, so it is aborted")
        drainable.abort()
