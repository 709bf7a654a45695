"""Small versions of `asyncio.Event` and `asyncio.Queue`, because each connection has several.

An `asyncio.Event` takes 0.8 kB and a `Queue` 3 kB, most of it for waiters that they rarely have.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LightEvent:
    """An event that is open or closed. Waiting tasks continue when it opens."""

    __slots__ = ("_is_open", "_waiters")

    def __init__(self, *, is_open: bool = False) -> None:
        self._is_open = is_open
        # A tuple: all events without a waiter share the empty one.
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def is_set(self) -> bool:
        """Return whether it is open."""
        return self._is_open

    def set(self) -> None:
        """Open it."""
        self._is_open = True
        if self._waiters:
            waiters, self._waiters = self._waiters, ()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def clear(self) -> None:
        """Close it."""
        self._is_open = False

    async def wait(self) -> None:
        """Wait until it opens, even if it closes again at once."""
        if self._is_open:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters += (waiter,)
        try:
            await waiter
        except asyncio.CancelledError:
            self._waiters = tuple(other for other in self._waiters if other is not waiter)
            raise


class LightQueue(Generic[T]):
    """A first-in, first-out queue for one consumer."""

    __slots__ = ("_gate", "_items", "on_put")

    def __init__(self) -> None:
        self.on_put: Callable[[], None] | None = None
        # A list: a deque has room for 64 items from the start, and this queue rarely has many.
        self._items: list[T] = []
        self._gate = LightEvent()

    def put_nowait(self, item: T) -> None:
        """Add `item`."""
        self._items.append(item)
        self._gate.set()
        if self.on_put is not None:
            self.on_put()

    def empty(self) -> bool:
        """Return whether the queue is empty."""
        return not self._items

    async def get(self) -> T:
        """Remove and return the first item. Wait if there is none."""
        while not self._items:
            self._gate.clear()
            await self._gate.wait()
        return self._items.pop(0)
