"""Notices a dead peer: silence, then a ping, then silence again."""

import asyncio
from collections.abc import Callable

from gqlnotify.deadline import Deadline


class Heartbeat:
    """Calls `ping` after `interval` seconds of silence, and `dead` after `timeout` more.

    Args:
        interval: how long a peer may be silent before it is pinged, in seconds.
        timeout: how long it may be silent after that, in seconds in which the event loop ran.
        ping: sends a ping.
        reads: tells whether the peer read something since the last call and has more to read. Then
            it may not have come to the ping yet.
        dead: gives up the peer.

    One timer a connection, which looks when it fires at how long ago something was heard: what
    arrives only writes down the time.
    """

    def __init__(
        self,
        *,
        interval: float,
        timeout: float,
        ping: Callable[[], None],
        reads: Callable[[], bool],
        dead: Callable[[], None],
    ) -> None:
        self._interval = interval
        self._timeout = timeout
        self._ping = ping
        self._reads = reads
        self._dead = dead
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._pinged_at = self._loop.time()
        self._timer: asyncio.TimerHandle | Deadline = self._loop.call_later(interval, self._look)

    def heard(self) -> None:
        """Note a sign of life."""
        self._heard_at = self._loop.time()

    def stop(self) -> None:
        """Call nothing any more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        silence = now - self._heard_at
        if silence < self._interval:
            self._timer = self._loop.call_later(self._interval - silence, self._look)
            return
        self._pinged_at = now
        self._reads()  # what counts is what it reads from now on
        self._wait_for_an_answer()
        self._ping()

    def _wait_for_an_answer(self) -> None:
        self._timer = Deadline(self._loop, self._timeout, self._judge)

    def _judge(self) -> None:
        if self._heard_at >= self._pinged_at:
            self._look()
        elif self._reads():
            self._wait_for_an_answer()
        else:
            self._dead()
