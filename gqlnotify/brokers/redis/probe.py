"""Checks that events can be published and are delivered, by publishing one."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

_FRESH_SECONDS = 1.0


class Probe:
    """Publishes an event to a topic of its own, and waits until the event arrives.

    Concurrent checks share one event, and its result is valid for a second. So many checks cost no
    more than one.
    """

    def __init__(self, prove: Callable[["Probe"], Awaitable[None]]) -> None:
        self.topic = f"gqlnotify.check.{uuid4().hex}"
        self.payload = b""
        self.arrived = asyncio.Event()
        self._prove = prove
        self._running: asyncio.Task[None] | None = None
        self._done_at = 0.0

    async def check(self) -> None:
        """Return if a published event has arrived.

        Raises:
            BrokerUnavailable: The event could not be published, or did not arrive.
        """
        if self._running is None or self._is_outdated(self._running):
            self._running = asyncio.create_task(self._run())
            # If all callers are cancelled, nothing reads the result, and asyncio would log an error
            # that was never retrieved.
            self._running.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._running)

    def received(self, payload: bytes) -> None:
        """Take an event of the topic from the live path."""
        if payload == self.payload:
            self.arrived.set()

    def cancel(self) -> None:
        """Stop waiting."""
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        self.payload = uuid4().bytes
        self.arrived.clear()
        try:
            await self._prove(self)
        finally:
            self._done_at = asyncio.get_running_loop().time()

    def _is_outdated(self, task: "asyncio.Task[None]") -> bool:
        if not task.done():
            return False
        age = asyncio.get_running_loop().time() - self._done_at
        return task.cancelled() or age >= _FRESH_SECONDS
