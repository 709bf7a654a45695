"""Detects a dead peer: it is silent, gets a ping, and stays silent."""

import asyncio
from collections.abc import Callable

from gqlnotify.deadline import Deadline
from gqlnotify.timers import Timer, Timers


class Heartbeat:
    """Calls `ping` after `interval` seconds of silence, and `dead` after `timeout` more.

    Args:
        interval: How long a peer may be silent before it gets a ping, in seconds.
        timeout: How long it may be silent after the ping. Counts only seconds in which the event
            loop ran.
        ping: Sends a ping.
        reads: Returns whether the peer read something since the last call and has more to read. If
            so, it may not have reached the ping yet.
        dead: Closes the connection.

    Each connection has one timer. A message only stores the time, and the timer compares it when
    it fires: this is cheaper than a reset of the timer for each message.
    """

    __slots__ = (
        *("_dead", "_heard_at", "_interval", "_loop", "_ping", "_pinged_at", "_reads"),
        *("_timeout", "_timer"),
    )

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
        self._timer: Timer | Deadline = self._look_in(interval)

    def heard(self) -> None:
        """Note that the peer has sent something."""
        self._heard_at = self._loop.time()

    def stop(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def forget_callbacks(self) -> None:
        """Drop what it calls, once it has stopped."""
        del self._ping, self._reads, self._dead

    def _look_in(self, seconds: float) -> Timer:
        return Timers.of(self._loop).after(seconds, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        silence = now - self._heard_at
        if silence < self._interval:
            self._timer = self._look_in(self._interval - silence)
            return
        self._pinged_at = now
        self._reads()  # resets the counter: only reads after the ping count
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
