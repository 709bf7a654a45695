"""What is put off to the next turn of the event loop, where all of it is done at once."""

import asyncio
import logging
from contextvars import Context
from typing import Protocol
from weakref import WeakKeyDictionary

logger = logging.getLogger("gqlnotify")


class Waiting(Protocol):
    """Has something to do in the next turn."""

    def on_tick(self) -> None:
        """Do it. It returns at once."""


class TickBatcher:
    """The next turn of one event loop: one call, however many have something to do.

    It runs in a `contextvars` context of its own, and not in that of whoever came first.
    """

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "TickBatcher":
        """Return the one of `loop`."""
        if loop not in _batchers:
            _batchers[loop] = cls()
        return _batchers[loop]

    def add(self, waiting: Waiting) -> None:
        """Call `waiting.on_tick()` in the next turn."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._run, context=Context())
        self._waiting.append(waiting)

    def _run(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            try:
                one.on_tick()
            except Exception:
                logger.exception("A turn failed")


_batchers: WeakKeyDictionary[asyncio.AbstractEventLoop, TickBatcher] = WeakKeyDictionary()
