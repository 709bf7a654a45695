"""The containers: what their files say and start, without a container engine."""

import asyncio
import json
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

import httpx
import pytest
from ruamel.yaml import YAML

from gqlnotify import Settings
from gqlnotify.server.websocket import MARGIN_SECONDS
from schema.settings import TaskSettings
from tests.e2e.raw import Socket, open_socket
from tests.ports import free_port, on_a_free_port
from tests.redis_servers import RedisServer, redis_server
from tests.schema.client import SECRET, operation, token
from tests.servers import PATIENCE, ROOT
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

COMPOSE: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "docker-compose.yml")
SERVICES: dict[str, Any] = COMPOSE["services"]
HAPROXY_CFG = (ROOT / "deploy" / "haproxy.cfg").read_text()
# The proxy drops a replica after three checks, two seconds apart.
CHECKS_FAIL = 7.0
HANDSHAKE = {
    "connection": "upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def dockerfile(instruction: str) -> list[str]:
    """Return the arguments of each such instruction."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction} +(.+)$", text, re.MULTILINE)


def copied() -> list[PurePosixPath]:
    """Return the sources of the Dockerfile's COPY instructions."""
    return [PurePosixPath(source) for line in dockerfile("COPY") for source in line.split()[:-1]]


def is_ignored(path: PurePosixPath) -> bool:
    """Return whether .dockerignore excludes the path: the last line that matches decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        anchored = "/" + pattern if "**/" not in pattern else pattern.removeprefix("**/")
        if any(("/" / part).match(anchored) for part in (path, *path.parents)):
            ignored = not line.startswith("!")
    return ignored


def seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(s|m)", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def test_compose_file_follows_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]

    subprocess.run([*command, ROOT / "docker-compose.yml"], check=True)


def test_compose_file_refers_only_to_what_there_is() -> None:
    volumes = {volume for service in SERVICES.values() for volume in service.get("volumes", ())}
    files = {v.split(":")[0] for v in volumes if v.startswith(".")}
    named = {v.split(":")[0] for v in volumes if not v.startswith(".")}

    assert {name for s in SERVICES.values() for name in s.get("depends_on", ())} <= set(SERVICES)
    assert named == set(COMPOSE["volumes"])
    assert files
    assert all((ROOT / file).is_file() for file in files)


def test_compose_file_sets_settings_that_exist_and_demands_a_secret() -> None:
    environment = SERVICES["server"]["environment"]
    names = {n.removeprefix("GQLNOTIFY_").lower() for n in environment if "GQLNOTIFY" in n}

    assert names == {"broker_url", "database_url", "jwt_secret"}
    assert names <= set(TaskSettings.model_fields)
    assert environment["GQLNOTIFY_JWT_SECRET"].startswith("${GQLNOTIFY_JWT_SECRET:?")


def test_only_the_proxy_can_be_reached_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert published == {"proxy": ["${LISTEN:-127.0.0.1:8000}:8000"]}
    assert SERVICES["server"]["environment"]["FORWARDED_ALLOW_IPS"] == "*", "so it may trust all"


def test_every_container_has_a_health_check_and_the_time_it_needs_to_stop() -> None:
    hard_stop = re.search(r"hard-stop-after (\w+)", HAPROXY_CFG)

    assert all(service["healthcheck"]["test"][0] == "CMD" for service in SERVICES.values())
    assert seconds(SERVICES["server"]["stop_grace_period"]) > (
        Settings.model_construct().drain_window + MARGIN_SECONDS
    )
    assert hard_stop is not None
    assert seconds(hard_stop[1]) < 10, "what compose waits unless forwarded otherwise"


def test_the_proxy_is_more_patient_than_the_heartbeat() -> None:
    defaults = Settings.model_construct()
    tunnel = re.search(r"timeout tunnel (\w+)", HAPROXY_CFG)

    assert tunnel is not None
    assert seconds(tunnel[1]) > defaults.ping_interval + defaults.ping_timeout


def test_the_image_contains_only_the_sources() -> None:
    context = {path.name for path in ROOT.iterdir() if not is_ignored(PurePosixPath(path.name))}

    assert context == {path.parts[0] for path in copied()}
    assert is_ignored(PurePosixPath("gqlnotify/brokers/__pycache__/base.cpython-311.pyc"))


def test_the_server_is_not_root_and_receives_signals_itself() -> None:
    assert dockerfile("USER") == ["nobody"]
    assert [json.loads(command)[0] for command in dockerfile("CMD")] == ["gqlnotify"]


# The tests below start the commands of these files, on other addresses.


@contextmanager
def running(
    command: Sequence[str | Path], log_file: Path, **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    with log_file.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()


def replace(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@dataclass
class Names(asyncio.DatagramProtocol):
    """A name server with one name for all replicas, like that of a container engine."""

    addresses: list[str]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        end = data.index(b"\0", 12) + 5
        question = data[12:end]
        known = self.addresses if question.endswith(b"\0\1\0\1") else []
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4"
        answers = b"".join(record + socket.inet_aton(address) for address in known)
        header = data[:2] + b"\x81\x80" + struct.pack("!4H", 1, len(known), 0, 0)
        self._transport.sendto(header + question + answers, addr)


@dataclass(frozen=True)
class Proxy:
    address: str
    log_file: Path

    async def knows(self, replica: str) -> None:
        """Return once the proxy knows a replica at this address."""
        heard = re.compile(rf"\bIP .*\b{re.escape(replica)}\b")
        await wait_until(lambda: heard.search(self.log_file.read_text()), seconds=PATIENCE)


@asynccontextmanager
async def proxying(names: Names, port: int, directory: Path) -> AsyncIterator[Proxy]:
    """Run the proxy in front of the replicas, which listen on this port of their addresses."""
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        assert not os.environ.get("CI"), "the tests of the proxy must run here"
        pytest.skip("HAProxy is not installed")
    loop = asyncio.get_running_loop()
    front = socket.create_server(("127.0.0.1", 0))
    resolver, _ = await loop.create_datagram_endpoint(lambda: names, ("127.0.0.1", 0))
    resolves = f"nameserver test 127.0.0.1:{resolver.get_extra_info('sockname')[1]}"
    changed = {"parse-resolv-conf": resolves, "bind :8000": f"bind fd@{front.fileno()}"}
    config = directory / "haproxy.cfg"
    config.write_text(replace(HAPROXY_CFG, {**changed, "server:8000": f"server:{port}"}))
    proxy = Proxy(f"127.0.0.1:{front.getsockname()[1]}", directory / "haproxy.log")
    try:
        command: list[str | Path] = [program, "-db", "-n", "1000", "-f", config]
        with front, running(command, proxy.log_file, pass_fds=[front.fileno()]):
            for replica in names.addresses:
                await proxy.knows(replica)
            yield proxy
    finally:
        resolver.close()


@dataclass
class Stub:
    """A replica that is alive, and answers every other request with the same status."""

    status: int
    requests: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        is_check = head.startswith("GET /readyz ")
        if not is_check:
            self.requests.append(head)
        status = 200 if is_check else self.status
        writer.write(f"HTTP/1.1 {status} -\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        writer.close()


def listening(addresses: Sequence[str], port: int) -> tuple[int, list[socket.socket]]:
    return port, [socket.create_server((address, port)) for address in addresses]


async def test_a_replica_that_refuses_a_handshake_is_replaced_and_a_mutation_is_not_sent_twice(
    tmp_path: Path,
) -> None:
    stubs = {"127.0.0.2": Stub(503), "127.0.0.3": Stub(200)}
    async with AsyncExitStack() as up:
        port, sockets = on_a_free_port(partial(listening, tuple(stubs)))
        for each, stub in zip(sockets, stubs.values(), strict=True):
            await up.enter_async_context(await asyncio.start_server(stub.answer, sock=each))
        proxy = await up.enter_async_context(proxying(Names(list(stubs)), port, tmp_path))
        http = await up.enter_async_context(httpx.AsyncClient(base_url=f"http://{proxy.address}"))

        opened = [await http.get("/graphql", headers=HANDSHAKE) for _ in range(6)]
        refused = len(stubs["127.0.0.2"].requests)
        posted = [await http.post("/graphql", json={}) for _ in range(6)]

    assert {answer.status_code for answer in opened} == {200}
    assert refused > 0, "both were asked"
    assert {answer.status_code for answer in posted} == {200, 503}
    assert sum(len(stub.requests) for stub in stubs.values()) == refused + 6 + 6


async def test_only_what_the_service_is_for_can_be_reached_through_the_proxy(
    tmp_path: Path,
) -> None:
    stub = Stub(200)
    kept_inside = [
        *("/metrics", "/metrics/", "//metrics", "/%6detrics", "/./metrics", "/graphql/../metrics"),
        "/graphql/graphiql/../../metrics",
        *("/METRICS", "/metrics?/graphql", "/graphql/%2e%2e/metrics", "/graphql;/metrics"),
        *("/ws/../metrics", "/ws/notifications/a/../../metrics", "/publish/../metrics", "/ws/x/y"),
        *("/readyz", "/docs", "/openapi.json", "http://x/metrics", "http://x//metrics", "*"),
    ]
    async with (
        await asyncio.start_server(stub.answer, "127.0.0.2", 0) as server,
        proxying(Names(["127.0.0.2"]), port_of(server), tmp_path) as proxy,
    ):
        assert {path: await ask_for(proxy, path) for path in kept_inside} == dict.fromkeys(
            kept_inside, 404
        )
        assert stub.requests == []
        for path in (
            *("/graphql", "/graphql?query=/metrics", "/healthz", "/", "http://x/graphql"),
            *("/ws/notifications/tasks?after=1-1", "/ws/secure/user.ann%40home"),
            *("/tasks?first=5", "/publish/chat"),
        ):
            assert await ask_for(proxy, path) == 200


async def test_an_address_that_a_client_claims_does_not_reach_the_server(tmp_path: Path) -> None:
    stub = Stub(200)
    lies = [
        *("X-Forwarded-For", "x-forwarded-for", "X-FORWARDED-PROTO", "X-Forwarded-Host"),
        *("Forwarded", "X-Real-IP", "X-Client-IP", "True-Client-IP"),
    ]
    async with (
        await asyncio.start_server(stub.answer, "127.0.0.2", 0) as server,
        proxying(Names(["127.0.0.2"]), port_of(server), tmp_path) as proxy,
    ):
        sent = [f"{name}: 192.0.2.1" for name in lies]
        assert await ask_for(proxy, "/graphql", *sent, address="127.0.0.9") == 200

    [head] = stub.requests
    assert "192.0.2.1" not in head
    forwarded = [line for line in head.lower().splitlines() if line.startswith("x-")]
    assert forwarded == ["x-forwarded-for: 127.0.0.9", "x-forwarded-proto: http"]


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def ask_for(proxy: Proxy, path: str, *headers: str, address: str = "127.0.0.1") -> int:
    """Request exactly `path`, which clients would normalise; return the answer's status."""
    host, _, port = proxy.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(address, 0))
    head = (f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", "")
    writer.write("\r\n".join(head).encode())
    async with asyncio.timeout(PATIENCE):
        status = (await reader.readline()).split()[1]
        await reader.read()
    writer.close()
    return int(status)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of the image: what the Dockerfile copies there."""
    image = tmp_path_factory.mktemp("image")
    for source in copied():
        found = [ROOT / source, *(ROOT / source).rglob("*")]
        for path in (p.relative_to(ROOT) for p in found if p.is_file()):
            if not is_ignored(PurePosixPath(path)):
                (image / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, image / path)
    return image


@dataclass(frozen=True)
class Replica:
    """One server, started by the command of the image, with its log and its health check."""

    address: str
    port: int
    log_file: Path
    process: "subprocess.Popen[bytes]"

    async def is_ready(self) -> bool:
        """Run the health check of the container."""
        assert self.process.poll() is None, self.log_file.read_text()
        _, program, option, check = SERVICES["server"]["healthcheck"]["test"]
        assert program == "python"
        here = replace(check, {"127.0.0.1:8000": f"{self.address}:{self.port}"})
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, option, here), stderr=asyncio.subprocess.DEVNULL
        )
        return await process.wait() == 0

    async def is_unready(self) -> bool:
        return not await self.is_ready()

    async def stop(self) -> None:
        """Stop it like a container engine, and return once it has ended."""
        self.process.terminate()
        patience = seconds(SERVICES["server"]["stop_grace_period"])
        await asyncio.to_thread(self.process.wait, patience)


@dataclass
class Service:
    """Everything that the compose file starts. Requests go through the proxy."""

    image: Path
    directory: Path
    redis: RedisServer
    database_url: str
    port: int = field(default_factory=free_port)
    names: Names = field(default_factory=lambda: Names([]))
    up: AsyncExitStack = field(default_factory=AsyncExitStack)
    proxy: Proxy = field(init=False)

    async def start(self, address: str) -> Replica:
        """Start a replica, and return once it is ready and the proxy knows of it."""
        [line] = dockerfile("CMD")
        _, *arguments = json.loads(replace(line, {"0.0.0.0": address}))
        command = [sys.executable, "-m", "gqlnotify", *arguments, "--port", str(self.port)]
        log_file = self.directory / f"{address}.log"
        process = running(command, log_file, cwd=self.image, env=self._environment())
        replica = Replica(address, self.port, log_file, self.up.enter_context(process))
        # Its health check starts a process, so it does not run in a loop here.
        await wait_until(lambda: "startup complete" in log_file.read_text(), seconds=PATIENCE)
        await wait_until(replica.is_ready, seconds=PATIENCE)
        self.names.addresses.append(address)
        await self.proxy.knows(address)
        return replica

    def _environment(self) -> dict[str, str]:
        broker = SERVICES["server"]["environment"]["GQLNOTIFY_BROKER_URL"]
        return {
            **{name: value for name, value in os.environ.items() if "GQLNOTIFY" not in name},
            "PYTHONPATH": str(self.image),
            "GQLNOTIFY_BROKER_URL": replace(broker, {"redis://redis:6379": self.redis.url}),
            "GQLNOTIFY_DATABASE_URL": self.database_url,
            "GQLNOTIFY_JWT_SECRET": SECRET,
            "FORWARDED_ALLOW_IPS": SERVICES["server"]["environment"]["FORWARDED_ALLOW_IPS"],
        }

    async def ask(self, query: str, variables: dict[str, Any] | None = None) -> Any:
        """Send one operation, and return the value of its only field."""
        async with httpx.AsyncClient(timeout=PATIENCE) as http:
            answer = await http.post(
                f"http://{self.proxy.address}/graphql",
                json={"query": query, "variables": variables or {}},
                headers={"Authorization": f"Bearer {token()}"},
            )
        result = answer.json()
        assert "errors" not in result, result
        [value] = result["data"].values()
        return value

    async def create(self, title: str) -> None:
        await self.ask(operation("createTask"), {"input": {"title": title}})

    async def cursor(self) -> str:
        return str((await self.ask("{ tasks { eventCursor } }"))["eventCursor"])

    @asynccontextmanager
    async def following(self, after: str) -> AsyncIterator[Socket]:
        async with open_socket(f"ws://{self.proxy.address}") as socket:
            await socket.init({"Authorization": f"Bearer {token()}"})
            await socket.subscribe("1", operation("taskEvents"), variables={"after": after})
            yield socket


async def event(socket: Socket) -> tuple[str, str]:
    """Return the title of the next event's task, and the event's cursor."""
    result = await socket.next("1")
    return result["data"]["taskEvents"]["task"]["title"], result["extensions"]["cursor"]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """Redis with the options of the compose file."""
    program, *words = shlex.split(SERVICES["redis"]["command"])
    assert program == "redis-server"
    options = [option.strip() for option in " ".join(words).split("--")[1:]]
    with redis_server(None, *options) as server:
        yield server


@pytest.fixture
async def service(
    image: Path, tmp_path: Path, postgres: Path, redis: RedisServer
) -> AsyncIterator[Service]:
    service = Service(image, tmp_path, redis, f"postgresql://tasks@/postgres?host={postgres}")
    async with service.up as up:
        service.proxy = await up.enter_async_context(
            proxying(service.names, service.port, tmp_path)
        )
        yield service


async def test_an_event_of_one_replica_reaches_the_clients_of_the_other(service: Service) -> None:
    replicas = await asyncio.gather(service.start("127.0.0.2"), service.start("127.0.0.3"))
    after = await service.cursor()

    async with service.following(after) as one, service.following(after) as other:
        await service.create("shared")
        titles = [(await event(socket))[0] for socket in (one, other)]

    assert titles == ["shared", "shared"]
    for replica in replicas:
        assert '"WebSocket /graphql" [accepted]' in replica.log_file.read_text()


async def test_bad_tokens_of_one_address_do_not_affect_others(service: Service) -> None:
    await service.start("127.0.0.2")

    def client(address: str) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(local_address=address)
        base_url = f"http://{service.proxy.address}"
        return httpx.AsyncClient(transport=transport, base_url=base_url, timeout=PATIENCE)

    query = {"query": "{ tasks { eventCursor } }"}
    async with client("127.0.0.8") as guessing, client("127.0.0.9") as honest:
        answers = [
            await guessing.post(
                "/graphql",
                json=query,
                headers={"authorization": "Bearer x", "x-forwarded-for": f"192.0.2.{number}"},
            )
            for number in range(22)
        ]
        good = {"authorization": f"Bearer {token()}"}
        answer = await honest.post("/graphql", json=query, headers=good)

    assert [each.status_code for each in answers[:20]] == [401] * 20
    assert answers[-1].status_code == 429
    assert answer.status_code == 200
    assert "errors" not in answer.json()


async def test_replicas_can_be_replaced_one_by_one_and_clients_miss_nothing(
    service: Service,
) -> None:
    running = [await service.start("127.0.0.2")]
    after = await service.cursor()
    seen = []

    for address in ("127.0.0.3", "127.0.0.4"):
        running.append(await service.start(address))
        await service.create(f"before {address}")
        await running.pop(0).stop()
        # The proxy still uses it: its next check is two seconds away.
        await service.create(f"after {address}")
        async with service.following(after) as socket:
            for _ in range(2):
                title, after = await event(socket)
                seen.append(title)
        service.names.addresses.pop(0)

    assert seen == [f"{when} 127.0.0.{n}" for n in (3, 4) for when in ("before", "after")]


async def test_without_redis_no_replica_is_ready_but_tasks_are_saved_and_published_later(
    service: Service,
) -> None:
    replica = await service.start("127.0.0.2")
    after = await service.cursor()

    async with service.following(after) as socket:
        service.redis.stop()
        await wait_until(replica.is_unready, seconds=PATIENCE)
        deadline = time.monotonic() + CHECKS_FAIL
        titles: list[str] = []
        while time.monotonic() < deadline:
            titles.append(f"meanwhile {len(titles)}")
            await service.create(titles[-1])
        service.redis.start()
        seen = [(await event(socket))[0] for _ in titles]
        await wait_until(replica.is_ready, seconds=PATIENCE)

    assert seen == titles
