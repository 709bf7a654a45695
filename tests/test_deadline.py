"""Deadlines do not run while the process is blocked."""

import asyncio
import gc
import time
import weakref

import pytest

from gqlnotify.deadline import Deadline, time_limit
from tests.waiting import wait_until

SECONDS = 0.3


def block(seconds: float) -> None:
    """Block the event loop, like a resolver that computes."""
    time.sleep(seconds)


async def test_a_deadline_expires_once_and_not_early() -> None:
    loop = asyncio.get_running_loop()
    expired: list[float] = []
    began = loop.time()
    Deadline(loop, SECONDS, lambda: expired.append(loop.time()))
    await wait_until(lambda: expired)
    await asyncio.sleep(2 * SECONDS)
    assert len(expired) == 1
    assert expired[0] - began >= SECONDS * 0.99


async def test_a_cancelled_deadline_never_expires() -> None:
    expired: list[int] = []
    deadline = Deadline(asyncio.get_running_loop(), SECONDS, lambda: expired.append(1))
    await asyncio.sleep(SECONDS * 0.6)
    deadline.cancel()
    await asyncio.sleep(2 * SECONDS)
    assert expired == []


class Owner:
    """Keeps a deadline that calls one of its methods."""

    def __init__(self, seconds: float) -> None:
        self.expired = asyncio.Event()
        self.deadline = Deadline(asyncio.get_running_loop(), seconds, self._expired)

    def _expired(self) -> None:
        self.expired.set()


@pytest.mark.parametrize("expires", [True, False])
async def test_the_owner_of_a_deadline_that_is_over_is_freed_at_once(expires: bool) -> None:
    gc.disable()
    owner = Owner(0 if expires else SECONDS)
    if expires:
        await owner.expired.wait()
    else:
        owner.deadline.cancel()
    freed = weakref.ref(owner)
    del owner
    # The loop has to be done with the timer.
    await asyncio.sleep(0)
    gc.enable()
    assert freed() is None


@pytest.mark.parametrize("into", [0, 0.6], ids=["in the first half", "in the second half"])
async def test_time_in_which_the_loop_was_blocked_does_not_count(into: float) -> None:
    loop = asyncio.get_running_loop()
    expired: list[float] = []
    Deadline(loop, SECONDS, lambda: expired.append(loop.time()))
    await asyncio.sleep(SECONDS * into)
    block(2 * SECONDS)
    blocked_until = loop.time()
    await wait_until(lambda: expired)
    assert expired[0] - blocked_until >= SECONDS * 0.99


async def test_a_limited_body_is_ended_when_the_time_is_over() -> None:
    with pytest.raises(TimeoutError):
        async with time_limit(SECONDS / 3):
            await asyncio.Event().wait()


async def test_a_body_that_ends_within_its_limit_is_not_interrupted() -> None:
    async with time_limit(SECONDS / 3):
        pass
    await asyncio.sleep(SECONDS)


async def test_a_limited_body_is_not_ended_by_a_block() -> None:
    async with time_limit(SECONDS):
        block(2 * SECONDS)
        await asyncio.sleep(0)
