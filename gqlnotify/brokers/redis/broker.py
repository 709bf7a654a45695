"""The Redis broker: the history of a topic is a stream, and Pub/Sub is the live path."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

from redis.exceptions import ClusterError, NoScriptError
from typing_extensions import override

from gqlnotify.brokers.base import Broker, Deliver, OnPossibleGap
from gqlnotify.brokers.redis import scripts
from gqlnotify.brokers.redis.login import Login
from gqlnotify.brokers.redis.positions import RedisPositions
from gqlnotify.brokers.redis.presence import RedisPresence
from gqlnotify.brokers.redis.probe import Probe
from gqlnotify.brokers.redis.pubsub import LivePath
from gqlnotify.brokers.redis.scripts import Call, Names
from gqlnotify.brokers.redis.topology import (
    Servers,
    connect,
    is_misled,
    reaching,
    refused_unwritten,
)
from gqlnotify.brokers.redis.url import Address
from gqlnotify.errors import BrokerUnavailable
from gqlnotify.event import Cursor, Event
from gqlnotify.settings import MAX_LIFETIME, Bounds, Retention

# More would only wait for each other: Redis runs all commands in one thread.
_COMMANDS_AT_ONCE = 32
# How often the keys of subscribed topics are extended. They live for at least a minute.
_KEEP_SECONDS = 15.0
# Topics in one pipeline, so that other commands do not wait for all of them.
_KEEP_AT_ONCE = 1000
# `begun` keeps the 100 000 newest topics (history.lua), so the cursor of a topic that does not
# exist expires when enough newer topics begin. A topic with subscribers gets a history before that.
_BEGIN_SECONDS = 600.0
_MOVING_SECONDS = 0.05

# One event, in a key that expires a minute after the last check.
_PROBE = Bounds(length=1, seconds=1)

logger = logging.getLogger("gqlnotify.brokers")


class RedisBroker(Broker):
    """Topics in Redis 7 or Valkey, shared by any number of processes.

    Args:
        url: Where Redis is, in a form that `Address.parse` accepts.
        length, seconds, per_topic, longest_life: The bounds of histories, as in `MemoryBroker`.
        timeout: Seconds after which a Redis that does not answer counts as unreachable.
        prefix: The first part of every key and channel. All databases of a server share its
            channels, so two applications on one server need different prefixes.

    Raises:
        ValueError: The URL has another form.
    """

    def __init__(
        self,
        url: str,
        *,
        length: int = 1000,
        seconds: float = 3600,
        per_topic: Mapping[str, Bounds] | None = None,
        longest_life: float = MAX_LIFETIME,
        timeout: float = 5,
        prefix: str = "gqlnotify",
    ) -> None:
        self._address = Address.parse(url)
        self._retention = Retention(length, seconds, per_topic or {}, longest_life=longest_life)
        self._timeout = timeout
        self._names = Names(prefix, self._address.kind == "cluster")
        self._missing: dict[str, float] = {}
        self._session: _Session | None = None

    @cached_property
    @override
    def positions(self) -> RedisPositions:
        return RedisPositions(self._names, self._run)

    @cached_property
    @override
    def presence(self) -> RedisPresence:
        return RedisPresence(self._names, self._retention, self._run)

    @override
    async def start(self, deliver: Deliver, on_possible_gap: OnPossibleGap) -> None:
        self._deliver, self._on_possible_gap = deliver, on_possible_gap
        servers = connect(self._address, self._timeout)
        live = LivePath(
            servers, self._timeout, on_message=self._received, on_confirmed=self._confirmed
        )
        self._session = _Session(servers, live)
        self._probe = Probe(self._prove)
        try:
            async with self._answer() as session:
                await session.servers.client.ping()
        except BaseException:
            await self.close()
            raise
        self._session.keeping = asyncio.create_task(self._keep())

    @override
    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._probe.cancel()
            await session.aclose()

    @override
    async def check(self) -> None:
        session = self._started()
        if not session.live.connected:
            raise BrokerUnavailable("The live connection to Redis is down and being made again")
        await self._probe.check()

    @override
    async def publish(self, topic: str, payload: bytes, *, event_id: str | None = None) -> Cursor:
        return await self._publish(topic, payload, event_id, self._retention.of(topic))

    @override
    async def subscribe(self, topic: str) -> None:
        await self._started().live.subscribe(self._names.stream(topic))

    @override
    async def unsubscribe(self, topic: str) -> None:
        if self._session is not None:
            self._session.live.unsubscribe(self._names.stream(topic))

    @override
    async def head(self, topic: str) -> Cursor:
        call = scripts.head(self._names.script_keys(topic), self._retention.of(topic))
        return scripts.parse_cursor(await self._run(call))

    @override
    async def oldest(self, topic: str) -> Cursor:
        call = scripts.oldest(self._names.script_keys(topic), self._retention.of(topic))
        return scripts.parse_cursor(await self._run(call))

    @override
    async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
        bounds = self._retention.of(topic)
        call = scripts.read(self._names.script_keys(topic), after, limit, bounds)
        return scripts.parse_page(topic, await self._run(call))

    async def _run(self, call: Call) -> Any:
        async with self._answer() as session:
            return await session.run(call)

    def _received(self, channel: str, data: bytes) -> None:
        topic = self._names.topic(channel)
        try:
            event = scripts.parse_message(topic, data)
        except ValueError:
            logger.warning(
                "Ignored %d bytes on the channel %s that were not sent by gqlnotify",
                *(len(data), channel),
            )
            return
        if topic == self._probe.topic:
            self._probe.received(event.payload)
        else:
            self._deliver(event)

    def _confirmed(self, channel: str) -> None:
        self._on_possible_gap(self._names.topic(channel))

    async def _publish(
        self, topic: str, payload: bytes, event_id: str | None, bounds: Bounds
    ) -> Cursor:
        async with self._answer() as session:
            command = session.servers.publish
            keys = self._names.script_keys(topic)
            call = scripts.publish(keys, payload, event_id, bounds, command)
            return scripts.parse_cursor(await session.run(call))

    async def _prove(self, probe: Probe) -> None:
        """Publish an event the usual way, and wait for it on the live connection."""
        session = self._started()
        try:
            async with asyncio.timeout(self._timeout):
                await self.subscribe(probe.topic)
                await self._publish(probe.topic, probe.payload, None, _PROBE)
                await probe.arrived.wait()
        except TimeoutError as error:
            # The connection may lead to a server that no longer gets the events, for example a
            # former master.
            session.live.reconnect()
            raise BrokerUnavailable("A published event did not arrive in time") from error

    def _started(self) -> "_Session":
        if self._session is None:
            raise BrokerUnavailable("The broker is not open: call start first")
        return self._session

    @asynccontextmanager
    async def _answer(self) -> AsyncIterator["_Session"]:
        session = self._started()
        # Twice the timeout: once to get a permit, and once to get the reply.
        with reaching():
            async with asyncio.timeout(2 * self._timeout), session.permits:
                yield session

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_SECONDS)
            # The check is how a process that only listens notices that its connection leads to the
            # wrong server.
            for work in (self.check, self._extend_all):
                try:
                    await work()
                except BrokerUnavailable as error:
                    logger.warning("The regular check of the broker failed: %s", error.reason)

    async def _extend_all(self) -> None:
        own = self._names.stream(self._probe.topic)
        channels = [channel for channel in self._started().live.channels if channel != own]
        missing = list[str]()
        for start in range(0, len(channels), _KEEP_AT_ONCE):
            missing += await self._extend(channels[start : start + _KEEP_AT_ONCE])
        await self._look_after(missing)

    async def _extend(self, channels: Sequence[str]) -> list[str]:
        """Extend the lifetime of these channels' topics, and return those that do not exist."""
        topics = [self._names.topic(channel) for channel in channels]
        async with self._answer() as session:
            batch = session.servers.client.pipeline(transaction=False)
            for topic in topics:
                for key in self._names.keys(topic):
                    batch.pexpire(key, scripts.lifetime(self._retention.of(topic)))
            alive = await batch.execute(raise_on_error=False)
        # Two replies for each topic. The first one is that of its history.
        return [topic for topic, exists in zip(topics, alive[::2], strict=True) if not exists]

    async def _look_after(self, missing: Sequence[str]) -> None:
        now = time.monotonic()
        known, self._missing = self._missing, {}
        for topic in missing:
            self._missing[topic] = known.get(topic, now)
            if topic not in known:
                # It may have existed until now, and its events may be lost.
                self._on_possible_gap(topic)
            elif now - self._missing[topic] >= _BEGIN_SECONDS:
                await self._begin(topic)

    async def _begin(self, topic: str) -> None:
        await self._run(scripts.begin(self._names.script_keys(topic), self._retention.of(topic)))


