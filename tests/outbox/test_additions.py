"""What a session adds is inserted with its commit, and only then."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from gqlnotify.outbox import Outbox
from tests.outbox.conftest import (
    METADATA,
    NUMBERS,
    OUTBOX,
    ROWS,
    MoodyTopics,
    Sessions,
    commit,
    waiting,
)
from tests.waiting import PATIENCE, wait_until


class Base(DeclarativeBase):
    metadata = METADATA


class Number(Base):
    __table__ = ROWS


@pytest.fixture
def session(sqlite_url: str) -> Iterator[Session]:
    engine = create_engine(sqlite_url)
    # SQLAlchemy's recipe: otherwise the driver commits before a savepoint.
    event.listen(engine, "connect", _begin_nothing)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    METADATA.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
def outbox(session: Session) -> Outbox:
    return Outbox(MoodyTopics(), sessionmaker(session.get_bind()), OUTBOX)


def _begin_nothing(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]


def stored(session: Session) -> list[int]:
    """Return the numbers whose events are committed."""
    engine = session.get_bind()
    assert isinstance(engine, Engine)
    with engine.connect() as connection:
        return [int(each) for each in connection.scalars(select(OUTBOX.c.payload))]


def committed(outbox: Outbox, session: Session) -> None:
    outbox.add(session, NUMBERS, 1)
    outbox.add(session, NUMBERS, 2)
    session.commit()


def rolled_back(outbox: Outbox, session: Session) -> None:
    outbox.add(session, NUMBERS, 0)
    session.rollback()
    outbox.add(session, NUMBERS, 1)
    outbox.add(session, NUMBERS, 2)
    session.commit()


def closed(outbox: Outbox, session: Session) -> None:
    outbox.add(session, NUMBERS, 0)
    session.close()
    committed(outbox, session)


def released_savepoint(outbox: Outbox, session: Session) -> None:
    with session.begin():
        outbox.add(session, NUMBERS, 1)
        with session.begin_nested():
            outbox.add(session, NUMBERS, 2)
        assert not stored(session)


def rolled_back_savepoint(outbox: Outbox, session: Session) -> None:
    with session.begin():
        outbox.add(session, NUMBERS, 1)
        savepoint = session.begin_nested()
        outbox.add(session, NUMBERS, 0)
        with session.begin_nested():
            outbox.add(session, NUMBERS, 0)
        savepoint.rollback()
        outbox.add(session, NUMBERS, 2)


def closed_savepoint(outbox: Outbox, session: Session) -> None:
    with session.begin():
        outbox.add(session, NUMBERS, 1)
        savepoint = session.begin_nested()
        outbox.add(session, NUMBERS, 0)
        with session.begin_nested():
            outbox.add(session, NUMBERS, 0)
        savepoint.close()
        outbox.add(session, NUMBERS, 2)


def open_savepoints(outbox: Outbox, session: Session) -> None:
    with session.begin():
        outbox.add(session, NUMBERS, 1)
        session.begin_nested()
        session.begin_nested()
        outbox.add(session, NUMBERS, 2)


def released_savepoint_in_one_that_is_rolled_back(outbox: Outbox, session: Session) -> None:
    with session.begin():
        outbox.add(session, NUMBERS, 1)
        outer = session.begin_nested()
        outbox.add(session, NUMBERS, 0)
        released = session.begin_nested()
        session.begin_nested()
        released.commit()
        outer.rollback()
        outbox.add(session, NUMBERS, 2)


def added_by_a_listener(outbox: Outbox, session: Session) -> None:
    # Before this outbox has seen the session.
    event.listen(session, "before_commit", lambda _: outbox.add(session, NUMBERS, 1), once=True)
    session.commit()
    outbox.add(session, NUMBERS, 2)
    session.commit()


def added_while_flushing(outbox: Outbox, session: Session) -> None:
    session.execute(ROWS.insert().values(number=1))
    session.add(Number(number=2))
    event.listen(session, "after_flush", lambda *_: outbox.add(session, NUMBERS, 1), once=True)
    event.listen(session, "after_flush", lambda *_: outbox.add(session, NUMBERS, 2), once=True)
    session.commit()


@pytest.mark.parametrize(
    "work",
    [
        committed,
        rolled_back,
        closed,
        released_savepoint,
        rolled_back_savepoint,
        closed_savepoint,
        open_savepoints,
        released_savepoint_in_one_that_is_rolled_back,
        added_by_a_listener,
        added_while_flushing,
    ],
)
def test_events_are_stored_if_and_only_if_their_part_of_the_transaction_commits(
    work: Callable[[Outbox, Session], None], outbox: Outbox, session: Session
) -> None:
    work(outbox, session)
    assert stored(session) == [1, 2]
    # Nothing is left for the next transaction.
    session.commit()
    session.close()
    assert stored(session) == [1, 2]


def test_a_commit_that_fails_stores_nothing_and_the_next_one_can_succeed(
    outbox: Outbox, session: Session
) -> None:
    def fail(_session: Session) -> None:
        raise RuntimeError("No")

    # After ours, which has inserted the event by then.
    outbox.add(session, NUMBERS, 0)
    event.listen(session, "before_commit", fail)
    with pytest.raises(RuntimeError, match="No"):
        session.commit()
    session.rollback()
    event.remove(session, "before_commit", fail)
    committed(outbox, session)
    assert stored(session) == [1, 2]


@pytest.mark.processes
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_an_overlapping_transaction_that_commits_late_is_not_skipped(
    topics: MoodyTopics, sessions: Sessions
) -> None:
    """The lower number commits after the higher one was published."""
    outbox = Outbox(topics, sessions, OUTBOX)
    async with sessions() as early:
        # As a program does that inserts at once.
        await early.execute(OUTBOX.insert().values(topic="numbers", payload="1"))
        await commit(outbox, sessions, 2)
        await outbox.drain()
        await early.commit()
    assert await waiting(sessions) == 1
    await outbox.drain()
    assert await waiting(sessions) == 0


@pytest.mark.processes
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_transaction_that_waited_for_another_is_published_after_it(
    topics: MoodyTopics, sessions: Sessions
) -> None:
    """It adds its event first, and its commit has to wait for the other one's lock."""
    outbox = Outbox(topics, sessions, OUTBOX)
    async with sessions() as first, sessions() as second:
        await first.execute(text("LOCK TABLE numbers IN EXCLUSIVE MODE"))
        outbox.add(second, NUMBERS, 2)
        second.add(Number(number=2))
        commits = asyncio.create_task(second.commit())
        await wait_until(lambda: one_waits(sessions))
        outbox.add(first, NUMBERS, 1)
        await first.commit()
        async with asyncio.timeout(PATIENCE):
            await commits
    async with sessions() as session:
        payloads = await session.scalars(select(OUTBOX.c.payload).order_by(OUTBOX.c.id))
        assert list(payloads) == ["1", "2"]


async def one_waits(sessions: Sessions) -> bool:
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with sessions() as session:
        return bool(await session.scalar(text(query)))
