"""Rounds without faults, in which a few things happen at once, and then nothing more.

A later event repairs what a process has missed. So what is missed for good shows only if the event
that was missed is the last one for a while.
"""

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.ambush import COMMANDS, Ambush
from tests.simulation.application import NAMES
from tests.simulation.clients import Client
from tests.simulation.determinism import CLOCK

if TYPE_CHECKING:
    from tests.simulation.run import Simulation

_MOST_ROUNDS = 5
_STIR_SECONDS = 0.3
# How long an ambush waits before its event is published without it.
_AMBUSH_SECONDS = 2.0
_CATCH_UP_SECONDS = 90.0
_LOOK_SECONDS = 0.25


async def quiet_rounds(simulation: "Simulation") -> None:
    """Run some rounds, until one shows that somebody does not catch up."""
    for _ in range(simulation.world.random.randint(1, _MOST_ROUNDS)):
        simulation.world.note("director", "begins a quiet round")
        _Round(simulation).begin()
        await asyncio.sleep(_STIR_SECONDS)
        if not await caught_up(simulation):
            return


async def caught_up(simulation: "Simulation") -> bool:
    """Wait until all clients have got the last event. Return False if that takes too long."""
    deadline = CLOCK.now + _CATCH_UP_SECONDS
    while not simulation.is_well():
        if CLOCK.now > deadline:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
    return True


class _Round:
    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self._random: random.Random = simulation.world.random

    def begin(self) -> None:
        """Have everything happen soon."""
        for client in self._simulation.clients:
            self._soon(self._stir, client)
        for name in NAMES:
            if self._random.random() < 0.5:
                self._soon(self._simulation.publish_one, name)
            else:
                self._lie_in_wait(name)

    def _soon(self, what: Callable[..., object], *arguments: object) -> None:
        seconds = self._random.uniform(0, _STIR_SECONDS)
        self._simulation.loop.later(seconds, what, *arguments)

    def _stir(self, client: Client) -> None:
        match self._random.randrange(4):
            case 0:
                client.begin_again(on_this_connection=True)
            case 1:
                client.begin_again(on_this_connection=False)
            case 2 if client.link is not None:
                client.link.cut()

    def _lie_in_wait(self, name: str) -> None:
        simulation = self._simulation

        def publish(_link: object) -> None:
            simulation.publish_at_once(name)

        def give_up() -> None:
            if ambush.left:
                ambush.left = 0
                simulation.publish_one(name)

        command = self._random.choice(COMMANDS)
        ambush = Ambush(command, publish, left=1, until=CLOCK.now + _AMBUSH_SECONDS)
        simulation.redis.ambushes.add(ambush)
        simulation.loop.later(_AMBUSH_SECONDS, give_up)
