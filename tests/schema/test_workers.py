"""Several server processes on one database and one Redis: one order, and no double effect."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from gqlnotify import Event, Settings, TopicManager
from schema.database import Database, async_url
from schema.types import TASKS, TaskEvent
from tests.redis_servers import RedisServer, redis_server
from tests.schema.client import PATIENCE, SECRET, Stream, operation, token
from tests.schema.conftest import until
from tests.servers import Server, serving

pytestmark = pytest.mark.processes

APPLICATION = "schema.app:app"
PROCESSES = 2

# What was committed, in the order of the outbox' ids: written by the database itself, within the
# transaction that commits the change.
LEDGER = "CREATE TABLE ledger (id INTEGER PRIMARY KEY, event_id TEXT)"
KEEPING = {
    "sqlite": [
        "CREATE TRIGGER keep AFTER INSERT ON gqlnotify_outbox BEGIN"
        " INSERT INTO ledger VALUES (NEW.id, NEW.event_id); END"
    ],
    "postgresql": [
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO ledger VALUES (NEW.id, NEW.event_id); RETURN NEW; END $$",
        "CREATE TRIGGER keep AFTER INSERT ON gqlnotify_outbox FOR EACH ROW EXECUTE FUNCTION keep()",
    ],
}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server(persistent=True) as server:
        yield server


@pytest.fixture
async def engine(database: Database, database_url: str) -> AsyncIterator[AsyncEngine]:
    """The database, its tables made, with the ledger of what is committed."""
    engine = create_async_engine(async_url(database_url))
    async with engine.begin() as connection:
        for statement in (LEDGER, *KEEPING[engine.dialect.name]):
            await connection.exec_driver_sql(statement)
    yield engine
    await engine.dispose()


@pytest.fixture
async def topics(redis: RedisServer, engine: AsyncEngine) -> AsyncIterator[TopicManager]:
    manager = TopicManager(settings=Settings(broker_url=redis.url, broker_timeout=1))
    await manager.start()
    yield manager
    await manager.close()


@pytest.fixture
async def start(topics: TopicManager) -> str:
    """Where the history of tasks begins."""
    return await topics.cursor(TASKS)


@dataclass(frozen=True)
class Service:
    """A client of one server process."""

    server: Server
    http: httpx.AsyncClient

    async def ask(self, name: str, **variables: Any) -> dict[str, Any]:
        body = {"query": operation(name), "variables": variables}
        answer = await self.http.post("/graphql", json=body)
        result: dict[str, Any] = answer.json()
        return result

    async def change(self, name: str, **variables: Any) -> dict[str, Any]:
        result = await self.ask(name, **variables)
        assert "errors" not in result, result
        task: dict[str, Any] = result["data"][name]
        return task

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """Subscribe to the tasks, and yield once the subscription is there."""
        protocols = [Subprotocol("graphql-transport-ws")]
        async with connect(f"{self.server.ws}/graphql", subprotocols=protocols) as socket:
            payload = {"Authorization": f"Bearer {token()}"}
            await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
            stream = Stream(socket)
            assert (await stream.message())["type"] == "connection_ack"
            after = (await self.ask("tasks"))["data"]["tasks"]["eventCursor"]
            subscribe = {"query": operation("taskEvents"), "variables": {"after": after}}
            await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": subscribe}))
            yield stream


@asynccontextmanager
async def reaching(servers: Sequence[Server]) -> AsyncIterator[list[Service]]:
    headers = {"Authorization": f"Bearer {token()}"}
    async with AsyncExitStack() as clients:
        services = []
        for server in servers:
            http = httpx.AsyncClient(base_url=server.http, headers=headers, timeout=PATIENCE)
            services.append(Service(server, await clients.enter_async_context(http)))
        yield services


def settings(database_url: str, redis: RedisServer) -> dict[str, Any]:
    return {
        "jwt_secret": SECRET,
        "database_url": database_url,
        "broker_url": redis.url,
        "broker_timeout": 1,
    }


@pytest.fixture
async def services(
    start: str, database_url: str, redis: RedisServer, tmp_path: Path
) -> AsyncIterator[list[Service]]:
    """Two processes that share nothing but the database and Redis."""
    with ExitStack() as processes:
        servers = []
        for number in range(PROCESSES):
            (directory := tmp_path / str(number)).mkdir()
            process = serving(APPLICATION, directory, **settings(database_url, redis))
            servers.append(await asyncio.to_thread(processes.enter_context, process))
        async with reaching(servers) as services:
            yield services


async def work(services: Sequence[Service], number: int, changes: int = 10) -> list[int]:
    """Create a task and change it, each time through another process; return its versions."""
    task = await services[number % len(services)].change("createTask", input={"title": "new"})
    versions = [task["version"]]
    for n in range(1, changes):
        service = services[(number + n) % len(services)]
        task = await service.change("updateTask", id=task["id"], input={"title": f"change {n}"})
        versions.append(task["version"])
    return versions


async def ledger(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        found = await connection.scalars(text("SELECT event_id FROM ledger ORDER BY id"))
        return list(found)


async def until_drained(engine: AsyncEngine) -> None:
    async def is_empty() -> bool:
        async with engine.connect() as connection:
            return bool(await connection.scalar(text("SELECT count(*) = 0 FROM gqlnotify_outbox")))

    await until(is_empty)


async def history(topics: TopicManager, start: str) -> list[tuple[Event, TaskEvent]]:
    """Return everything that was published on the tasks' topic."""
    last = await topics.cursor(TASKS)
    found: list[tuple[Event, TaskEvent]] = []
    stream = topics.subscribe(TASKS, after=start).map(lambda value, event: (event, value))
    async with asyncio.timeout(PATIENCE):
        while not found or str(found[-1][0].cursor) != last:
            found.append(await anext(stream))
    await stream.aclose()
    return found


