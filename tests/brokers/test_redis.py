"""The Redis broker, over a real Redis and a real Valkey."""

import pytest

from gqlnotify.brokers import Broker
from gqlnotify.brokers.redis import RedisBroker
from tests.brokers.contract import BrokerContract
from tests.brokers.positions_contract import PositionsContract
from tests.brokers.presence_contract import PresenceContract
from tests.redis_servers import RedisServer


class TestRedisBroker(BrokerContract, PositionsContract, PresenceContract):
    @pytest.fixture(autouse=True)
    def _server(self, each_redis: RedisServer) -> None:
        self._url = each_redis.url

    async def make(self, *, length: int, seconds: float) -> Broker:
        return RedisBroker(self._url, length=length, seconds=seconds)
