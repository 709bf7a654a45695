"""Servers for single tests, and a check that no test leaves a key without an expiry."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gqlnotify.brokers.redis import connection, pubsub
from gqlnotify.topics import live_topic
from tests.redis_servers import (
    Cluster,
    RedisServer,
    connect,
    redis_cluster,
    redis_server,
    wait_for,
)

Launch = Callable[..., RedisServer]


@pytest.fixture
def launch(redis_program: Path) -> Iterator[Launch]:
    """Start a server for one test, which may stop, fill or reconfigure it."""
    servers = list[RedisServer]()
    with ExitStack() as running:

        def start(*options: str, **further: Any) -> RedisServer:
            server = running.enter_context(redis_server(redis_program, *options, **further))
            servers.append(server)
            return server

        yield start
        for server in servers:
            if server.process is not None:
                server.resume()
                assert_every_key_has_an_end(server)


@pytest.fixture(scope="session")
def each_cluster(redis_program: Path) -> Iterator[Cluster]:
    """Three nodes; shared, so a test must not stop one."""
    with redis_cluster(redis_program) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _every_key_has_an_end(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "each_redis" in request.fixturenames:
        assert_every_key_has_an_end(request.getfixturevalue("each_redis"))
    if "each_cluster" in request.fixturenames:
        for node in request.getfixturevalue("each_cluster").nodes:
            assert_every_key_has_an_end(node)


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (live_topic, connection, pubsub):
        monkeypatch.setattr(module, "RETRY_SECONDS", (0.01, 0.1), raising=False)
        monkeypatch.setattr(module, "_RETRY_SECONDS", (0.01, 0.1), raising=False)


def master_and_replica(launch: Launch) -> tuple[RedisServer, RedisServer]:
    """Start two servers, and return once the second replicates the first."""
    # Without this a replica waits some seconds for further replicas.
    master = launch("repl-diskless-sync-delay 0")
    replica = launch("repl-diskless-sync-delay 0", replica_of=master)
    wait_for(lambda: replica.ask("ROLE")[3] == b"connected", "the replica follows")
    return master, replica


def assert_every_key_has_an_end(server: RedisServer) -> None:
    with connect(server.url) as client:
        keys = client.keys("*")
        lives = client.pipeline(transaction=False)
        for key in keys:
            lives.ttl(key)
        assert not [key for key, life in zip(keys, lives.execute(), strict=True) if life == -1]
