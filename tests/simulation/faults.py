"""The faults of a simulation: a plan that follows from the seed, and that can be made shorter."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.simulation.ambush import AIMS, Ambush
from tests.simulation.application import NAMES
from tests.simulation.conditions import Conditions
from tests.simulation.redis_link import RedisLink

if TYPE_CHECKING:
    from tests.simulation.run import Simulation

_FIRST_AT = 3.0
# The share of seeds in which clients come and go all the time.
_RESTLESS = 0.3
_COMINGS_AND_GOINGS, _UNREST_SECONDS = 30, 6.0
_PAUSE_SECONDS = (0.01, 4.0)
_AMBUSH_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        at: When it happens, in seconds.
        kind: The name of the function below.
        target: Which process or client it hits, modulo their number.
        size: How bad it is, from 0 to 1.
    """

    at: float
    kind: str
    target: int
    size: float

    def happen(self, simulation: "Simulation") -> None:
        """Do it."""
        _KINDS[self.kind](simulation, self)

    def __str__(self) -> str:
        return f"{self.kind}({self.target}, {self.size:.2f}) at {self.at:.3f}"


def plan(choices: random.Random, conditions: Conditions) -> Sequence[Fault]:
    """Return the faults of a seed. Some come at once, others after a while."""
    at, faults = _FIRST_AT, []
    for _ in range(choices.randint(1, conditions.most_faults)):
        at += choices.choice([0.0, 0.01, 0.3, 2.0, 8.0]) * choices.random()
        kind = choices.choice(conditions.kinds)
        faults.append(Fault(at, kind, choices.randrange(6), choices.random()))
    if choices.random() < _RESTLESS:
        faults += _unrest(choices)
    return sorted(faults, key=lambda fault: fault.at)


def _unrest(choices: random.Random) -> Iterator[Fault]:
    """Have clients come and go all the time, to meet short races."""
    for _ in range(_COMINGS_AND_GOINGS):
        at = _FIRST_AT + _UNREST_SECONDS * choices.random()
        kind = choices.choice(("cut_client", "abandon_client", "begin_again"))
        yield Fault(at, kind, choices.randrange(6), choices.random())


def cut_client(simulation: "Simulation", fault: Fault) -> None:
    simulation.clients[fault.target % len(simulation.clients)].cut()


def silence_client(simulation: "Simulation", fault: Fault) -> None:
    simulation.clients[fault.target % len(simulation.clients)].silence()


def abandon_client(simulation: "Simulation", fault: Fault) -> None:
    simulation.clients[fault.target % len(simulation.clients)].abandon()


def cut_redis(simulation: "Simulation", fault: Fault) -> None:
    simulation.processes[fault.target % len(simulation.processes)].redis.cut()


def silence_redis(simulation: "Simulation", fault: Fault) -> None:
    simulation.processes[fault.target % len(simulation.processes)].redis.silence(8 * fault.size)


def disturb_the_live_path(simulation: "Simulation", fault: Fault) -> None:
    redis = simulation.redis
    # Some only reorder and repeat, because what is lost shows only with a later event.
    redis.drop_rate = fault.size if fault.size > 0.5 else 0
    redis.repeat_rate, redis.reorders = 0.2, fault.target % 2 == 0
    redis.has_dropped = redis.has_dropped or redis.drop_rate > 0

    def calm() -> None:
        redis.drop_rate = redis.repeat_rate = 0
        redis.reorders = False

    simulation.loop.later(5, calm)


def flush(simulation: "Simulation", fault: Fault) -> None:
    simulation.redis.flush()


def restart_redis(simulation: "Simulation", fault: Fault) -> None:
    if simulation.redis.up:
        simulation.redis.restart(lose=0, seconds=0.01 + 5 * fault.size)


def fail_over(simulation: "Simulation", fault: Fault) -> None:
    if simulation.redis.up:
        simulation.redis.restart(lose=1 + fault.target * 2, seconds=0.01 + fault.size)


def kill(simulation: "Simulation", fault: Fault) -> None:
    simulation.kill(fault.target % len(simulation.processes), seconds=5 * fault.size)


def deploy(simulation: "Simulation", fault: Fault) -> None:
    simulation.deploy(fault.target % len(simulation.processes))


def pause(simulation: "Simulation", fault: Fault) -> None:
    low, high = _PAUSE_SECONDS
    process = simulation.processes[fault.target % len(simulation.processes)]
    process.pause(low + (high - low) * fault.size)


def burst(simulation: "Simulation", fault: Fault) -> None:
    for _ in range(int(60 * fault.size)):
        simulation.publish_one(NAMES[fault.target % len(NAMES)])


def publish_unreadable(simulation: "Simulation", fault: Fault) -> None:
    simulation.publish_unreadable(NAMES[fault.target % len(NAMES)])


def join(simulation: "Simulation", fault: Fault) -> None:
    simulation.add_client()


def begin_again(simulation: "Simulation", fault: Fault) -> None:
    simulation.clients[fault.target % len(simulation.clients)].begin_again()


def stall_client(simulation: "Simulation", fault: Fault) -> None:
    simulation.clients[fault.target % len(simulation.clients)].stall(20 * fault.size)


def revoke(simulation: "Simulation", fault: Fault) -> None:
    simulation.revoke(simulation.clients[fault.target % len(simulation.clients)])


def _ambush(
    simulation: "Simulation", fault: Fault, strike: Callable[[RedisLink, str], None]
) -> None:
    redis = simulation.redis
    aim = AIMS[int(fault.size * 1000) % len(AIMS)]
    until = redis.loop.time() + _AMBUSH_SECONDS
    redis.ambushes.add(Ambush(aim, strike, left=1 + fault.target, until=until))


def ambush_with_event(simulation: "Simulation", fault: Fault) -> None:
    usual = NAMES[fault.target % len(NAMES)]
    _ambush(simulation, fault, lambda _link, name: simulation.publish_at_once(name or usual))


def ambush_with_cuts(simulation: "Simulation", fault: Fault) -> None:
    def strike(link: RedisLink, _name: str) -> None:
        for client in simulation.clients_of(link):
            client.cut()

    _ambush(simulation, fault, strike)


def ambush_with_kill(simulation: "Simulation", fault: Fault) -> None:
    def strike(link: RedisLink, _name: str) -> None:
        for at, process in enumerate(simulation.processes):
            if process.redis is link:
                simulation.kill(at, seconds=2 * fault.size)

    _ambush(simulation, replace(fault, target=0), strike)


def ambush_with_lost_replies(simulation: "Simulation", fault: Fault) -> None:
    _ambush(simulation, replace(fault, target=fault.target % 3), lambda link, _name: link.cut())


def jump_clock(simulation: "Simulation", fault: Fault) -> None:
    loop = simulation.processes[fault.target % len(simulation.processes)].loop
    loop.skew += (fault.size - 0.5) * 600


_KINDS = {
    function.__name__: function
    for function in (
        cut_client,
        silence_client,
        abandon_client,
        cut_redis,
        silence_redis,
        disturb_the_live_path,
        flush,
        restart_redis,
        fail_over,
        kill,
        deploy,
        pause,
        burst,
        publish_unreadable,
        join,
        begin_again,
        stall_client,
        revoke,
        jump_clock,
        ambush_with_event,
        ambush_with_cuts,
        ambush_with_kill,
        ambush_with_lost_replies,
    )
}
KINDS = tuple(_KINDS)
