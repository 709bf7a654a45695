"""How long the event loop of a subject was busy without a pause."""

import asyncio
import time
from dataclasses import dataclass

from fastapi import FastAPI

_TICK_SECONDS = 0.001


@dataclass
class Probe:
    """Looks at the clock every millisecond, and keeps the longest time by which it was late.

    The processor time in between tells the same where the machine is busy with other processes.
    """

    wall: float = 0.0
    cpu: float = 0.0
    _ticking: bool = False

    def tell(self) -> dict[str, float]:
        """Return the longest stretch since the last call in milliseconds; the first one starts."""
        told = {"ms": self.wall * 1000, "cpuMs": self.cpu * 1000}
        self.wall = self.cpu = 0.0
        if not self._ticking:
            self._ticking = True
            self._sleep()
        return told

    def _sleep(self) -> None:
        loop, now, cpu = asyncio.get_running_loop(), time.perf_counter(), time.thread_time()
        loop.call_later(_TICK_SECONDS, self._wake, now + _TICK_SECONDS, cpu)

    def _wake(self, due: float, cpu: float) -> None:
        self.wall = max(self.wall, time.perf_counter() - due)
        self.cpu = max(self.cpu, time.thread_time() - cpu)
        self._sleep()


def with_probe(app: FastAPI) -> FastAPI:
    """Add the route that tells the longest stretch. It does nothing before it is called."""
    probe = Probe()

    async def longest_stretch() -> dict[str, float]:
        return probe.tell()

    app.add_api_route("/longest-stretch", longest_stretch)
    return app
