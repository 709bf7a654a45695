import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine

from gqlnotify import TopicManager
from gqlnotify.outbox import Outbox
from schema.app import create_app
from schema.database import Database
from schema.models import OUTBOX
from schema.settings import TaskSettings
from schema.store import TaskStore
from tests.schema.client import PATIENCE, SECRET, Client
from tests.servers import PromptServer


@pytest.fixture
def settings(tmp_path: Path) -> TaskSettings:
    return TaskSettings(
        jwt_secret=SECRET,  # type: ignore[arg-type]  # pydantic makes it secret
        database_url=f"sqlite:///{tmp_path}/tasks.db",
        broker_url="memory://",
    )


@pytest.fixture
def socket() -> Iterator[Path]:
    # Not tmp_path: the address of a Unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="tasks-") as directory:
        yield Path(directory) / "http"


@asynccontextmanager
async def serving(app: FastAPI, socket: Path) -> AsyncIterator[Client]:
    config = uvicorn.Config(
        app,
        uds=str(socket),
        ws="websockets-sansio",
        log_config=None,
        timeout_graceful_shutdown=2,
    )
    server = PromptServer(config)
    running = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or running.done())
        yield Client(socket)
    finally:
        server.stop()
        await running


@pytest.fixture
async def client(settings: TaskSettings, socket: Path) -> AsyncIterator[Client]:
    async with serving(create_app(settings), socket) as client:
        yield client


async def until(
    condition: Callable[[], bool | Awaitable[bool]], *, patience: float = PATIENCE
) -> None:
    """Wait until the condition holds; TimeoutError after `patience` seconds."""
    async with asyncio.timeout(patience):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.01)


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.processes)],
)
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tasks.db"
    directory: Path = request.getfixturevalue("postgres")
    name = f"tasks_{uuid4().hex}"
    server = create_async_engine(
        f"postgresql+asyncpg://tasks@/postgres?host={directory}", isolation_level="AUTOCOMMIT"
    )
    async with server.connect() as connection:
        await connection.exec_driver_sql(f"CREATE DATABASE {name}")
    await server.dispose()
    return f"postgresql://tasks@/{name}?host={directory}"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.create()
    yield database
    await database.close()


@pytest.fixture
def store(database: Database, outbox: Outbox) -> TaskStore:
    return TaskStore(database, outbox)


@pytest.fixture
async def topics(settings: TaskSettings) -> AsyncIterator[TopicManager]:
    topics = TopicManager(settings=settings)
    yield topics
    await topics.close()


@pytest.fixture
def outbox(database: Database, topics: TopicManager) -> Outbox:
    return Outbox(topics, database.sessions, OUTBOX)
