"""The only file that uses undocumented parts of redis-py.

It checks at import that they exist: a process that does not start is better than a process that
silently loses events.
"""

import math
from collections.abc import Awaitable, Iterable
from typing import Any

import redis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode, NodesManager
from redis.asyncio.connection import AbstractConnection, ConnectionPool, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig

from gqlnotify.frameworks import missing, missing_parameters, require

__all__ = [
    "AbstractConnection",
    "MaintNotificationsConfig",
    "cluster_connection",
    "home",
    "new_connection",
    "next_reply",
    "parse_url",
    "ping",
    "reload_topology",
    "renew_pool",
    "renew_sync",
    "says_broken",
    "says_not_master",
    "write",
]

_PREVIOUS_MASTER = "The previous master is now a slave"
_BROKEN_LOOP = "the handler is closed"
_BROKEN_CLUSTER = "'NoneType' object has no attribute 'write"

require(
    "redis",
    missing(AbstractConnection, "connect", "disconnect", "pack_commands", "socket_timeout")
    + missing_parameters(
        AbstractConnection.read_response, "timeout", "push_request", "disconnect_on_error"
    )
    + missing_parameters(AbstractConnection.send_packed_command, "check_health")
    + missing_parameters(AbstractConnection.disconnect, "nowait")
    + missing(ConnectionPool, "make_connection", "update_active_connections_for_reconnect")
    + missing_parameters(ConnectionPool.disconnect, "inuse_connections")
    + missing(redis.ConnectionPool, "update_active_connections_for_reconnect")
    + missing_parameters(redis.ConnectionPool.disconnect, "inuse_connections")
    + missing(RedisCluster, "get_node", "keyslot", "nodes_manager")
    + missing(NodesManager, "get_node_from_slot", "initialize")
    + missing(ClusterNode, "connection_class", "connection_kwargs")
    + missing(redis.RedisCluster, "nodes_manager"),
)


def says_not_master(error: object) -> bool:
    """Return whether `error` is what the Sentinel client raises instead of a `ReadOnlyError`."""
    return isinstance(error, RedisConnectionError) and str(error) == _PREVIOUS_MASTER


def says_broken(error: BaseException) -> bool:
    """Return whether `error` means a broken connection, although it is not a `RedisError`."""
    if isinstance(error, RuntimeError):
        # uvloop raises this for a write to a connection that has just broken.
        return _BROKEN_LOOP in str(error)
    # The cluster client may close a connection while another task is about to write to it.
    return isinstance(error, AttributeError) and _BROKEN_CLUSTER in str(error)


def new_connection(client: Redis) -> AbstractConnection:
    """Return a connection like those of `client`. The caller connects and closes it."""
    pool: Any = client.connection_pool
    connection: AbstractConnection = pool.make_connection()
    return connection


async def renew_pool(client: Redis) -> None:
    """Close the idle connections now, and each of the others after its current reply."""
    pool: Any = client.connection_pool
    await pool.update_active_connections_for_reconnect()
    await pool.disconnect(inuse_connections=False)


def renew_sync(client: "redis.Redis | redis.RedisCluster") -> None:
    """Close the connections that no thread uses now, and the others after their current reply."""
    if isinstance(client, redis.RedisCluster):
        client.nodes_manager.initialize()
        return
    pool: Any = client.connection_pool
    pool.update_active_connections_for_reconnect()
    pool.disconnect(inuse_connections=False)


def home(client: RedisCluster, channel: str) -> str:
    """Return the name of the server that has the channel.

    Raises:
        SlotNotCoveredError: No server has it at the moment.
    """
    return str(client.nodes_manager.get_node_from_slot(client.keyslot(channel)).name)


def cluster_connection(client: RedisCluster, name: str) -> AbstractConnection:
    """Return a connection to a server of the cluster. The caller connects and closes it.

    Raises:
        RedisConnectionError: The cluster no longer has this server.
    """
    node = client.get_node(node_name=name)
    if node is None:
        raise RedisConnectionError(f"{name} is no longer in the cluster")
    return node.connection_class(**node.connection_kwargs)


async def reload_topology(client: RedisCluster) -> None:
    """Ask the cluster which server has which slots."""
    await client.nodes_manager.initialize()


def next_reply(connection: AbstractConnection) -> Awaitable[Any]:
    """Wait without a timeout for the next message of the server, and return it."""
    return connection.read_response(timeout=math.inf, push_request=True, disconnect_on_error=False)


async def write(connection: AbstractConnection, commands: Iterable[tuple[str, ...]]) -> None:
    """Send commands without waiting for replies."""
    packed = connection.pack_commands(commands)
    await connection.send_packed_command(packed, check_health=False)


async def ping(connection: AbstractConnection) -> None:
    """Send a PING without waiting for the reply."""
    await connection.send_command("PING", check_health=False)
