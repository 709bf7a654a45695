"""Documents that no one has sent before take at most half of the event loop's time."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic


class Pace:
    """After each costly step, leaves as much time to everything else as the step took."""

    def __init__(self) -> None:
        self._rest_until = 0.0

    @contextmanager
    def costly(self) -> Iterator[None]:
        """Time a step that holds the event loop."""
        began = monotonic()
        try:
            yield
        finally:
            now = monotonic()
            self._rest_until = now + (now - began)

    async def rest(self) -> None:
        """Wait until the next costly step may begin."""
        # Others who wait for the same moment may take their step first, so this looks again.
        while (left := self._rest_until - monotonic()) > 0:  # noqa: ASYNC110 - a time, no event
            await asyncio.sleep(left)
