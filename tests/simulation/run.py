"""One simulation: from a seed to what it broke."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import inf
from typing import Self

from gqlnotify.brokers.redis import scripts
from gqlnotify.settings import Bounds
from tests.simulation import determinism
from tests.simulation.application import DOCUMENTS, NAMES, room
from tests.simulation.bounds import exceeded
from tests.simulation.clients import Client
from tests.simulation.conditions import Conditions
from tests.simulation.database import Database
from tests.simulation.determinism import CLOCK
from tests.simulation.faults import KINDS, Fault, plan
from tests.simulation.history import Began, Got, Told, Truth, Violation
from tests.simulation.lists import ListClient
from tests.simulation.network import Link
from tests.simulation.presence import check_presence
from tests.simulation.process import Process
from tests.simulation.quiet import caught_up, quiet_rounds
from tests.simulation.redis_link import RedisLink, encoded
from tests.simulation.redis_server import RedisServer
from tests.simulation.verdict import broken_by_processes, broken_for_clients
from tests.simulation.world import World

_CLEAN_UP_SECONDS = 40.0
# How late a reply of Redis may be.
_LATE_SECONDS = 1.0
_RETRY_SECONDS = 0.3
_KEYS = scripts.Names("gqlnotify", clustered=False)
_PATIENCE_SECONDS = 4.0
_CALM_SECONDS = 1.0
_WATCH_SECONDS = 0.2


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


Work = Callable[[Process, Callable[[bool], None]], None]
"""Begins something in a process, and has it tell whether it has succeeded."""


class Simulation:
    """The world of one seed: Redis, processes, clients, and the faults that happen to them."""

    def __init__(self, case: Case) -> None:
        determinism.seed(case.seed)
        self.case = case
        self.world = world = World(case.seed)
        self.conditions = Conditions.choose(world.random, KINDS)
        self.conditions.impose()
        self.faults = plan(world.random, self.conditions)
        self.truth = Truth()
        self.revoked: dict[str, float] = {}
        self.redis = RedisServer(world, self.truth)
        self.database = Database() if self.conditions.has_outbox else None
        self.written: set[int] = set()
        """The messages that were given to the outbox."""
        self.exceeded: dict[str, None] = {}
        """What a process had too much of."""
        self.processes = [
            self._start_process(name) for name in "ABC"[: world.random.choice([1, 2, 2, 3])]
        ]
        self.stopping: list[Process] = []
        self.loop = world.loop("clients")
        self._numbers = count(1)
        self._publishing = True
        self.clients = [self._client(n) for n in range(world.random.choice([1, 2, 3, 5]))]
        self.loop.start(self._publish())
        self.loop.start(self._watch())
        self.loop.start(self._direct())
        self._violated: list[Violation] = []
        self._is_over = False

    def run(self) -> Outcome:
        """Run it to its end."""
        world = self.world
        if not world.run(lambda: self._is_over):
            self._violated.append(Violation("progress", "it never ends"))
        if self.database is not None:
            self.database.remove()
        return Outcome(
            self.case, world.hash, self.faults, self._violated, world.reached, world.trace
        )

    # What the world consists of.

    def _start_process(self, name: str) -> Process:
        return Process(self.world, name, self.redis, self.conditions, self.database)

    def restart_process(self, at: int) -> None:
        """Start a new process in the place of one that has ended."""
        self.stopping = [process for process in self.stopping if not process.ended]
        if not self.processes[at].ended:
            self.stopping.append(self.processes[at])
        self.processes[at] = self._start_process(self.processes[at].name)

    def _client(self, number: int) -> Client:
        choose = self.world.random.choice
        kind = choose(list(DOCUMENTS))
        return (ListClient if kind == "listed" else Client)(
            self.world,
            self.loop,
            f"client{number}",
            room=choose(NAMES),
            kind=kind,
            resumes=choose([False, False, True]),
            processes=lambda: self.processes,
            conditions=self.conditions,
        )

    def kill(self, at: int, *, seconds: float = 0.1) -> None:
        """Kill a process, and start it again after some seconds."""
        process = self.processes[at]
        if not process.ended:
            if self.database is not None and self.database.waiting:
                self.world.saw("a process was killed with events in its outbox")
            process.kill()
            self.loop.later(seconds, self.restart_process, at)

    def deploy(self, at: int) -> None:
        """Stop a process, and start another one in its place."""
        if self.processes[at].serving:
            if any(not each.ended for each in self.stopping):
                self.world.saw("two processes drained at once")
            self.processes[at].stop()
            self.restart_process(at)

    async def _publish(self) -> None:
        while self._publishing:
            await asyncio.sleep(self.world.random.uniform(*self.conditions.publish_every))
            if self._publishing:
                self.publish_one(self.world.random.choice(NAMES[:-1]))

    def add_client(self) -> None:
        """Have one more client."""
        self.clients.append(self._client(len(self.clients)))

    def publish_one(self, name: str) -> None:
        """Publish a message, again and again until it has succeeded."""
        if self.database is not None and self.world.random.random() < 0.5:
            self._write(name, next(self._numbers))
        else:
            self._publish_for_certain(name)

    def _publish_for_certain(self, name: str) -> None:
        number = next(self._numbers)
        self._try(lambda process, done: process.publish(name, number, done))

    def _write(self, name: str, number: int) -> None:
        commits = self.world.random.random() < 0.8
        self.written.add(number)
        self._try(lambda process, done: process.write(name, number, commits, done))

    def publish_at_once(self, name: str) -> None:
        """Publish a message as a program does that is close to Redis."""
        if not self.redis.up:
            self.publish_one(name)
            return
        number, topic = next(self._numbers), room(name).name
        payload = b'{"number":%d}' % number
        bounds = Bounds(length=self.conditions.settings["history_length"])
        call = scripts.publish(_KEYS.script_keys(topic), payload, str(number), bounds, "PUBLISH")
        self.redis.execute(tuple(map(encoded, call.eval)))

    def publish_unreadable(self, name: str) -> None:
        """Publish what this version can't read."""
        self._try(lambda process, done: process.publish_unreadable(name, done))

    def clients_of(self, redis: RedisLink) -> Iterator[Link]:
        """Yield the connections of clients to the process with this link to Redis."""
        for process in self.processes:
            if process.redis is redis:
                yield from process.links

    def revoke(self, client: Client) -> None:
        """Revoke the token that the client uses now."""
        token_id = client.token_id

        def in_force() -> None:
            self.world.note("director", f"has revoked a token of {client.name}")
            self.revoked[token_id] = CLOCK.now

        self._try(lambda process, done: process.revoke(token_id, done), in_force)

    def _try(self, work: Work, then: Callable[[], None] = lambda: None) -> None:
        """Do `work` in a process that serves, and again in another one unless it has succeeded."""
        again = partial(self._try, work, then)
        serving = [process for process in self.processes if process.serving]
        if not serving:
            self.loop.later(_RETRY_SECONDS, again)
            return
        # The process may be killed after it has done the work.
        patience = self.loop.call_later(_PATIENCE_SECONDS, again)

        def done(succeeded: bool) -> None:
            self.loop.later(0, conclude, succeeded)

        def conclude(succeeded: bool) -> None:
            patience.cancel()
            if succeeded:
                then()
            else:
                self.loop.later(_RETRY_SECONDS, again)

        work(self.world.random.choice(serving), done)

    # What happens.

    async def _watch(self) -> None:
        while True:
            for process in filter(lambda process: process.serving, self.processes):
                self.exceeded |= dict.fromkeys(exceeded(process))
            await asyncio.sleep(_WATCH_SECONDS)

    async def _direct(self) -> None:
        await self._break_things()
        self._heal()
        self._publishing = False
        await self._catch_up()
        if not self.redis.has_dropped:
            await quiet_rounds(self)
        self._violated = list(broken_for_clients(self))
        if not self._violated:
            self._violated = await check_presence(self)
        await self._clean_up()
        self._violated += broken_by_processes(self)
        self._is_over = True

    async def _break_things(self) -> None:
        for place, fault in enumerate(self.faults):
            if self.case.kept is None or place in self.case.kept:
                await asyncio.sleep(max(fault.at - CLOCK.now, 0))
                self.world.note("fault", str(fault))
                fault.happen(self)
        await asyncio.sleep(1)

    async def _catch_up(self) -> None:
        self.world.note("director", "waits until all have caught up")
        # They show what the live path has dropped, and that Redis has lost something.
        for name in NAMES:
            # Not in a transaction, which may be rolled back.
            self._publish_for_certain(name)
        await asyncio.sleep(_CALM_SECONDS)
        await caught_up(self)

    async def _clean_up(self) -> None:
        for client in self.clients:
            client.stop()
        deadline = CLOCK.now + _CLEAN_UP_SECONDS
        while CLOCK.now < deadline and self.left_over():
            for process in self.processes:
                # A process may have begun to serve only now.
                if process.serving:
                    process.follower.stop()
            await asyncio.sleep(1)

    def _heal(self) -> None:
        self.world.note("director", "ends all faults")
        self.redis.ambushes.clear()
        self.redis.drop_rate = self.redis.repeat_rate = 0
        self.redis.reorders = False
        for at, process in enumerate(self.processes):
            process.redis.speak()
            process.loop.skew = 0
            if process.ended:
                self.restart_process(at)

    def is_well(self) -> bool:
        """Return whether every client has got the last event, and has a token in force."""
        if self.database is not None and self.database.waiting:
            return False
        return all(self.has_caught_up(each) and not self.is_revoked(each) for each in self.clients)

    def is_revoked(self, client: Client) -> bool:
        """Return whether a client is connected with a token that its process knows is revoked."""
        # A process that starts after a flush can't know.
        at = self.revoked.get(client.token_id, inf)
        return (
            client.socket is not None and at < CLOCK.now and self.redis.lost_at < at - _LATE_SECONDS
        )

    def left_over(self) -> list[str]:
        """Return what the processes still have of clients that have gone."""
        alive = [process for process in self.processes if process.serving]
        return [f"{process.name} has {each}" for process in alive for each in process.left_over()]

    def has_caught_up(self, client: Client) -> bool:
        """Return whether a client knows of the last event of its room."""
        if client.awaits_snapshot:
            return False
        events = self.truth.of_room(client.room)
        match client.log[-1:], events[-1:]:
            case [Began(at=at)], [newest] if newest.forgotten_at is not None:
                return at > newest.forgotten_at
            case [Began(cursor=cursor) | Got(cursor=cursor)], [newest]:
                return cursor == newest.cursor
            case [Told(at=at)], [newest]:
                return at > newest.at
        return not events
