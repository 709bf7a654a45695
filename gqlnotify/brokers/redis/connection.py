"""One Pub/Sub connection to one server, which connects again until it is closed."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError

from gqlnotify.backoff import Backoff
from gqlnotify.brokers.redis.redis_adapter import AbstractConnection, next_reply, ping, write
from gqlnotify.brokers.redis.topology import Servers, is_trouble
from gqlnotify.observability import metrics

_RETRY_SECONDS = (0.05, 2.0)
_CANCEL_AGAIN_SECONDS = 0.1
_MESSAGE = {b"message", b"smessage"}
_SUBSCRIBED = {b"subscribe", b"ssubscribe"}

logger = logging.getLogger("gqlnotify.brokers")


class Listener(Protocol):
    """Gets what happens on a line."""

    def received(self, channel: str, data: bytes) -> None:
        """Take a message."""

    def confirmed(self, channel: str) -> None:
        """Take note that the messages of the channel arrive from now on."""

    def unsettled(self) -> None:
        """Take note that the connection was lost, or that its server lost one of the channels."""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """A command to subscribe to a channel or unsubscribe from it. Redis answers them in order."""

    kind: bytes
    channel: str

    @property
    def answer(self) -> tuple[bytes, str]:
        return self.kind, self.channel


class Line:
    """Keeps the server's subscriptions equal to the wanted channels, over all reconnects.

    A silent server is pinged. If it stays silent for `timeout` seconds, the connection is lost.
    """

    def __init__(self, servers: Servers, name: str, listener: Listener, timeout: float) -> None:
        self.channels: set[str] = set()
        self.connected = False
        self._servers = servers
        self._name = name
        self._listener = listener
        self._timeout = timeout
        self.confirmed: set[str] = set()
        self._requested: set[str] = set()
        self._expected: deque[_Request] = deque()
        self._latest: dict[str, _Request] = {}
        self._dirty: set[str] = set()
        self._changed = asyncio.Event()
        self._misled = asyncio.Event()
        self._up_since = math.inf
        self._heard = 0.0
        self._running = asyncio.create_task(self._run())

    def add(self, channel: str) -> None:
        """Want the channel. A channel that is already wanted causes no command."""
        self.channels.add(channel)
        self._note(channel)

    def remove(self, channel: str) -> None:
        """Stop wanting the channel."""
        self.channels.discard(channel)
        self._note(channel)

    async def aclose(self) -> None:
        """Close the connection for good."""
        # Cancel until it works: a task group that fails in the tick in which it is cancelled loses
        # the cancellation.
        while not self._running.done():
            self._running.cancel()
            await asyncio.wait([self._running], timeout=_CANCEL_AGAIN_SECONDS)

    def _note(self, channel: str) -> None:
        self._dirty.add(channel)
        self._changed.set()

    async def _run(self) -> None:
        backoff = Backoff(*_RETRY_SECONDS)
        while True:
            self._up_since = math.inf
            try:
                await self._hold()
            except Exception as error:
                # A server may accept connections and drop them at once. Such a connection does not
                # reset the back-off.
                if _now() - self._up_since >= _RETRY_SECONDS[1]:
                    backoff.reset()
                delay = backoff.next()
                self._lost(error, delay)
                self._listener.unsettled()
                await asyncio.sleep(delay)

    def reconnect(self) -> None:
        """Replace this connection by a new one: the address may lead to another server now."""
        self._misled.set()

    async def _hold(self) -> None:
        connection = self._servers.connection(self._name)
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
            # `_watch` detects a silent server. With a timeout, redis-py uses `asyncio.wait_for` for
            # each write, which on Python 3.11 loses a cancellation in the tick in which it returns.
            connection.socket_timeout = None
            self._begin()
            async with asyncio.TaskGroup() as tasks:
                for work in (self._read, self._write, self._watch, self._turn_away):
                    tasks.create_task(work(connection))
        finally:
            self.connected = False
            await connection.disconnect(nowait=True)

    def _lost(self, error: Exception, delay: float) -> None:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        unexpected = not is_trouble(error)
        logger.warning(
            "No live connection to Redis, next try in %.2f s: %s",
            *(delay, error),
            exc_info=unexpected,
        )

    def _begin(self) -> None:
        self.connected = True
        self._up_since = _now()
        self._misled.clear()
        if self._heard:
            metrics.broker_reconnects.inc()
        for state in (self._requested, self.confirmed, self._expected, self._latest):
            state.clear()
        self._dirty = set(self.channels)
        self._changed.set()
        self._heard = _now()

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            try:
                reply = await next_reply(connection)
            except MovedError:
                self._forget(self._expected.popleft())
            else:
                if isinstance(reply, list):
                    self._take(reply)
            self._heard = _now()

    def _take(self, push: Sequence[Any]) -> None:
        kind, channel = push[0], push[1].decode()
        if kind in _MESSAGE:
            self._listener.received(channel, push[2])
        elif self._expected and (kind, channel) == self._expected[0].answer:
            self._answered(self._expected.popleft())
        elif channel in self._requested:
            # An unsubscription that we did not send: the cluster moved the channel's slot.
            self._forget(self._latest[channel])

    def _answered(self, request: "_Request") -> None:
        if self._latest.get(request.channel) is not request:
            # A later request for this channel is on its way. Only its answer counts.
            return
        if request.kind in _SUBSCRIBED:
            self.confirmed.add(request.channel)
            self._listener.confirmed(request.channel)
        else:
            del self._latest[request.channel]

    def _forget(self, request: "_Request") -> None:
        if self._latest.get(request.channel) is request:
            self._requested.discard(request.channel)
            self.confirmed.discard(request.channel)
        self._listener.unsettled()

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            dirty, self._dirty = self._dirty, set()
            await write(connection, self._commands(dirty))

    def _commands(self, dirty: set[str]) -> Iterator[tuple[str, ...]]:
        more = sorted(dirty & self.channels - self._requested)
        less = sorted(dirty & self._requested - self.channels)
        self._requested.update(more)
        self._requested.difference_update(less)
        self.confirmed.difference_update(less)
        for command, channels in zip(self._servers.commands, (more, less), strict=True):
            for channel in channels:
                request = self._latest[channel] = _Request(command.lower().encode(), channel)
                self._expected.append(request)
            for some in _chunks(channels, self._servers.channels_a_command):
                yield (command, *some)

    async def _watch(self, connection: AbstractConnection) -> None:
        interval, pinged = self._timeout / 3, 0.0
        while True:
            await asyncio.sleep(interval)
            silent = _now() - self._heard
            # Only a server that got a ping after its last message can be late: this process may
            # have been blocked.
            if silent >= self._timeout and pinged > self._heard:
                raise TimeoutError(f"no answer for {silent:.1f} s")
            if silent >= interval:
                await ping(connection)
                pinged = _now()

    async def _turn_away(self, _connection: AbstractConnection) -> None:
        await self._misled.wait()
        raise RedisConnectionError("the address leads to another server")


def _chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _now() -> float:
    return asyncio.get_running_loop().time()
