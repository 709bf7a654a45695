"""Limits unknown documents to half of the event loop's time, with fair turns between clients."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic, thread_time

from gqlnotify.event_loop import OnePerLoop
from gqlnotify.execution.fair_queue import FairQueue

# Ordinary documents cost less, so they never wait, and a client's messages stay in order.
BURST_SECONDS = 0.03


class Pace(OnePerLoop):
    """Admits one document at a time, and rests after each step for as long as the step took.

    All routers of an event loop share one. A short burst of work needs no rest, as in the generic
    cell rate algorithm.
    """

    def __init__(self) -> None:
        self._rest_until = 0.0
        self._taken = False
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue()

    @asynccontextmanager
    async def turn(self, asker: Hashable, cost: float) -> AsyncIterator[None]:
        """Wait for the turn, and keep it to the end of the block.

        `FairQueue` chooses which waiting asker is next.
        """
        await self._take(asker, cost)
        try:
            await self.rest()
            yield
        finally:
            self._pass_on()

    @contextmanager
    def costly(self) -> Iterator[None]:
        """Time a step that blocks the event loop."""
        # CPU time, so that a busy machine does not make a document cost more.
        began, began_cpu = monotonic(), thread_time()
        try:
            yield
        finally:
            took = thread_time() - began_cpu
            # A step that waits for a core is no rest: other clients wait with it.
            self._rest_until = max(self._rest_until, began) + monotonic() - began + took

    async def rest(self) -> None:
        """Wait until the next costly step may begin."""
        if self._rest_until - monotonic() <= BURST_SECONDS:
            return
        while (left := self._rest_until - monotonic()) > 0:  # noqa: ASYNC110 - a time, no event
            await asyncio.sleep(left)

    async def _take(self, asker: Hashable, cost: float) -> None:
        if not self._taken:
            self._taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.add(turn, asker, cost)
        try:
            await turn
        except asyncio.CancelledError:
            self._queue.discard(turn)
            if not turn.cancelled():
                # The turn was granted in the same tick as the cancellation.
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while (turn := self._queue.take()) is not None:
            # Skip a task that was cancelled but has not left the queue yet.
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False
