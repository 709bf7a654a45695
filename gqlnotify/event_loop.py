"""What exists once for each event loop, and what is put off to its next tick."""

import asyncio
import logging
from contextvars import Context
from typing import Any, ClassVar, Protocol, Self
from weakref import WeakKeyDictionary

from typing_extensions import override

logger = logging.getLogger("gqlnotify")


class OnePerLoop:
    """Base of classes that have one instance for each event loop, made when it is first asked for.

    It lasts as long as its loop.
    """

    _known: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Any]]

    @override
    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._known = WeakKeyDictionary()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Self:
        """Return the one of `loop`."""
        found: Self | None = cls._known.get(loop)
        if found is None:
            found = cls._known[loop] = cls()
        return found


class Waiting(Protocol):
    """Has something to do in the next tick."""

    def on_tick(self) -> None:
        """Do it. It returns at once."""


class TickBatcher(OnePerLoop):
    """The next tick of one event loop: one call, however many have something to do.

    It runs in a `contextvars` context of its own, and not in that of the first caller.
    """

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []

    def add(self, waiting: Waiting) -> None:
        """Call `waiting.on_tick()` in the next tick."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._run, context=Context())
        self._waiting.append(waiting)

    def _run(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            try:
                one.on_tick()
            except Exception:
                logger.exception("Work of a tick failed")
