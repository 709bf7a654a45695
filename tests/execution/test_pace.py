"""What holds the event loop leaves as much time to everything else."""

import asyncio
from time import monotonic

from gqlnotify.execution.pace import Pace
from tests.applications import HELLO
from tests.execution import Stage, audience

COST = 0.02


def work(pace: Pace) -> float:
    """Hold the loop, and return when that ended."""
    with pace.costly():
        until = monotonic() + COST
        while monotonic() < until:
            pass
    return monotonic()


async def test_nobody_waits_before_the_first_step() -> None:
    pace = Pace()
    resting = pace.rest()
    try:
        resting.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")


async def test_those_who_wait_together_leave_time_between_their_steps() -> None:
    pace = Pace()
    ended = [work(pace)]

    async def wait_and_work() -> None:
        await pace.rest()
        began = monotonic()
        assert began - ended[-1] >= COST * 0.9
        ended.append(work(pace))

    await asyncio.gather(*(wait_and_work() for _ in range(4)))


async def test_a_known_document_does_not_wait() -> None:
    router = Stage().router()
    async with audience(router, "alice") as (alice,):
        assert await alice.query(HELLO) == {"hello": "world"}
        documents = router._gqlnotify.executions(router.schema).documents
        documents._pace._rest_until = monotonic() + 3600
        assert await alice.query(HELLO) == {"hello": "world"}
        await alice.subscribe("1", "{ unknown: hello }")
        await alice.is_silent()
