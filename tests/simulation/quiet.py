"""Rounds in which a few things happen at once, and then nothing more.

A later event repairs what a process has missed. So what is missed for good shows only if the event
that was missed is the last one for a while.
"""

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.ambush import AIMS, Aim, Ambush
from tests.simulation.application import NAMES
from tests.simulation.clients import Client
from tests.simulation.determinism import CLOCK

if TYPE_CHECKING:
    from tests.simulation.redis_link import RedisLink
    from tests.simulation.run import Simulation

_MOST_ROUNDS = 8
_ROUND_SECONDS = 0.4
# How long an ambush waits before its event is published without it.
_AMBUSH_SECONDS = 2.0
_CATCH_UP_SECONDS = 90.0
_LOOK_SECONDS = 0.25
_SOON, _ABOUT = 5.0, 2e-3


async def quiet_rounds(simulation: "Simulation") -> bool:
    """Run some rounds. Return False as soon as somebody does not catch up in one of them."""
    for _ in range(simulation.world.random.randint(1, _MOST_ROUNDS)):
        round_ = _Round(simulation)
        round_.begin()
        await asyncio.sleep(_ROUND_SECONDS)
        while round_.waits:  # noqa: ASYNC110 - a number, no event
            await asyncio.sleep(_LOOK_SECONDS)
        if not await caught_up(simulation):
            return False
    return True


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
        self._client: Client = self._random.choice(simulation.clients)
        self.waits = 0
        """How many events are still to be published."""

    def begin(self) -> None:
        """Have everything happen soon."""
        move = self._random.choice(
            (self._stir, self._swap, self._forget, self._flap, self._stall, self._cut_off, self._go)
        )
        self._simulation.world.note("director", f"quiet round: {move.__name__.strip('_')}")
        move()

    def _at(self, share: float, what: Callable[..., object], *arguments: object) -> None:
        """Do this after about this share of the round."""
        seconds = _ROUND_SECONDS * share * self._random.uniform(0.5, 1)
        self._simulation.loop.later(seconds, what, *arguments)

    def _stir(self) -> None:
        for client in self._simulation.clients:
            if self._random.random() < 0.5:
                again = self._random.random() < 0.7
                self._at(0.5, client.begin_again if again else client.cut)
        for name in NAMES:
            self._last_event(name)

    def _swap(self) -> None:
        """Have clients begin again, which opens and closes topics."""
        for client in self._simulation.clients:
            self._at(0.5, client.begin_again)
        for name in NAMES:
            self._at(1, self._simulation.publish_at_once, name)

    def _forget(self) -> None:
        """Have Redis forget what a client has missed."""
        client, simulation = self._client, self._simulation
        self._at(0.1, client.cut)
        self._at(0.3, simulation.publish_one, client.room)
        self._at(0.6, simulation.redis.flush)
        for name in NAMES:
            # A topic notices a flush with its next event.
            self._at(0.9, simulation.publish_one, name)
        self._at(0.9, self._last_event, client.room)
        if self._random.random() < 0.5:
            # What tells the client so is lost.
            self._ambush(Aim.CLAIM, lambda _link, _topic: client.cut())

    def _flap(self) -> None:
        """Have a client reconnect again and again."""
        for at in range(1, 9):
            share = at / 9
            self._at(share, self._random.choice([self._client.cut, self._client.abandon]))
            self._at(share, self._simulation.publish_at_once, self._client.room)
        self._at(1, self._last_event, self._client.room)

    def _stall(self) -> None:
        """Send a client more than it reads, just when its token ends if that is soon."""
        client, simulation = self._client, self._simulation
        left = client.token_ends - CLOCK.now
        if 0 < left < _SOON:
            client.stall(left + 1)
            for _ in range(40):
                seconds = max(left + self._random.gauss(0, _ABOUT), 0)
                simulation.loop.later(seconds, simulation.publish_at_once, client.room)
            return
        self._at(0.1, client.stall, self._random.uniform(0.5, 3))
        for at in range(40):
            self._at(at / 40, simulation.publish_at_once, client.room)

    def _cut_off(self) -> None:
        """Have a process miss some events."""
        process = self._random.choice(self._simulation.processes)
        self._at(0.2, self._random.choice([process.redis.cut, lambda: process.redis.silence(0.3)]))
        for at in range(self._random.randint(1, 7)):
            self._at((at + 1) / 8, self._simulation.publish_at_once, self._client.room)
        self._last_event(self._client.room, Aim.READ)

    def _go(self) -> None:
        """Deploy or kill a process, and cut a connection meanwhile."""
        simulation = self._simulation
        at = self._random.randrange(len(simulation.processes))
        self._at(0.2, self._random.choice([simulation.deploy, simulation.kill]), at)
        self._at(0.4, simulation.publish_one, self._client.room)
        self._at(1, self._client.cut)
        self._last_event(self._client.room)

    def _last_event(self, name: str, aim: Aim | None = None) -> None:
        if self._random.random() < 0.3:
            self._at(1, self._simulation.publish_one, name)
            return
        simulation = self._simulation
        self.waits += 1

        def publish(_link: object, topic: str) -> None:
            self.waits -= 1
            simulation.publish_at_once(topic or name)

        def give_up() -> None:
            if ambush.left:
                ambush.left = 0
                self.waits -= 1
                simulation.publish_one(name)

        ambush = self._ambush(aim or self._random.choice(AIMS), publish)
        simulation.loop.later(_AMBUSH_SECONDS, give_up)

    def _ambush(self, aim: Aim, strike: "Callable[[RedisLink, str], None]") -> Ambush:
        ambush = Ambush(aim, strike, left=1, until=CLOCK.now + _AMBUSH_SECONDS)
        self._simulation.redis.ambushes.add(ambush)
        return ambush
