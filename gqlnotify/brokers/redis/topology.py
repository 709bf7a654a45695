"""The servers of an address, and which of them has a topic."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
)
from typing_extensions import override

from gqlnotify.brokers.redis.redis_adapter import (
    AbstractConnection,
    MaintNotificationsConfig,
    cluster_connection,
    home,
    new_connection,
    reload_topology,
    renew_pool,
    says_broken,
    says_not_master,
)
from gqlnotify.brokers.redis.url import Address
from gqlnotify.errors import BrokerUnavailable

ONE_SERVER, SHARDED = "PUBLISH", "SPUBLISH"

TROUBLE = (RedisError, RedisClusterException, OSError, TimeoutError)
"""The errors that redis-py raises if the network or the server fails."""


_RENEW_SECONDS = 1.0


def refused_unwritten(error: object) -> bool:
    """Return whether a server that accepts no writes refused the command. It wrote nothing."""
    refusals = ReadOnlyError | MasterDownError | BusyLoadingError
    return isinstance(error, refusals) or says_not_master(error)


def is_misled(error: object) -> bool:
    """Return whether `error` says that this connection may lead to the wrong server."""
    return refused_unwritten(error) or isinstance(error, NoPermissionError | AuthenticationError)


def is_trouble(error: BaseException) -> bool:
    """Return whether the network or the server caused `error`, and not a bug."""
    return isinstance(error, TROUBLE) or says_broken(error)


@contextmanager
def reaching() -> Iterator[None]:
    """Raise `BrokerUnavailable` with the reason if Redis fails inside of the block."""
    try:
        yield
    except Exception as error:
        if not is_trouble(error):
            raise
        reason = str(error) or "no answer in time"
        raise BrokerUnavailable(
            f"Redis can't be reached or refuses the command: {reason}"
        ) from error


class Servers(ABC):
    """Knows where to send commands, and which server has a channel."""

    client: Redis | RedisCluster
    publish = ONE_SERVER
    commands = ("SUBSCRIBE", "UNSUBSCRIBE")
    channels_a_command = 500

    def __init__(self) -> None:
        self.on_renewed: Callable[[], None] = lambda: None
        """Called if a server accepts no writes: the live connections need another server too."""
        self._renewed_at = -math.inf

    async def renew(self, error: Exception, began: float) -> bool:
        """Make new connections if `is_misled(error)`, at most once per second.

        Args:
            error: The error of a command.
            began: When the command began, by `time.monotonic`.

        Returns:
            Whether the command used an old connection, so that another try uses a new one.
        """
        if began >= self._renewed_at:
            now = time.monotonic()
            if now - self._renewed_at < _RENEW_SECONDS:
                return False
            self._renewed_at = now
            if refused_unwritten(error):
                self.on_renewed()
            await self._renew()
        return True

    @abstractmethod
    async def _renew(self) -> None:
        """Make later commands use new connections. Running commands finish on the old ones."""

    @abstractmethod
    def home(self, channel: str) -> str:
        """Return the name of the server that has the channel.

        Raises:
            SlotNotCoveredError: No server of the cluster has it at present.
        """

    @abstractmethod
    def connection(self, name: str) -> AbstractConnection:
        """Return a new connection to a server. The caller connects and closes it."""

    @abstractmethod
    async def refresh(self) -> None:
        """Find out again which server has which channels."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection except those that `connection` returned."""


class OneServer(Servers):
    """A single server, or the current master that Sentinel names."""

    def __init__(self, make: Callable[[], Redis], sentinel: Sentinel | None = None) -> None:
        super().__init__()
        self.client: Redis = make()
        self._make = make
        self._sentinel = sentinel

    @override
    async def _renew(self) -> None:
        old, self.client = self.client, self._make()
        await renew_pool(old)

    @override
    def home(self, channel: str) -> str:
        return "the only one"

    @override
    def connection(self, name: str) -> AbstractConnection:
        return new_connection(self.client)

    @override
    async def refresh(self) -> None:
        pass  # Every new connection asks Sentinel again.

    @override
    async def aclose(self) -> None:
        await self.client.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()


class Cluster(Servers):
    """A cluster: each topic lives on the server that has its hash slot."""

    publish = SHARDED
    commands = ("SSUBSCRIBE", "SUNSUBSCRIBE")
    # The channels of one SSUBSCRIBE must be in one slot.
    channels_a_command = 1

    def __init__(self, client: RedisCluster) -> None:
        super().__init__()
        self.client: RedisCluster = client

    @override
    async def _renew(self) -> None:
        await self.refresh()

    @override
    def home(self, channel: str) -> str:
        return home(self.client, channel)

    @override
    def connection(self, name: str) -> AbstractConnection:
        return cluster_connection(self.client, name)

    @override
    async def refresh(self) -> None:
        await reload_topology(self.client)

    @override
    async def aclose(self) -> None:
        await self.client.aclose()


def connect(address: Address, timeout: float) -> Servers:
    """Return the servers of an address. This does not connect to them yet.

    Args:
        address: Where the servers are.
        timeout: The most seconds that connecting may take.
    """
    options = _options(timeout)
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        # 0: by default redis-py closes all connections after 5 moved slots, and commands that wait
        # on them would fail.
        options |= {"startup_nodes": nodes, "ssl": address.tls, "reinitialize_steps": 0}
        return Cluster(RedisCluster(**options, **dict(address.options)))
    waits = {name: value for name, value in options.items() if name.startswith("socket_")}
    # Callers have their own deadlines, and are cancelled. With a timeout, redis-py could lose the
    # cancellation: see `Line`.
    options["socket_timeout"] = None
    if address.kind == "server":
        return OneServer(lambda: Redis.from_url(address.url, **options))
    options |= dict(address.options)
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        address.hosts, sentinel_kwargs=waits | {"retry": _once()}
    )

    def master() -> Redis:
        client: Redis = sentinel.master_for(address.service, ssl=address.tls, **options)
        return client

    return OneServer(master, sentinel)


def connect_sync(address: Address, timeout: float) -> "redis.Redis | redis.RedisCluster":
    """Return a client for publishing without an event loop. See `connect`."""
    options = _options(timeout) | {"retry": redis.retry.Retry(NoBackoff(), 0)}
    if address.kind == "server":
        return redis.Redis.from_url(address.url, **options)
    options |= dict(address.options)
    if address.kind == "cluster":
        node: Any = redis.cluster.ClusterNode
        nodes = [node(host, port) for host, port in address.hosts]
        return redis.RedisCluster(startup_nodes=nodes, ssl=address.tls, **options)
    waits = {name: value for name, value in options.items() if name.startswith("socket_")}
    sentinel: Any = redis.sentinel.Sentinel(address.hosts, sentinel_kwargs=waits)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinel.master_for(address.service, ssl=address.tls, **options)
    return client


def _options(timeout: float) -> dict[str, Any]:
    return {
        "protocol": 3,
        "client_name": "gqlnotify",
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        # redis-py must not retry: a publish that it sends again could be published twice.
        "retry": _once(),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def _once() -> Retry:
    return Retry(NoBackoff(), 0)
