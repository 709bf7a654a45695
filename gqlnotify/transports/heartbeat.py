"""Notices a dead peer: silence, then a ping, then silence again."""

import asyncio
from collections.abc import Callable


class Heartbeat:
    """Calls `ping` after `interval` seconds of silence, and `dead` after `timeout` more.

    One timer a connection, which looks when it fires at how long ago something was heard: what
    arrives only writes down the time.
    """

    def __init__(
        self,
        *,
        interval: float,
        timeout: float,
        ping: Callable[[], None],
        dead: Callable[[], None],
    ) -> None:
        self._interval = interval
        self._timeout = timeout
        self._ping = ping
        self._dead = dead
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._pinged_at: float | None = None
        self._timer = self._loop.call_later(interval, self._look)

    def heard(self) -> None:
        """Note a sign of life."""
        self._heard_at = self._loop.time()
        self._pinged_at = None

    def stop(self) -> None:
        """Call nothing any more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        if self._pinged_at is not None:
            self._dead()
            return
        silence = now - self._heard_at
        if silence < self._interval:
            self._timer = self._loop.call_later(self._interval - silence, self._look)
            return
        self._pinged_at = now
        self._timer = self._loop.call_later(self._timeout, self._look)
        self._ping()
