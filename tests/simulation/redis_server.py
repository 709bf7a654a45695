"""A Redis server that restarts, fails over and forgets when the seed says so."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from redis.exceptions import NoScriptError
from redis.exceptions import ResponseError as RedisResponseError

from gqlnotify.brokers.redis import scripts
from tests.simulation.ambush import Ambushes
from tests.simulation.determinism import EPOCH
from tests.simulation.history import CHANNEL_PREFIX, Truth
from tests.simulation.redis_memory import (
    Commands,
    Interpreter,
    Memory,
    Reply,
    ResponseError,
    script_texts,
)
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.redis_link import Line, RedisLink

Command = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Logged:
    """A command that was executed, and what it saw of the server."""

    command: Command
    at: float
    us: int
    replication_id: str


class RedisServer:
    """One server. A failover makes it its own replica, which lacks the newest commands."""

    def __init__(self, world: World, truth: Truth) -> None:
        self.world, self.truth = world, truth
        self.loop = world.loop("redis")
        self.up = True
        self.lost_at = -inf
        """When it last lost data."""
        self.drop_rate = self.repeat_rate = 0.0
        self.reorders = False
        self.has_dropped = False
        """Whether messages of the live path were lost without a sign."""
        self.lines: list[Line] = []
        self.links: list[RedisLink] = []
        self.calls: dict[asyncio.Future[Reply], RedisLink] = {}
        self.ambushes = Ambushes(world, self.loop)
        self._interpreter = Interpreter()
        self._memory = Memory()
        self._log: list[Logged] = []
        self._known_scripts: set[str] = set()
        self._replication_id = self._new_id()

    # Faults.

    def flush(self) -> None:
        """Forget all data, as FLUSHALL does."""
        if not self.up:
            return
        self.world.note("redis", "FLUSHALL")
        self._note_loss()
        self.execute((b"FLUSHALL",))
        self.truth.forgotten(self.loop.time())

    def restart(self, *, lose: int, seconds: float) -> None:
        """Go down, lose the newest commands, and come back."""
        self.world.note("redis", f"down for {seconds:.3f} s, loses {lose} commands")
        self.up = False
        for link in self.links:
            link.hinder(self.loop.time() + seconds)
        if lose:
            self._note_loss()
        self.disconnect()
        kept = len(self._log) - lose
        lost, self._log = self._log[kept:], self._log[:kept]
        self._replay(min((logged.at for logged in lost), default=inf))
        self.loop.later(seconds, self._come_back)

    def disconnect(self) -> None:
        """End all connections."""
        for line in list(self.lines):
            line.break_soon()
        for reply, link in list(self.calls.items()):
            link.fail_soon(reply)

    def _note_loss(self) -> None:
        self.lost_at = self.loop.time()
        for link in self.links:
            link.note_loss()

    def _come_back(self) -> None:
        self.world.note("redis", "up")
        self._replication_id = self._new_id()
        self._known_scripts.clear()
        self.up = True

    def _replay(self, lost_since: float) -> None:
        self._memory = Memory()
        for logged in self._log:
            self._run(logged, lambda _channel, _message: None)
        self.truth.lost_all_but(self._cursors(), since=lost_since)

    def _new_id(self) -> str:
        return f"{self.world.random.getrandbits(160):040x}"

    # Commands.

    def execute(self, command: Command) -> Reply:
        """Execute a command now.

        Raises:
            RedisResponseError: The server refuses it.
        """
        name = command[0].decode()
        if name == "EVALSHA" and command[1].decode() not in self._known_scripts:
            raise NoScriptError("No matching script. Please use EVAL.")
        if name == "EVAL":
            command = self._learn(command)
        now = self.loop.time()
        logged = Logged(command, now, int((EPOCH + now) * 1_000_000), self._replication_id)
        self._log.append(logged)
        try:
            reply = self._run(logged, self._send)
        except ResponseError as error:
            raise RedisResponseError(str(error)) from error
        self._note_event(command, reply)
        return reply

    def _learn(self, command: Command) -> Command:
        [sha] = [sha for sha, text in script_texts().items() if text.encode() == command[1]]
        self._known_scripts.add(sha)
        return (b"EVALSHA", sha.encode(), *command[2:])

    def _run(self, logged: Logged, send: Callable[[bytes, bytes], None]) -> Reply:
        commands = Commands(self._memory, logged.us, logged.replication_id, send)
        name, *arguments = logged.command
        if name != b"EVALSHA":
            return commands.run(name.decode(), *arguments)
        text, count = script_texts()[arguments[0].decode()], int(arguments[1])
        keys, rest = arguments[2 : 2 + count], arguments[2 + count :]
        return self._interpreter.run(text, commands, keys, rest)

    def _note_event(self, command: Command, reply: Reply) -> None:
        if command[0] == b"EVALSHA" and command[1].decode() == scripts.PUBLISH.sha:
            topic, payload = command[3].decode(), command[3 + int(command[2])]
            if not topic.startswith(CHANNEL_PREFIX):
                return
            if self.truth.appended(topic, reply.decode(), payload, self.loop.time()):
                self.world.note("redis", f"{topic} {reply.decode()} {payload.decode()[:40]}")
            else:
                self.world.saw("an event was published by two processes")

    def _cursors(self) -> set[tuple[str, str]]:
        return {
            (key.decode(), f"{ms}-{seq}")
            for key, stream in self._memory.keys.items()
            if hasattr(stream, "entries")
            for (ms, seq), _ in stream.entries
        }

    def _send(self, channel: bytes, message: bytes) -> None:
        for line in self.lines:
            if channel in line.channels:
                line.publish(channel, message)
