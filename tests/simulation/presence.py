"""Who is shown as present in a room, and whether that keeps our promises.

Every process has a follower, which reads the stream of one room's presence in that process.
"""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from gqlnotify import Changed, Cursor, Joined, Left, Present
from gqlnotify.errors import BrokerUnavailable
from gqlnotify.topics.local_presence import TTL
from tests.simulation.application import NAMES, room
from tests.simulation.determinism import CLOCK
from tests.simulation.history import Violation

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.run import Simulation

_RETRY_SECONDS = 0.5
# A process that was cut off counts as dead only after the TTL, and brokers are retried in between.
_SETTLE_SECONDS = 2 * TTL + 15
# From the moment at which Redis appends an event to the one at which a follower has it.
_LATE_SECONDS = 1.5
_LOOK_SECONDS = 0.25


class Follower:
    """Follows who is in one room, in one process."""

    def __init__(self, process: "Process") -> None:
        self.process = process
        self.room = process.world.random.choice(NAMES)
        self.people: set[str] = set()
        self.broken: list[str] = []
        self._task = process.loop.start(self._follow())

    def stop(self) -> None:
        """Follow no longer."""
        self.process.loop.later(0, self._task.cancel)

    async def _follow(self) -> None:
        async with aclosing(self.process.topics.presence(room(self.room))) as stream:
            while True:
                try:
                    self._take(await anext(stream), stream.cursor)
                except BrokerUnavailable:
                    await asyncio.sleep(_RETRY_SECONDS)
                except StopAsyncIteration:
                    return

    def _take(self, each: Present | Joined | Left | Changed, cursor: Cursor | None) -> None:
        if isinstance(each, Present):
            self.people = {member.subject for member in each.members}
            self._note(f"shows {sorted(self.people)} at {cursor}")
            return
        subject, was_there = each.member.subject, each.member.subject in self.people
        self._note(f"shows that {subject} {type(each).__name__.lower()} at {cursor}")
        if isinstance(each, Joined) == was_there:
            self.broken.append(f"{type(each).__name__} of {subject}, who was there: {was_there}")
        if isinstance(each, Left):
            self.people.discard(subject)
        else:
            self.people.add(subject)

    def _note(self, what: str) -> None:
        self.process.world.note(self.process.name, f"{what} in {self.room}")


async def check_presence(simulation: "Simulation") -> list[Violation]:
    """Let it be quiet, then kill a process and its clients. Return what was broken."""
    broken = [*await _settled(simulation)]
    if not broken and not simulation.redis.has_dropped:
        broken += await _without_the_killed(simulation)
    for follower in _followers(simulation):
        broken += (Violation("join and left alternate", each) for each in follower.broken)
    return broken


async def _settled(simulation: "Simulation") -> list[Violation]:
    """Wait until every follower shows exactly who is there."""
    deadline = CLOCK.now + _SETTLE_SECONDS
    while wrong := list(_wrong(simulation)):
        if CLOCK.now > deadline:
            break
        await asyncio.sleep(_LOOK_SECONDS)
    return wrong


async def _without_the_killed(simulation: "Simulation") -> list[Violation]:
    """Kill a process, whose clients do not come back. They are gone after the TTL."""
    while not all(process.serving for process in simulation.processes):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_SECONDS)
    process = simulation.processes[0]
    for client in simulation.clients:
        client.stopped = client.stopped or client.process is process
    simulation.world.note("director", f"kills {process.name} with its clients")
    simulation.kill(0)
    await asyncio.sleep(TTL + _LATE_SECONDS)
    return list(_wrong(simulation, after_a_kill=True))


def _wrong(simulation: "Simulation", *, after_a_kill: bool = False) -> Iterator[Violation]:
    for follower in _followers(simulation):
        clients = [each for each in simulation.clients if each.room == follower.room]
        who = f"{follower.process.name} shows {sorted(follower.people)} in {follower.room}"
        if gone := follower.people & {each.name for each in clients if each.stopped}:
            yield Violation("no one who has gone is shown", f"{who}, and {sorted(gone)} have gone")
        # A client may be away for longer than the grace.
        there = {each.name for each in clients if each.socket is not None and not each.stopped}
        if not after_a_kill and there - follower.people:
            yield Violation("no one is missing", f"{who}, and {sorted(there)} are there")


def _followers(simulation: "Simulation") -> list[Follower]:
    alive = [process for process in simulation.processes if process.serving]
    return [process.follower for process in alive]
