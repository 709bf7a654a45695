"""Objects that exist once for each event loop, and work that waits for its next tick."""

import asyncio
import logging
from contextvars import Context
from typing import Any, ClassVar, Protocol, Self
from weakref import WeakKeyDictionary

from typing_extensions import override

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
    """Does the work of one event loop's next tick in one callback, which costs less than many.

    The callback has its own `contextvars` context. It must not inherit the viewer or the trace of
    the first caller.
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
                logger.exception("Work for a tick of the event loop failed")
