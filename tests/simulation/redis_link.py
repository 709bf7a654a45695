"""How a process reaches Redis: commands, Pub/Sub lines, and what the network does to them.

`ModelServers` takes the place of `gqlnotify.brokers.redis.topology.Servers`, so everything above it
is the real code: the broker, its retries and deadlines, Pub/Sub and the scripts.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError as RedisResponseError
from typing_extensions import override

from gqlnotify.brokers.redis.topology import Servers
from tests.simulation.history import CHANNEL_PREFIX
from tests.simulation.redis_memory import Reply
from tests.simulation.redis_server import Command, RedisServer
from tests.simulation.world import SimulatedLoop

# How long a process takes at most to notice a loss, and to save positions again.
_SAVED_AGAIN_SECONDS = 6.0


class RedisLink:
    """How one process reaches the server."""

    def __init__(
        self, server: RedisServer, loop: SimulatedLoop, latency: tuple[float, float]
    ) -> None:
        self.server, self.loop, self._latency = server, loop, latency
        self.silent = False
        """Whether nothing arrives in either direction, and neither end notices."""
        self.saved_again_at = self._hindered_until = -inf
        server.links.append(self)

    def delay(self) -> float:
        return self.server.world.random.uniform(*self._latency)

    def silence(self, seconds: float) -> None:
        """Lose all packets for some time. The connections of now stay dead after it."""
        self.silent = True
        self.hinder(self.server.loop.time() + seconds)
        for line in self._lines():
            line.silent = True
        self.server.loop.later(seconds, self.speak)

    def speak(self) -> None:
        """End the silence."""
        self.silent = False

    def hinder(self, until: float) -> None:
        """Note that the process may not reach Redis until then."""
        self._hindered_until = max(self._hindered_until, until)
        if self.saved_again_at > self.server.loop.time():
            self.saved_again_at = self._hindered_until + _SAVED_AGAIN_SECONDS

    def note_loss(self) -> None:
        """Note that Redis has lost positions. The process saves them again as soon as it can."""
        self.saved_again_at = inf
        self.hinder(self.server.loop.time())

    def cut(self) -> None:
        """End all connections of this process."""
        self.hinder(self.server.loop.time())
        for line in self._lines():
            line.break_soon()
        for reply in [reply for reply, link in self.server.calls.items() if link is self]:
            self.fail_soon(reply)

    def _lines(self) -> list["Line"]:
        return [line for line in self.server.lines if line.link is self]

    async def request(self, *command: Any) -> Reply:
        """Send a command and wait for its reply."""
        sent = tuple(map(encoded, command))
        if not self.server.up:
            await asyncio.sleep(self.delay())
            raise RedisConnectionError("Connection refused")
        reply: asyncio.Future[Reply] = self.loop.create_future()
        self.server.calls[reply] = self
        if not self.silent:
            self.server.loop.later(self.delay(), self._arrived, sent, reply)
        try:
            return await reply
        finally:
            self.server.calls.pop(reply, None)

    def fail_soon(self, reply: "asyncio.Future[Reply]") -> None:
        """Tell the caller that its connection was lost. The command may have been executed."""
        self.server.calls.pop(reply, None)
        self.loop.later(self.delay(), _fail, reply, RedisConnectionError("Connection lost"))

    def _arrived(self, command: Command, reply: "asyncio.Future[Reply]") -> None:
        if self.silent or reply not in self.server.calls:
            return
        try:
            answer = self.server.execute(command)
        except RedisResponseError as error:
            self._answer(_fail, reply, error)
        else:
            self._answer(_succeed, reply, answer)
            if command[0] == b"EVALSHA":
                self.server.ambushes.executed(command[1], command[3], self)

    def _answer(self, how: Callable[..., None], *arguments: Any) -> None:
        if not self.silent:
            self.loop.later(self.delay(), how, *arguments)


class Line:
    """One Pub/Sub connection, with the part of redis-py's interface that the library uses."""

    socket_timeout: float | None = None

    def __init__(self, link: RedisLink) -> None:
        self.link = link
        self.silent = False
        self.channels: set[bytes] = set()
        self._server = link.server
        self._inbox: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._broken = False
        self._arrives_at = 0.0

    async def connect(self) -> None:
        await asyncio.sleep(self.link.delay())
        if self.link.silent:
            await asyncio.get_running_loop().create_future()
        if not self._server.up:
            raise RedisConnectionError("Connection refused")
        self._server.lines.append(self)

    async def disconnect(self, nowait: bool = False) -> None:
        self._broken = True
        if self in self._server.lines:
            self._server.lines.remove(self)

    def pack_commands(self, commands: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
        return list(commands)

    async def send_packed_command(
        self, commands: Sequence[tuple[str, ...]], check_health: bool = True
    ) -> None:
        self._require_whole()
        for command in commands:
            if not self._is_silent:
                self._in_order(self._server.loop, self._take, command)

    async def send_command(self, *command: str, check_health: bool = True) -> None:
        await self.send_packed_command([command])

    async def read_response(self, **_options: Any) -> Any:
        while not self._inbox:
            self._require_whole()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._inbox.popleft()

    def break_soon(self) -> None:
        """End the connection. Messages on their way are lost."""
        if self in self._server.lines:
            self._server.lines.remove(self)
        self.link.loop.later(self.link.delay(), self._break)

    def publish(self, channel: bytes, message: bytes) -> None:
        """Send a message, unless the live path loses it."""
        chance, server = self._server.world.random.random(), self._server
        # Redis itself drops nothing without ending the connection. A later event shows the gap, so
        # only topics that get one lose messages here.
        if chance < server.drop_rate and channel.decode().startswith(CHANNEL_PREFIX):
            server.world.note("redis", f"drops a message to {self.link.loop.name}")
            return
        for _ in range(2 if chance > 1 - server.repeat_rate else 1):
            self._push([b"message", channel, message], in_order=not server.reorders)

    @property
    def _is_silent(self) -> bool:
        return self.silent or self.link.silent

    def _take(self, command: tuple[str, ...]) -> None:
        name, *names = command
        if name == "PING":
            self._push(b"PONG")
        for channel in map(str.encode, names):
            (self.channels.add if name == "SUBSCRIBE" else self.channels.discard)(channel)
            self._push([name.lower().encode(), channel, 1])
            self._server.ambushes.executed(name.encode(), channel, self.link)

    def _push(self, reply: Any, *, in_order: bool = True) -> None:
        if self._is_silent:
            return
        if in_order:
            self._in_order(self.link.loop, self._arrived, reply)
        else:
            self.link.loop.later(self.link.delay() * 20, self._arrived, reply)

    def _in_order(self, loop: SimulatedLoop, do: Callable[..., None], argument: Any) -> None:
        self._arrives_at = max(loop.time() + self.link.delay(), self._arrives_at + 1e-7)
        loop.later(self._arrives_at - loop.time(), do, argument)

    def _arrived(self, reply: Any) -> None:
        if not self._broken:
            self._inbox.append(reply)
            self._wake()

    def _break(self) -> None:
        self._broken = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _require_whole(self) -> None:
        if self._broken:
            raise RedisConnectionError("Connection closed by server.")


class ModelClient:
    """The part of redis-py's client that the library uses."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def execute_command(self, *command: Any) -> Reply:
        return await self._link.request(*command)

    async def ping(self) -> Reply:
        return await self._link.request("PING")

    def pipeline(self, transaction: bool = True) -> "Pipeline":
        return Pipeline(self._link)

    async def aclose(self) -> None:
        pass


class Pipeline:
    """Commands that are sent together."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._commands: list[tuple[Any, ...]] = []

    def pexpire(self, key: str, ms: int) -> None:
        self._commands.append(("PEXPIRE", key, ms))

    async def execute(self, raise_on_error: bool = True) -> list[Reply]:
        return [await self._link.request(*command) for command in self._commands]


class ModelServers(Servers):
    """One server, reached through the link of a process."""

    def __init__(self, link: RedisLink) -> None:
        super().__init__()
        self._link = link
        client: Any = ModelClient(link)
        self.client = client

    @override
    async def _renew(self) -> None:
        pass

    @override
    def home(self, channel: str) -> str:
        return "the only one"

    @override
    def connection(self, name: str) -> Any:
        return Line(self._link)

    @override
    async def refresh(self) -> None:
        pass

    @override
    async def aclose(self) -> None:
        pass


def _succeed(reply: "asyncio.Future[Reply]", value: Reply) -> None:
    if not reply.done():
        reply.set_result(value)


def _fail(reply: "asyncio.Future[Reply]", error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)


def encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
