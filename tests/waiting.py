"""Waiting for a condition instead of for the clock."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

PATIENCE = 5.0
_LOOK_EVERY = 0.002


async def wait_until(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], *, seconds: float = PATIENCE
) -> None:
    """Return as soon as `condition`, sync or async, is true.

    Raises:
        AssertionError: it was not within `seconds`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await _is_true(condition):
        assert loop.time() < deadline, f"Not within {seconds} s: {condition}"
        await asyncio.sleep(_LOOK_EVERY)


async def _is_true(condition: Callable[[], Any]) -> bool:
    result = condition()
    return bool(await result if isawaitable(result) else result)
