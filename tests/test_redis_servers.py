"""The servers, the faults and the links of `redis_servers` work."""

import asyncio
import os
import select
import signal
import socket
from pathlib import Path

import pytest
import redis

from tests.ports import HOST, free_port
from tests.redis_servers import (
    PATIENCE,
    Link,
    RedisServer,
    connect,
    redis_cluster,
    redis_server,
    sentinel,
    wait_for,
)

pytestmark = pytest.mark.processes


def test_there_is_a_server_to_share(redis_url: str, each_redis: RedisServer) -> None:
    for url in (redis_url, each_redis.url):
        with connect(url) as client:
            assert client.ping()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_persistent_server_restarts_with_its_data_at_its_address(
    redis_program: Path, end: int
) -> None:
    with redis_server(redis_program, persistent=True) as server:
        url, pid = server.url, server.pid
        server.ask("SET", "kept", "1")
        server.stop() if end == signal.SIGTERM else server.kill()
        with pytest.raises(redis.ConnectionError):
            server.ask("PING")
        server.start()

        assert server.ask("GET", "kept") == b"1"
        assert server.url == url
        assert server.pid != pid


def test_a_server_that_is_not_persistent_restarts_empty(redis_program: Path) -> None:
    with redis_server(redis_program) as server:
        server.ask("SET", "lost", "1")
        server.restart()

        assert server.ask("DBSIZE") == 0


def test_a_paused_server_answers_only_when_it_is_resumed(redis_program: Path) -> None:
    with redis_server(redis_program) as server:
        server.pause()
        with pytest.raises(redis.TimeoutError), connect(server.url, timeout=0.2) as client:
            client.ping()
        server.resume()

        assert server.ask("PING")


def test_a_paused_server_can_be_stopped(redis_program: Path) -> None:
    with redis_server(redis_program) as server:
        server.pause()
        server.stop()
        server.start()

        assert server.ask("PING")


@pytest.mark.parametrize("unix", [False, True])
def test_the_url_of_a_server_contains_its_password(redis_program: Path, unix: bool) -> None:
    with redis_server(redis_program, password="secret", unix=unix) as server:
        assert server.ask("PING")
        with (
            pytest.raises(redis.AuthenticationError),
            connect(server.url.replace(":secret@", "")) as client,
        ):
            client.ping()


def test_the_url_of_a_server_with_tls_contains_its_certificate() -> None:
    with redis_server(tls=True, password="secret") as server:
        assert server.url.startswith("rediss://")
        assert server.ask("PING")
        with pytest.raises(redis.ConnectionError), connect(server.url.split("?")[0]) as client:
            client.ping()


def test_a_server_leaves_neither_a_process_nor_a_file() -> None:
    with redis_server(persistent=True, unix=True, tls=True) as server:
        pid = server.pid

    assert not server.directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_does_not_start_shows_its_log() -> None:
    with (
        pytest.raises(AssertionError, match="no-such-option"),
        redis_server(None, "no-such-option"),
    ):
        pass


def test_a_server_whose_port_was_taken_takes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((HOST, 0)) as silent, redis_server() as other:
        free = free_port()
        ports = iter([silent.getsockname()[1], other.port, free])
        monkeypatch.setattr("tests.ports.free_port", lambda: next(ports))
        with redis_server() as server:
            assert server.port == free
            assert server.ask("PING")


def test_a_cluster_serves_all_slots_and_moves_one_with_its_keys(redis_program: Path) -> None:
    with redis_cluster(redis_program) as cluster:
        keys = [f"{{{n}}}" for n in range(100)]
        owners = {key: cluster.node_of(cluster.slot_of(key)) for key in keys}
        for key, node in owners.items():
            assert node.ask("SET", key, key, "EX", 60)
        assert {node.port for node in owners.values()} == {node.port for node in cluster.nodes}

        source = owners[keys[0]]
        target = next(node for node in cluster.nodes if node is not source)
        cluster.move_slot(cluster.slot_of(keys[0]), target)

        assert target.ask("GET", keys[0]) == keys[0].encode()
        assert target.ask("TTL", keys[0]) > 0
        for node in cluster.nodes:
            if node is not target:
                with pytest.raises(redis.ResponseError, match=str(target.port)):
                    node.ask("GET", keys[0])
        with redis.RedisCluster(host=HOST, port=source.port) as client:
            assert [client.get(key) for key in keys] == [key.encode() for key in keys]


def test_a_node_finds_its_cluster_again() -> None:
    with redis_cluster() as cluster:
        node = cluster.nodes[0]
        node.restart()
        wait_for(lambda: b"cluster_state:ok" in node.ask("CLUSTER", "INFO"), "it is back")


@pytest.mark.parametrize("kill", [False, True])
def test_a_sentinel_promotes_the_replica(redis_program: Path, kill: bool) -> None:
    with sentinel(redis_program) as watched:
        old, new = watched.master, watched.replica
        old.ask("SET", "kept", "1")
        old.ask("WAIT", 1, 0)
        watched.failover(kill=kill)

        assert watched.master is new
        assert new.ask("GET", "kept") == b"1"
        assert new.ask("SET", "new", "1")


def test_after_a_failover_there_can_be_another() -> None:
    with sentinel() as watched:
        first = watched.master
        watched.failover()
        watched.failover()

        assert watched.master is first


def test_a_frozen_link_holds_back_all_data_until_it_is_thawed() -> None:
    with redis_server() as server, Link(server.port) as link, _line(link) as old:
        link.freeze()
        with _line(link) as new:
            old.sendall(b"INCR count\r\n")
            new.sendall(b"INCR count\r\n")
            assert _silent(old, new)
            assert server.ask("GET", "count") is None
            link.thaw()

            assert {old.recv(64), new.recv(64)} == {b":1\r\n", b":2\r\n"}


def test_a_frozen_link_hides_that_the_server_has_stopped() -> None:
    with redis_server() as server, Link(server.port) as link, _line(link) as line:
        _ping(line)
        link.freeze()
        server.kill()
        assert _silent(line)
        link.thaw()

        assert line.recv(64) == b""


def test_a_cut_link_resets_its_connections_and_accepts_new_ones() -> None:
    with redis_server() as server, Link(server.port) as link, _line(link) as line:
        link.cut()
        with pytest.raises(ConnectionResetError):
            line.recv(64)

        _line(link).close()


def test_a_link_refuses_new_connections_and_keeps_the_old_ones() -> None:
    with redis_server() as server, Link(server.port) as link, _line(link) as line:
        link.refuse()
        with pytest.raises(ConnectionRefusedError):
            _line(link)
        _ping(line)
        link.accept()

        _line(link).close()


async def test_a_link_works_in_an_async_test() -> None:
    with redis_server() as server, Link(server.port) as link:
        reader, writer = await asyncio.open_connection(HOST, link.port)
        writer.write(b"PING\r\n")
        assert await reader.readline() == b"+PONG\r\n"
        link.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read(64)
        writer.close()


def _line(link: Link) -> socket.socket:
    return socket.create_connection((HOST, link.port), timeout=PATIENCE)


def _ping(line: socket.socket) -> None:
    line.sendall(b"PING\r\n")
    assert line.recv(64) == b"+PONG\r\n"


def _silent(*lines: socket.socket) -> bool:
    return not select.select(lines, [], [], 0.2)[0]
