"""All parts of a run: Redis, servers with their own links to it, publishers and clients."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, select

from gqlnotify import Settings
from schema.database import Database
from schema.models import OUTBOX, TaskRow
from tests.chaos.participants import PATIENCE, SECRET, Clients, Notices, Phase, Tasks, event_cursor
from tests.chaos.presence import Watcher, subject_of
from tests.redis_servers import Link, RedisServer, installed, redis_server, wait_for
from tests.servers import DIRECT, UVICORN, Server, serving

# Long enough that a slow machine can't cause a gap.
_BROKER = {"broker_timeout": 1.0, "history_length": 20_000}
_LOST_LINE = "No live connection to Redis"


@dataclass(frozen=True)
class Scale:
    """How many clients and servers, and with which programs."""

    servers: int = 2
    clients: int = 6
    program: str | None = None
    database_url: str | None = None


@dataclass(frozen=True)
class Replica:
    """A server process and its own connection to Redis."""

    server: Server
    link: Link

    @property
    def pid(self) -> int:
        """The running process."""
        assert self.server.process is not None, "the server is not running"
        return self.server.process.pid

    @property
    def lost(self) -> int:
        """How often it has noticed that it has no connection to Redis."""
        return self.server.log.count(_LOST_LINE)

    def died(self) -> bool:
        """Whether the process has ended by itself."""
        return self.server.process is not None and self.server.process.poll() is not None


@dataclass(frozen=True)
class Stage:
    """What runs while the faults happen."""

    phase: Phase
    redis: RedisServer
    replicas: Sequence[Replica]
    database_url: str
    publisher_link: Link
    notices: Notices
    tasks: Tasks
    clients: Clients
    watcher: Watcher

    def settle(self) -> float:
        """Return once every client has all events that exist now, and how long that took."""
        began, goal = time.monotonic(), self._newest()
        self.wait_for(lambda: self.clients.have(goal), "every client has caught up")
        return time.monotonic() - began

    @contextmanager
    def held(self) -> Iterator[None]:
        """Return when every client has all events, although no further event is published.

        The last missed event must be found without a newer event that reveals it.
        """
        self.tasks.hold()
        self.notices.hold()
        try:
            yield
            self.wait_for(lambda: self.clients.have(self._newest()), "every client has all")
        finally:
            self.tasks.go()
            self.notices.go()

    def spread(self) -> None:
        """Return once every server has clients."""
        if not self.clients.everywhere():
            self.clients.spread()
            self.wait_for(self.clients.everywhere, "every server has clients")

    def _newest(self) -> dict[str, int]:
        return {"tasks": self.tasks.newest, "notices": self.notices.newest}

    def go_on(self, tasks: int) -> None:
        """Return once this many more tasks were created, whatever happens to their events."""
        goal = self.tasks.newest + tasks
        self.wait_for(lambda: self.tasks.newest >= goal, "tasks are made")

    def take_more(self, arrivals: int) -> None:
        """Return once this many more events have arrived at the clients in total."""
        goal = self.clients.arrived() + arrivals
        self.wait_for(lambda: self.clients.arrived() >= goal, "events arrive")

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition, and fail at once if a client has given up."""
        wait_for(lambda: condition() or self.clients.broken, what, seconds=PATIENCE)
        assert not self.clients.broken, "a client gave up"

    @contextmanager
    def given_up(self, *replicas: Replica, publisher: bool = False) -> Iterator[None]:
        """Return when all of these servers have noticed twice that Redis is silent."""
        lost = [(replica, replica.lost + 2) for replica in replicas]
        refused = self.notices.refused + 2 * publisher
        yield
        self.wait_for(
            lambda: (
                all(replica.lost >= goal for replica, goal in lost)
                and self.notices.refused >= refused
            ),
            "it is noticed that Redis is silent",
        )

    def all_are_present(self) -> bool:
        """Whether exactly the clients are shown as present."""
        return self.watcher.people == {subject_of(each) for each in range(self.clients.number)}

    def titles(self) -> list[str]:
        """Return the titles of the created tasks, in order."""
        return asyncio.run(_read(self.database_url, _TITLES))

    def outbox_is_empty(self) -> bool:
        """Whether every committed event is confirmed as published."""
        return asyncio.run(_read(self.database_url, _OUTBOX)) == [0]


@contextmanager
def staged(scale: Scale, seed: int, logs: Path) -> Iterator[Stage]:
    """Run all parts."""
    with ExitStack() as running:
        redis = running.enter_context(redis_server(installed(scale.program), persistent=True))
        running.callback(lambda: (logs / "redis.log").write_text(redis.log))
        database_url = scale.database_url or f"sqlite:///{logs}/tasks.db"
        replicas = [
            running.enter_context(_replica(redis, database_url, logs / f"server-{number}"))
            for number in range(scale.servers)
        ]
        servers = [replica.server for replica in replicas]
        phase, link = Phase(), running.enter_context(Link(redis.port))
        cursor = event_cursor(servers[0])
        settings: dict[str, Any] = {"broker_url": link.url, **_BROKER}
        notices = Notices(phase, seed=seed, settings=settings, logs=logs)
        _start(notices, running)
        wait_for(lambda: notices.cursor, "the publisher publishes")
        # The clients start with cursors, so they may miss nothing.
        after = {"tasks": cursor, "notices": notices.cursor}
        clients = Clients(phase, number=scale.clients, servers=servers, after=after, logs=logs)
        _start(clients, running)
        tasks = Tasks(phase, seed=seed, servers=servers)
        _start(tasks, running)
        watcher = Watcher(Settings(**{**settings, "broker_url": redis.url}))
        _start(watcher, running)
        yield Stage(phase, redis, replicas, database_url, link, notices, tasks, clients, watcher)


def _start(one: Notices | Clients | Tasks | Watcher, running: ExitStack) -> None:
    one.start()
    running.callback(one.stop)


@contextmanager
def _replica(redis: RedisServer, database_url: str, logs: Path) -> Iterator[Replica]:
    logs.mkdir()
    program = replace(UVICORN, takes_a_free_port=False)
    with Link(redis.port) as link:
        settings: dict[str, Any] = {"jwt_secret": SECRET, "database_url": database_url, **_BROKER}
        settings |= {"broker_url": link.url}
        arguments = ("--factory", *DIRECT)
        with serving(APP, logs, *arguments, program=program, **settings) as server:
            yield Replica(server, link)


APP = "tests.chaos.app:build"
_TITLES = select(TaskRow.title).order_by(TaskRow.position)
_OUTBOX = select(func.count()).select_from(OUTBOX)


async def _read(database_url: str, query: Select[Any]) -> list[Any]:
    database = Database(database_url)
    try:
        async with database.reading() as session:
            return list(await session.scalars(query))
    finally:
        await database.close()
