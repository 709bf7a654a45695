"""A server process: uvicorn's part, our WebSocket class and the application."""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from math import inf
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from gqlnotify import TopicManager
from gqlnotify.brokers.redis import broker
from gqlnotify.drain import Drain
from gqlnotify.server.http import HttpProtocol
from gqlnotify.server.websocket import MARGIN_SECONDS, WebSocketProtocol
from gqlnotify.topics.revocation import REVOCATIONS
from tests.simulation.application import UNREADABLE, Message, create_app, room, settings
from tests.simulation.conditions import Conditions
from tests.simulation.database import Database, Writer
from tests.simulation.determinism import CLOCK
from tests.simulation.network import Link
from tests.simulation.presence import Follower
from tests.simulation.redis_link import ModelServers, RedisLink
from tests.simulation.redis_server import RedisServer
from tests.simulation.world import World

# What a process without clients does.
_AT_REST = {
    f"a task: {name}"
    for name in (
        "Process._run",
        "RedisBroker._keep",
        "Survey._listen",
        "Resumptions._run",
        "Probe._run",
        *(f"Line._{part}" for part in ("run", "read", "write", "watch", "turn_away")),
        "LivePath._settle",
        "Outbox._run",
        "Outbox._measure_regularly",
        "to_thread",
    )
}


def _connect(*_address: Any) -> ModelServers:
    loop: Any = asyncio.get_running_loop()
    return ModelServers(loop.redis)


def _name(task: "asyncio.Task[Any]") -> str:
    return str(getattr(task.get_coro(), "__qualname__", task))


vars(broker)["connect"] = _connect


class Process:
    """One process, from its start until it is killed or has stopped."""

    def __init__(
        self,
        world: World,
        name: str,
        redis: RedisServer,
        conditions: Conditions,
        database: Database | None,
    ) -> None:
        self.world, self.name, self.settings = world, name, settings(**conditions.settings)
        self.loop: Any = world.loop(name)
        self.redis = RedisLink(redis, self.loop, conditions.redis_latency)
        vars(self.loop)["redis"] = self.redis
        self._connections: list[sqlite3.Connection] = []
        vars(self.loop)["connections"] = self._connections
        self._database = database
        self.serving = self.ended = False
        self._ended_at = inf
        self.links: list[Link] = []
        self.topics: TopicManager
        self.follower: Follower
        self._state = ServerState()
        self._stop: asyncio.Event
        self._running = self.loop.start(self._run())

    async def _run(self) -> None:
        app, self.topics, self._router = create_app(self.settings)
        vars(self.loop)["topics"] = self.topics
        self._config = Config(app, ws=WebSocketProtocol, log_config=None, ws_ping_interval=None)
        self._config.load()
        self._stop = asyncio.Event()
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(app.router.lifespan_context(app))
                if self._database is not None:
                    self._writer = Writer(self.topics, self._database)
                    await stack.enter_async_context(self._writer.outbox)
                self.serving = True
                self.world.note(self.name, "serves")
                self.follower = Follower(self)
                await self._stop.wait()
                self.serving = False
                await self._shut_down()
        finally:
            self.serving = False
        self.world.note(self.name, "has stopped")
        self._leave()

    async def _shut_down(self) -> None:
        drained = Drain.of(self.loop).begin(self.settings.drain_window, MARGIN_SECONDS)
        for connection in list(self._state.connections):
            connection.shutdown()
        await drained
        while self._state.tasks:
            await asyncio.wait(self._state.tasks)

    def accept(self, link: Link) -> bool:
        """Take a new connection. Return False if this process does not listen."""
        if not self.serving:
            return False
        self.links.append(link)
        link.connect(self.loop, HttpProtocol(self._config, self._state, {}, _loop=self.loop))
        return True

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._state.connections)

    def stop(self) -> None:
        """Stop as on SIGTERM: drain, then end the lifespan."""
        self.world.note(self.name, "gets SIGTERM")
        self.loop.later(0, self._stop.set)

    def pause(self, seconds: float) -> None:
        """Get no turns for some time."""
        self.loop.paused_until = CLOCK.now + seconds
        self.redis.hinder(self.loop.paused_until)

    def kill(self) -> None:
        """Stop between two turns, as on SIGKILL."""
        self.world.note(self.name, "is killed")
        self._leave()

    @property
    def has_lost_positions(self) -> bool:
        """Whether Redis lost the positions of its clients, and it can't have saved them again.

        docs/guarantees.md does not promise that both together are survived.
        """
        return self.redis.saved_again_at > min(self._ended_at, CLOCK.now)

    def _leave(self) -> None:
        self.serving, self.ended = False, True
        self._ended_at = self.loop.time()
        self.world.stop(self.loop)
        for connection in self._connections:
            connection.close()
        self.redis.cut()
        for link in self.links:
            link.cut()

    def publish(self, name: str, number: int, done: Callable[[bool], None]) -> None:
        """Publish in this process. `done` gets whether that has succeeded, unless it is killed."""
        message = Message(number=number)
        publishing = self.topics.publish(room(name), message, event_id=str(number))
        self._start(publishing, done)

    def write(self, name: str, number: int, commits: bool, done: Callable[[bool], None]) -> None:
        """Publish through the outbox, or roll the transaction back."""
        self._start(self._writer.write(name, number, commits=commits), done)

    def publish_unreadable(self, name: str, done: Callable[[bool], None]) -> None:
        """Publish what this version can't read."""
        self._start(self.topics.publish_bytes(room(name).name, UNREADABLE), done)

    def revoke(self, token_id: str, done: Callable[[bool], None]) -> None:
        """Revoke a token."""
        revocations = self._router.revocations
        assert revocations is not None
        self._start(revocations.revoke(token_id=token_id), done)

    def left_over(self) -> list[str]:
        """Return what is left, although no client is connected."""
        idle = {REVOCATIONS.name}
        live = self.topics.live_topics.by_name.items()
        found = [f"a topic: {name}" for name, topic in live if name not in idle]
        found += [f"a subscriber of {name}" for name, topic in live if len(topic.subscribers) > 1]
        found += ["a connection" for _ in self._state.connections]
        limits = self._router._gqlnotify.connection_limits
        found += [f"{limits.connections} counted connections"] * bool(limits.connections)
        found += [f"a counted connection of {subject}" for subject in limits._of_subject]
        found += [f"a task: {name}" for name in map(_name, asyncio.all_tasks(self.loop))]
        return [each for each in found if each not in _AT_REST]

    def _start(self, work: Coroutine[Any, Any, Any], done: Callable[[bool], None]) -> None:
        task = self.loop.start(work)
        task.add_done_callback(lambda task: done(task.exception() is None))
