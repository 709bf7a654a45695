"""What asyncio has as `Event` and `Queue`, for things of which there are very many.

An `asyncio.Event` weighs 0.8 kB and a `Queue` 3 kB, most of it room for waiters that never come.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LightEvent:
    """Open or closed; those who wait at a closed one go on when it opens."""

    __slots__ = ("_is_open", "_waiters")

    def __init__(self, *, is_open: bool = False) -> None:
        self._is_open = is_open
        self._waiters: list[asyncio.Future[None]] = []

    def is_set(self) -> bool:
        """Tell whether it is open."""
        return self._is_open

    def set(self) -> None:
        """Open it."""
        self._is_open = True
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def clear(self) -> None:
        """Close it."""
        self._is_open = False

    async def wait(self) -> None:
        """Return when it is open, or was for a moment."""
        if self._is_open:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            raise


class LightQueue(Generic[T]):
    """Items in the order in which they came, for one reader."""

    __slots__ = ("_gate", "_items", "on_put")

    def __init__(self) -> None:
        self.on_put: Callable[[], None] | None = None
        self._items: list[T] = []
        self._gate = LightEvent()

    def put_nowait(self, item: T) -> None:
        """Add `item`."""
        self._items.append(item)
        self._gate.set()
        if self.on_put is not None:
            self.on_put()

    def empty(self) -> bool:
        """Tell whether nothing is there."""
        return not self._items

    async def get(self) -> T:
        """Return the first item, as soon as there is one."""
        while not self._items:
            self._gate.clear()
            await self._gate.wait()
        return self._items.pop(0)
