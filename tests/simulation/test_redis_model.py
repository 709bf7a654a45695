"""The model of Redis, in real time, under the contract that the real ones keep."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from gqlnotify.brokers import Broker
from gqlnotify.brokers.redis import RedisBroker, broker
from tests.brokers.contract import BrokerContract
from tests.brokers.positions_contract import PositionsContract
from tests.brokers.presence_contract import PresenceContract
from tests.simulation.history import Truth
from tests.simulation.redis_link import ModelServers, RedisLink
from tests.simulation.redis_server import RedisServer


class RealTime:
    """Takes the place of a world and its loops."""

    name = "test"

    def __init__(self) -> None:
        self.random = random.Random(0)
        self._loop = asyncio.get_running_loop()

    def loop(self, _name: str) -> "RealTime":
        return self

    def note(self, _who: str, _what: str) -> None: ...

    def time(self) -> float:
        return self._loop.time()

    def create_future(self) -> "asyncio.Future[Any]":
        return self._loop.create_future()

    def later(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        self._loop.call_later(seconds, callback, *args)


class TestModelOfRedis(BrokerContract, PositionsContract, PresenceContract):
    @pytest.fixture(autouse=True)
    async def _server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real_time: Any = RealTime()
        server = RedisServer(real_time, Truth())
        link = RedisLink(server, real_time, latency=(0, 0))
        monkeypatch.setattr(broker, "connect", lambda *_address: ModelServers(link))

    async def make(self, *, length: int, seconds: float) -> Broker:
        return RedisBroker("redis://simulated", length=length, seconds=seconds)