class _Session:
    """What a broker uses between `start` and `close`."""

    def __init__(self, servers: Servers, live: LivePath) -> None:
        self.servers = servers
        self.live = live
        self._login = Login()
        self.permits = asyncio.Semaphore(_COMMANDS_AT_ONCE)
        self.keeping: asyncio.Task[None] | None = None

    async def run(self, call: Call) -> Any:
        """Run the script and return its reply."""
        with self._login.attempt():
            return await self._run(call)

    async def _run(self, call: Call) -> Any:
        command = call.evalsha
        while True:
            began = time.monotonic()
            try:
                return await self.servers.client.execute_command(*command)
            except NoScriptError:
                # A server loses its scripts at a restart, and a promoted replica may lack them.
                command = call.eval
            except Exception as error:
                if not await self._may_try_again(error, began):
                    raise

    async def _may_try_again(self, error: Exception, began: float) -> bool:
        """Return whether another try is safe and may succeed, and prepare for it."""
        if is_misled(error):
            return await self.servers.renew(error, began) and refused_unwritten(error)
        if isinstance(error, ClusterError):
            # The slot is moving to another server, and nothing was executed.
            await asyncio.sleep(_MOVING_SECONDS)
            return True
        return False

    async def aclose(self) -> None:
        """Stop the tasks and close every connection."""
        if self.keeping is not None:
            self.keeping.cancel()
        await self.live.aclose()
        await self.servers.aclose()