async def assert_events_are_the_committed_changes(
    engine: AsyncEngine, topics: TopicManager, start: str, *, by_id: bool
) -> int:
    """Return how many there are: each once, and those of a task in the order of its versions."""
    await until_drained(engine)
    committed = await ledger(engine)
    events = await history(topics, start)
    published = [event.id for event, _ in events]
    assert sorted(map(str, published)) == sorted(committed)
    if by_id:
        assert published == committed
    versions: dict[str, list[int]] = {}
    for _, value in events:
        versions.setdefault(value.task.id, []).append(value.task.version)
    for task in versions.values():
        assert task == list(range(1, len(task) + 1))
    return len(events)


async def test_changes_through_many_processes_are_one_stream_without_loss_or_repetition(
    services: list[Service], engine: AsyncEngine, topics: TopicManager, start: str
) -> None:
    done = await asyncio.gather(*(work(services, number) for number in range(12)))

    assert done == [list(range(1, 11))] * 12
    # PostgreSQL commits side by side: of two tasks the later id may be there first.
    count = await assert_events_are_the_committed_changes(
        engine, topics, start, by_id=engine.dialect.name == "sqlite"
    )
    assert count == 120


async def test_one_task_changed_by_all_processes_at_once_keeps_the_order_of_its_versions(
    services: list[Service], engine: AsyncEngine, topics: TopicManager, start: str
) -> None:
    task = await services[0].change("createTask", input={"title": "contested"})
    changed = await asyncio.gather(
        *(
            services[n % PROCESSES].change("updateTask", id=task["id"], input={"title": str(n)})
            for n in range(60)
        )
    )

    assert sorted(change["version"] for change in changed) == list(range(2, 62))
    assert await assert_events_are_the_committed_changes(engine, topics, start, by_id=True) == 61


