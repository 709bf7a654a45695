"""Brokers, streams and readers for the tests of the Redis broker; they end with the test."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from gqlnotify import Settings, Subscription, Topic, TopicManager
from gqlnotify.brokers.redis import RedisBroker
from gqlnotify.brokers.redis.url import Address
from gqlnotify.errors import BrokerUnavailable, CursorExpired
from gqlnotify.event import Cursor, Event
from tests.redis_servers import RedisServer
from tests.waiting import PATIENCE, SCALE, wait_until

TIMEOUT = 2.5 * SCALE
ALL = 1_000_000

_HANGING = PATIENCE


def new_topic() -> str:
    return f"test.{uuid4().hex}"


@dataclass
class Ears:
    """A started broker, and the events and possible gaps that it reported."""

    broker: RedisBroker
    delivered: list[Event] = field(default_factory=list)
    rechecked: list[str] = field(default_factory=list)

    @property
    def payloads(self) -> list[bytes]:
        return [event.payload for event in self.delivered]


@asynccontextmanager
async def listening(url: str, **options: Any) -> AsyncIterator[Ears]:
    """A started broker without a manager."""
    ears = Ears(RedisBroker(url, **({"timeout": TIMEOUT} | options)))
    await ears.broker.start(ears.delivered.append, ears.rechecked.append)
    try:
        async with asyncio.timeout(_HANGING):
            yield ears
    finally:
        async with asyncio.timeout(_HANGING):
            await ears.broker.close()


@dataclass
class Reader:
    """Reads a stream until it ends or has a gap."""

    stream: Subscription[int]
    got: list[int] = field(default_factory=list)
    expired: CursorExpired | None = None

    async def read(self) -> None:
        try:
            async for number in self.stream:
                self.got.append(number)
        except CursorExpired as error:
            self.expired = error


@dataclass
class Numbers:
    """A topic of numbers in its own manager, and all its readers."""

    manager: TopicManager
    broker: RedisBroker
    topic: Topic[int]
    readers: list[Reader] = field(default_factory=list)
    _reading: set["asyncio.Task[None]"] = field(default_factory=set)

    async def reader(self, *, after: str | None = None) -> Reader:
        reader = Reader(self.manager.subscribe(self.topic, after=after))
        await reader.stream.start()
        self.readers.append(reader)
        self._reading.add(asyncio.create_task(reader.read()))
        return reader

    async def publish(self, number: int) -> Cursor:
        """Publish until it is confirmed; the event id prevents a second event."""
        while True:
            with suppress(BrokerUnavailable):
                return await self.manager.publish(self.topic, number, event_id=f"n{number}")
            await asyncio.sleep(0.01)

    async def publish_all(self, numbers: Iterable[int]) -> list[Cursor]:
        return [await self.publish(number) for number in numbers]

    async def everybody_has(self, numbers: Iterable[int], *, seconds: float = PATIENCE) -> None:
        """Wait for the last number; each must arrive once, in order and without a gap."""
        expected = list(numbers)
        for reader in self.readers:
            await wait_until(
                lambda reader=reader: reader.expired or expected[-1:] == reader.got[-1:],
                seconds=seconds,
            )
            assert reader.expired is None
            assert reader.got == expected

    async def all_are_expired(self, *, seconds: float = PATIENCE) -> None:
        for reader in self.readers:
            await wait_until(lambda reader=reader: reader.expired is not None, seconds=seconds)

    async def aclose(self) -> None:
        await self.manager.close()
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)


@asynccontextmanager
async def numbers(url: str, *, topic: str | None = None, **options: Any) -> AsyncIterator[Numbers]:
    """A topic of numbers over a broker."""
    broker = RedisBroker(url, **({"timeout": TIMEOUT} | options))
    manager = TopicManager(broker, settings=Settings(topic_linger=0, broker_wait=0))
    await manager.start()
    stream = Numbers(manager, broker, Topic(topic or new_topic(), int))
    try:
        async with asyncio.timeout(_HANGING):
            yield stream
    finally:
        async with asyncio.timeout(_HANGING):
            await stream.aclose()


def stream_key(topic: str, prefix: str = "gqlnotify") -> str:
    return f"{prefix}:{{{topic}}}"


def clients(server: RedisServer, *, pubsub: bool) -> list[dict[str, str]]:
    """Return our connections to this server: those for Pub/Sub, or those for commands."""
    lines = server.ask("CLIENT", "LIST").decode().splitlines()
    known = [dict(part.split("=", 1) for part in line.split()) for line in lines]
    ours = [one for one in known if one["name"] == "gqlnotify"]
    return [one for one in ours if _is_pubsub(one) == pubsub]


def _is_pubsub(client: dict[str, str]) -> bool:
    return any(int(client.get(kind, 0)) for kind in ("sub", "psub", "ssub"))


def kill_clients(server: RedisServer, *, pubsub: bool) -> int:
    ids = [one["id"] for one in clients(server, pubsub=pubsub)]
    return sum(server.ask("CLIENT", "KILL", "ID", number) for number in ids)


def calls(server: RedisServer, command: str) -> int:
    """Return how often the server got this command."""
    known = server.ask("INFO", "commandstats")
    return int(known.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def is_expired(broker: RedisBroker, topic: str, cursor: Cursor) -> bool:
    try:
        await broker.read(topic, cursor, ALL)
    except CursorExpired:
        return True
    return False


async def published(broker: RedisBroker, topic: str, payloads: Sequence[bytes]) -> list[Event]:
    return [Event(topic, await broker.publish(topic, payload), payload) for payload in payloads]


async def refusal(url: str, **options: Any) -> str:
    """Return the error of a broker that can't start."""
    with pytest.raises(BrokerUnavailable) as refused:
        async with listening(url, **options):
            pass
    return refused.value.reason


def bad_url(url: str) -> str:
    """Return the error for a URL that is refused."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        Address.parse(url)
    return str(refused.value)
