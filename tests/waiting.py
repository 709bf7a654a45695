"""Wait for a condition instead of a fixed time."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from inspect import isawaitable
from typing import Any

SCALE = float(os.environ.get("TEST_PATIENCE", "1"))
"""The factor for the tests' deadlines, for slow or busy machines."""

PATIENCE = 30.0 * SCALE


def pauses() -> Iterator[float]:
    """Yield the seconds between two checks of a condition.

    The first ones are short, because most conditions are true soon. Later ones are longer, because
    a check may cost a request.
    """
    pause = 0.002
    while True:
        yield pause
        pause = min(pause * 1.5, 0.05)


async def wait_until(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], *, seconds: float = PATIENCE
) -> None:
    """Return as soon as `condition`, sync or async, is true.

    Raises:
        AssertionError: it was not within `seconds`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    for pause in pauses():
        if await _is_true(condition):
            return
        assert loop.time() < deadline, f"Not within {seconds} s: {condition}"
        await asyncio.sleep(pause)


async def _is_true(condition: Callable[[], Any]) -> bool:
    result = condition()
    return bool(await result if isawaitable(result) else result)
