"""Runs the programs while their connections are cut and the servers stop."""

import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gqlnotify import Publisher, Settings
from schema.commands import notices
from schema.types import Notice
from tests.chaos.audit import Published
from tests.chaos.participants import Phase
from tests.matrix.followers import Follower, Tally
from tests.redis_servers import Link, redis_server
from tests.rolling import Work, task_service
from tests.servers import Server
from tests.waiting import SCALE

PHASES = ("cuts", "outage", "deploys", "kills")

_TOPIC = notices("news")
_COMES_BACK = 30 * SCALE
"""Seconds after which a client that receives nothing counts as stopped."""
_STARTS = 120 * SCALE
_LONGEST_PAUSE = 0.3


@dataclass(frozen=True)
class Plan:
    """What happens, and how often."""

    cuts: int = 100
    outage: float = 6
    restarts: int = 3
    """Deploys, and as many kills."""


class News(Work):
    """Publishes numbers."""

    pause = 0.04

    def __init__(self, publisher: Publisher, phase: Phase) -> None:
        super().__init__()
        self.published: list[Published] = []
        self._publisher = publisher
        self._phase = phase

    def do(self, number: int) -> None:
        """See `Work.do`."""
        # Before it is published: it counts in the phase in which it could be lost.
        self.published.append(Published(number, self._phase.number))
        notice = Notice(payload=number, author=None, published_at=datetime.now(UTC))
        self._publisher.publish_sync(_TOPIC, notice)


@dataclass(frozen=True)
class Stage:
    """What runs during the interruptions."""

    phase: Phase
    servers: Sequence[Server]
    news: News
    followers: Sequence[Follower]

    @property
    def active(self) -> list[Follower]:
        """The programs that still receive events."""
        return [follower for follower in self.followers if not follower.stopped]

    def each(self, action: Callable[[Follower], None]) -> None:
        """Do this with every active program at the same time."""
        with ThreadPoolExecutor(len(self.followers)) as pool:
            list(pool.map(action, self.active))

    def wait_until_live(self, follower: Follower) -> None:
        """Return once the program has received an event of now, or counts as stopped."""
        follower.wait_for(self.news.done + 1, seconds=_COMES_BACK)

    def lead_to(self, server: Server) -> None:
        """Lead new connections to this server."""
        for follower in self.followers:
            follower.link.lead_to(server.port)


def run(
    programs: Mapping[str, Sequence[Path]],
    plan: Plan,
    *,
    logs: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Tally]:
    """Run these programs at once, several of them under one name, and count for each name."""
    with _staged(programs, logs) as stage:
        progress(f"{len(stage.followers)} programs follow")
        stage.each(lambda follower: follower.wait_for(1, seconds=_STARTS))
        for number, (name, happen) in enumerate(zip(PHASES, _HAPPENINGS, strict=True)):
            stage.phase.number = number
            began = time.monotonic()
            happen(stage, plan)
            stage.each(stage.wait_until_live)
            progress(f"{name}: {time.monotonic() - began:.0f} s, {len(stage.active)} still follow")
        stage.news.stop()
        stage.each(lambda follower: follower.wait_for(stage.news.done, seconds=_COMES_BACK))
        return _count(stage)


def _cut(stage: Stage, plan: Plan) -> None:
    stage.each(lambda follower: _cut_one(stage, follower, plan.cuts))


def _cut_one(stage: Stage, follower: Follower, cuts: int) -> None:
    for turn in range(cuts):
        stage.wait_until_live(follower)
        if follower.stopped:
            return
        time.sleep(random.uniform(0, _LONGEST_PAUSE))
        # Each time at another server.
        follower.link.lead_to(stage.servers[turn % 2].port)
        follower.cut()


def _fail(stage: Stage, plan: Plan) -> None:
    stage.lead_to(stage.servers[0])
    for follower in stage.followers:
        follower.link.refuse()
        follower.cut()
    time.sleep(plan.outage)
    for follower in stage.followers:
        follower.link.accept()


def _deploy(stage: Stage, plan: Plan) -> None:
    _restart(stage, range(plan.restarts), signal.SIGTERM)


def _kill(stage: Stage, plan: Plan) -> None:
    _restart(stage, range(plan.restarts, 2 * plan.restarts), signal.SIGKILL)


def _restart(stage: Stage, turns: Iterable[int], how: int) -> None:
    """Stop the server that the programs use, while new connections lead to the other one."""
    for turn in turns:
        server, other = stage.servers[turn % 2], stage.servers[1 - turn % 2]
        stage.lead_to(other)
        server.stop(how)
        stage.each(stage.wait_until_live)
        server.start()


_HAPPENINGS = (_cut, _fail, _deploy, _kill)


def _count(stage: Stage) -> dict[str, Tally]:
    counted: dict[str, Tally] = {}
    for follower in stage.followers:
        tally = counted.setdefault(follower.name.partition("#")[0], Tally())
        tally += follower.tally(stage.news.published)
    return counted


@contextmanager
def _staged(programs: Mapping[str, Sequence[Path]], logs: Path) -> Iterator[Stage]:
    phase = Phase()
    with redis_server(persistent=True) as redis, ExitStack() as running:
        # Long enough that a slow machine can't cause a gap.
        broker: dict[str, Any] = {"broker_url": redis.url, "history_length": 20_000}
        servers = [running.enter_context(task_service(logs / name, **broker)) for name in "ab"]
        news = News(running.enter_context(Publisher(settings=Settings(**broker))), phase)
        followers = [
            running.enter_context(_following(file, f"{name}#{number}", servers[0], phase, logs))
            for name, files in programs.items()
            for number, file in enumerate(files)
        ]
        news.start()
        running.callback(news.stop)
        yield Stage(phase, servers, news, followers)


@contextmanager
def _following(
    program: Path, name: str, server: Server, phase: Phase, logs: Path
) -> Iterator[Follower]:
    with Link(server.port) as link:
        follower = Follower(program, name=name, link=link, phase=phase, logs=logs)
        follower.start()
        try:
            yield follower
        finally:
            follower.stop()
