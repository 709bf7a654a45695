"""One simulation: from a seed to what it broke."""

import asyncio
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Self

from tests.simulation import determinism
from tests.simulation.application import DOCUMENTS, NAMES, settings
from tests.simulation.clients import Client
from tests.simulation.determinism import CLOCK
from tests.simulation.faults import Fault, plan
from tests.simulation.history import Checker, Got, Truth, Violation
from tests.simulation.process import Process
from tests.simulation.redis_server import RedisServer
from tests.simulation.world import World

_CATCH_UP_SECONDS = 90.0
_PUBLISH_SECONDS = (0.02, 0.6)
_RETRY_SECONDS = 0.3
_PATIENCE_SECONDS = 4.0
_CALM_SECONDS = 2.0


RARE = (
    "a client resumed",
    "a client got a repeat that was marked",
    "a client was told of a gap in its stream",
    "a client was told of a gap by an error",
    "a half-open connection was noticed",
    "a socket was closed with 1012",
    "an event was published by two processes",
    "Redis lost events that a client had received",
)
"""States that some seeds reach. If none does, the simulation has become too tame."""


@dataclass(frozen=True, slots=True)
class Case:
    """A seed, and which of its faults happen; None means all."""

    seed: int
    kept: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` returns."""
        seed, colon, kept = text.partition(":")
        places = tuple(int(place) for place in kept.split(",") if place)
        return cls(int(seed), places if colon else None)

    def __str__(self) -> str:
        kept = "" if self.kept is None else ":" + ",".join(map(str, self.kept))
        return f"{self.seed}{kept}"


@dataclass
class Outcome:
    """What came of a case. `faults` are all of its seed."""

    case: Case
    hash: str
    faults: Sequence[Fault]
    violations: list[Violation]
    reached: set[str]
    trace: list[str] = field(repr=False, default_factory=list)


class Simulation:
    """The world of one seed: Redis, processes, clients, and the faults that happen to them."""

    def __init__(self, case: Case) -> None:
        determinism.seed(case.seed)
        self.case = case
        self.world = world = World(case.seed)
        self.faults = plan(world.random)
        self.truth = Truth()
        self.redis = RedisServer(world, self.truth)
        self.settings = settings(
            history_length=world.random.choice([1000, 1000, 40]),
            topic_linger=world.random.choice([0, 1, 10]),
            auto_resume_seconds=600,
        )
        self.processes = [
            self._start_process(name) for name in "ABC"[: world.random.choice([1, 2, 2, 3])]
        ]
        self.loop = world.loop("clients")
        self._numbers = count(1)
        self._publishing = True
        self.clients = [self._client(n) for n in range(world.random.choice([1, 2, 3, 5]))]
        self.loop.start(self._publish())
        self.loop.start(self._direct())
        self._phase = "faults"

    def run(self) -> Outcome:
        """Run it to its end."""
        world = self.world
        world.run(lambda: self._phase == "over")
        violations = list(self._violations())
        return Outcome(self.case, world.hash, self.faults, violations, world.reached, world.trace)

    # What the world consists of.

    def _start_process(self, name: str) -> Process:
        return Process(self.world, self.redis, name, self.settings)

    def restart_process(self, at: int) -> None:
        """Start a new process in the place of one that has ended."""
        self.processes[at] = self._start_process(self.processes[at].name)

    def _client(self, number: int) -> Client:
        choose = self.world.random.choice
        return Client(
            self.world,
            self.loop,
            f"client{number}",
            room=choose(NAMES),
            kind=choose(list(DOCUMENTS)),
            resumes=choose([False, False, True]),
            processes=lambda: self.processes,
        )

    async def _publish(self) -> None:
        while self._publishing:
            await asyncio.sleep(self.world.random.uniform(*_PUBLISH_SECONDS))
            self.publish_one(self.world.random.choice(NAMES))

    def publish_one(self, name: str) -> None:
        """Publish a message, again and again until it has succeeded."""
        self._try_to_publish(name, next(self._numbers))

    def _try_to_publish(self, name: str, number: int) -> None:
        serving = [process for process in self.processes if process.serving]
        tried = self.loop.create_future()

        def done(succeeded: bool) -> None:
            self.loop.later(0, tried.cancel)
            if not succeeded:
                self.loop.later(_RETRY_SECONDS, self._try_to_publish, name, number)

        def give_up() -> None:
            # The process may have been killed after it had published.
            if not tried.done():
                self._try_to_publish(name, number)

        if serving:
            self.world.random.choice(serving).publish(name, number, done)
            self.loop.later(_PATIENCE_SECONDS, give_up)
        else:
            self.loop.later(_RETRY_SECONDS, self._try_to_publish, name, number)

    # What happens.

    async def _direct(self) -> None:
        for place, fault in enumerate(self.faults):
            if self.case.kept is not None and place not in self.case.kept:
                continue
            await asyncio.sleep(max(fault.at - CLOCK.now, 0))
            self.world.note("fault", str(fault))
            fault.happen(self)
        await asyncio.sleep(1)
        self._heal()
        await asyncio.sleep(_CALM_SECONDS)
        self._publishing = False
        await asyncio.sleep(1)
        self.world.note("director", "waits until all have caught up")
        deadline = CLOCK.now + _CATCH_UP_SECONDS
        while CLOCK.now < deadline and not all(map(self._has_caught_up, self.clients)):
            # Again and again: the publisher may lose its connection too.
            for name in NAMES:
                self.publish_one(name)
            await asyncio.sleep(5)
        self._phase = "over"

    def _heal(self) -> None:
        self.world.note("director", "ends all faults")
        self.redis.drop_rate = self.redis.repeat_rate = 0
        self.redis.reorders = False
        for at, process in enumerate(self.processes):
            process.redis.silent = False
            if process.ended:
                self.restart_process(at)

    def _has_caught_up(self, client: Client) -> bool:
        events = self.truth.topics.get(f"gqlnotify:{{rooms.{client.room}}}", [])
        last = client.log[-1] if client.log else None
        return bool(events) and isinstance(last, Got) and last.cursor == events[-1].cursor

    # What it broke.

    def _violations(self) -> Iterator[Violation]:
        for client in self.clients:
            events = self.truth.topics.get(f"gqlnotify:{{rooms.{client.room}}}", [])
            lost = {event.cursor for event in events if event.lost}
            for violation in Checker(events).check(client.log):
                yield Violation(violation.promise, f"{client.name}: {violation.what}")
            if not self._has_caught_up(client):
                yield Violation("progress", f"{client.name} did not get the last event")
            if lost & {entry.cursor for entry in client.log if isinstance(entry, Got)}:
                self.world.saw("Redis lost events that a client had received")
            for failure in client.failures:
                yield Violation("every operation goes on", failure)
        for what in self.world.unhandled:
            yield Violation("no unhandled error", what)


def simulate(case: Case) -> Outcome:
    """Run a case. This interpreter then has run its only one."""
    gc.disable()
    return Simulation(case).run()
