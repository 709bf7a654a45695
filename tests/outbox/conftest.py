import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from gqlnotify import Cursor, Settings, Topic, TopicManager, errors
from gqlnotify.outbox import Outbox, outbox_table
from tests.streams import take

NUMBERS = Topic("numbers", int)

METADATA = MetaData()
OUTBOX = outbox_table(METADATA)
ROWS = Table("numbers", METADATA, Column("number", Integer, primary_key=True))

Sessions = async_sessionmaker[AsyncSession]


class MoodyTopics(TopicManager):
    """Topics whose broker fails or stalls when told to."""

    def __init__(self) -> None:
        super().__init__(settings=Settings(broker_url="memory://"))
        self.refuses = False
        self.refuses_at: int | None = None
        self.stalls = False
        self.tries = 0
        self.publishing = 0
        self.most_at_once = 0

    async def publish_bytes(
        self, topic: str, payload: bytes, *, event_id: str | None = None
    ) -> Cursor:
        self.tries += 1
        if self.stalls:
            await asyncio.Event().wait()
        if self.refuses or self.tries == self.refuses_at:
            raise errors.BrokerUnavailable("out of order")
        self.publishing += 1
        self.most_at_once = max(self.most_at_once, self.publishing)
        try:
            # Another one that could publish now gets the chance.
            for _ in range(20):
                await asyncio.sleep(0)
            return await super().publish_bytes(topic, payload, event_id=event_id)
        finally:
            self.publishing -= 1


@pytest.fixture
async def topics() -> AsyncIterator[MoodyTopics]:
    # Its history in memory ends with its last holder.
    async with (topics := MoodyTopics()).held_open():
        yield topics


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.processes)])
async def database_url(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    """The URL of an empty database, with an async driver."""
    if request.param == "sqlite":
        return sqlite_url.replace("sqlite:", "sqlite+aiosqlite:", 1)
    url = f"postgresql+asyncpg://tasks@/postgres?host={request.getfixturevalue('postgres')}"
    engine = create_async_engine(url)
    # All tests share one database: to create one takes longer than most tests.
    async with engine.begin() as connection:
        await connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        await connection.exec_driver_sql("CREATE SCHEMA public")
    await engine.dispose()
    return url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine)


@pytest.fixture
def outbox(topics: TopicManager, sessions: Sessions) -> Outbox:
    return Outbox(topics, sessions, OUTBOX)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tests.db"


async def commit(outbox: Outbox, sessions: Sessions, *numbers: int) -> None:
    """Commit each number and its event in a transaction of its own."""
    for number in numbers:
        async with sessions.begin() as session:
            await session.execute(ROWS.insert().values(number=number))
            outbox.add(session, NUMBERS, number)


async def waiting(sessions: Sessions) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(OUTBOX)) or 0


async def emptied(sessions: Sessions) -> bool:
    return await waiting(sessions) == 0


async def published(topics: TopicManager, after: str) -> list[int]:
    """Return what was published after a cursor."""
    count = (await topics.cursor(NUMBERS)).seq - Cursor.parse(after).seq
    async with aclosing(topics.subscribe(NUMBERS, after=after)) as stream:
        return await take(stream, count)