async def test_all_processes_deliver_what_any_of_them_committed(services: list[Service]) -> None:
    async with AsyncExitStack() as sockets:
        streams = [await sockets.enter_async_context(service.stream()) for service in services]
        await asyncio.gather(*(work(services, number, 5) for number in range(6)))
        seen = [await stream.events(30) for stream in streams]

    assert seen[1:] == seen[:-1]


async def test_what_a_killed_process_committed_is_published_by_the_others(
    services: list[Service], engine: AsyncEngine, topics: TopicManager, start: str
) -> None:
    victim = services[0].server

    async def work_until_it_dies(number: int) -> None:
        with suppress(httpx.TransportError):
            await work(services[:1], number, changes=1000)

    async def kill() -> None:
        async def is_busy() -> bool:
            return len(await ledger(engine)) > 40

        await until(is_busy)
        await asyncio.to_thread(victim.stop, signal.SIGKILL)

    doomed = [work_until_it_dies(number) for number in range(4)]
    safe = [work(services[1:], number) for number in range(4)]
    await asyncio.gather(kill(), *doomed, *safe)

    count = await assert_events_are_the_committed_changes(
        engine, topics, start, by_id=engine.dialect.name == "sqlite"
    )
    assert count > 40


async def test_while_redis_is_down_changes_commit_and_their_events_follow_in_order(
    services: list[Service],
    engine: AsyncEngine,
    topics: TopicManager,
    start: str,
    redis: RedisServer,
) -> None:
    notice = {"topic": "notices", "payload": 1}
    async with AsyncExitStack() as sockets:
        streams = [await sockets.enter_async_context(service.stream()) for service in services]
        before = await work(services, 0, 3)
        await until_drained(engine)
        await asyncio.to_thread(redis.stop)

        await asyncio.gather(*(work(services, number) for number in range(6)))
        for service in services:
            [error] = (await service.ask("publish", **notice))["errors"]
            assert error["extensions"]["code"] == "BROKER_UNAVAILABLE"

        await asyncio.to_thread(redis.start)
        seen = [await stream.events(63) for stream in streams]
        assert len(before) == 3
        # The sockets are those of before, and go on.
        await services[0].change("createTask", input={"title": "the end"})
        for stream in streams:
            assert (await stream.event())["task"]["title"] == "the end"

    assert seen[1:] == seen[:-1]
    assert await assert_events_are_the_committed_changes(engine, topics, start, by_id=True) == 64
    for service in services:
        assert "errors" not in await service.ask("publish", **notice)
        assert service.server.trouble == []


async def test_rows_of_a_process_killed_while_redis_is_down_are_published_by_the_others(
    services: list[Service],
    engine: AsyncEngine,
    topics: TopicManager,
    start: str,
    redis: RedisServer,
) -> None:
    await asyncio.to_thread(redis.stop)
    await asyncio.gather(*(work(services[:1], number) for number in range(4)))
    await asyncio.to_thread(services[0].server.stop, signal.SIGKILL)
    assert len(await ledger(engine)) == 40
    await asyncio.to_thread(redis.start)

    assert await assert_events_are_the_committed_changes(engine, topics, start, by_id=True) == 40


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_uvicorn_s_own_workers_share_a_file_and_publish_in_the_order_of_its_ids(
    start: str,
    database_url: str,
    engine: AsyncEngine,
    topics: TopicManager,
    redis: RedisServer,
    tmp_path: Path,
) -> None:
    workers = serving(
        APPLICATION, tmp_path, "--workers", str(PROCESSES), **settings(database_url, redis)
    )
    with workers as server:
        await until(lambda: server.log.count("Application startup complete") == PROCESSES)
        # Connections of their own are shared out among the workers.
        async with reaching([server] * PROCESSES) as services:
            await asyncio.gather(*(work(services, number) for number in range(12)))
        count = await assert_events_are_the_committed_changes(engine, topics, start, by_id=True)

    assert count == 120
    # The parent of uvicorn's workers ends without closing the socket that they listen on.
    assert [line for line in server.trouble if "ResourceWarning" not in line] == []
