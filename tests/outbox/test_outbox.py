import asyncio
import logging
import sys
import time
from asyncio.subprocess import PIPE
from threading import Thread
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import create_engine, create_mock_engine, text, update
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from gqlnotify import errors
from gqlnotify.outbox import Lagging, Outbox
from tests.outbox.conftest import (
    METADATA,
    NUMBERS,
    OUTBOX,
    ROWS,
    MoodyTopics,
    Sessions,
    commit,
    emptied,
    published,
    waiting,
)
from tests.servers import ROOT
from tests.waiting import PATIENCE, wait_until

FAR = 1000.0
"""Seconds between two polls for tests in which a poll must not help."""


async def test_a_drain_publishes_in_order_and_empties_the_outbox(
    outbox: Outbox, topics: MoodyTopics, sessions: Sessions
) -> None:
    start = await topics.cursor(NUMBERS)
    async with sessions.begin() as session:
        # More than one batch.
        for number in range(230):
            outbox.add(session, NUMBERS, number)
    await outbox.drain()
    assert await published(topics, start) == list(range(230))
    assert await waiting(sessions) == 0


async def test_a_commit_publishes_at_once(topics: MoodyTopics, sessions: Sessions) -> None:
    start = await topics.cursor(NUMBERS)
    async with Outbox(topics, sessions, OUTBOX, poll_seconds=FAR) as outbox:
        for number in range(3):
            await commit(outbox, sessions, number)
            await wait_until(lambda: emptied(sessions))
        assert await published(topics, start) == [0, 1, 2]


async def test_an_idle_outbox_leaves_the_database_alone(
    topics: MoodyTopics, sessions: Sessions
) -> None:
    class Counted(Outbox):
        drains = 0

        async def drain(self) -> None:
            self.drains += 1
            await super().drain()

    async with Counted(topics, sessions, OUTBOX, poll_seconds=FAR) as outbox:
        await commit(outbox, sessions, 1)
        await wait_until(lambda: emptied(sessions))
        # Far more time than another drain takes.
        for _ in range(100):
            await waiting(sessions)
        assert outbox.drains <= 2


async def test_a_poll_finds_what_another_process_committed(
    topics: MoodyTopics, sessions: Sessions
) -> None:
    start = await topics.cursor(NUMBERS)
    elsewhere = Outbox(topics, sessions, OUTBOX)
    async with Outbox(topics, sessions, OUTBOX, poll_seconds=0.01):
        await commit(elsewhere, sessions, 1, 2, 3)
        await wait_until(lambda: emptied(sessions))
    assert await published(topics, start) == [1, 2, 3]


async def test_plain_sql_inserts_an_event(
    outbox: Outbox, topics: MoodyTopics, sessions: Sessions
) -> None:
    start = await topics.cursor(NUMBERS)
    async with sessions.begin() as session:
        for number in (1, 2):
            await session.execute(
                text("INSERT INTO gqlnotify_outbox (topic, payload) VALUES ('numbers', :payload)"),
                {"payload": str(number)},
            )
    assert 0 <= (await outbox.measure()).lag < PATIENCE
    await outbox.drain()
    assert await published(topics, start) == [1, 2]


async def test_several_processes_publish_each_event_once_and_in_order(
    engine: AsyncEngine, topics: MoodyTopics, sessions: Sessions
) -> None:
    start = await topics.cursor(NUMBERS)
    boxes = [Outbox(topics, async_sessionmaker(engine), OUTBOX) for _ in range(3)]

    async def work(first: int) -> None:
        for number in range(first, first + 8):
            await commit(boxes[number % 3], sessions, number)

    async with boxes[0], boxes[1], boxes[2]:
        await asyncio.gather(*(work(first) for first in (0, 100, 200)))
        await wait_until(lambda: emptied(sessions))
    assert topics.most_at_once == 1
    numbers = await published(topics, start)
    for first in (0, 100, 200):
        mine = [number for number in numbers if first <= number < first + 100]
        assert mine == list(range(first, first + 8))
    assert len(numbers) == 24


async def test_while_the_broker_fails_events_wait_and_then_come_in_order(
    outbox: Outbox, sessions: Sessions, topics: MoodyTopics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "gqlnotify.outbox")
    start = await topics.cursor(NUMBERS)
    topics.refuses = True
    async with outbox:
        await commit(outbox, sessions, *range(5))
        await wait_until(lambda: topics.tries >= 3)
        assert await waiting(sessions) == 5
        topics.refuses = False
        await wait_until(lambda: emptied(sessions))
    assert await published(topics, start) == list(range(5))


async def test_no_event_overtakes_the_one_that_the_broker_refused(
    outbox: Outbox, sessions: Sessions, topics: MoodyTopics
) -> None:
    start = await topics.cursor(NUMBERS)
    await commit(outbox, sessions, *range(5))
    topics.refuses_at = 3
    with pytest.raises(errors.BrokerUnavailable):
        await outbox.drain()
    assert await published(topics, start) == [0, 1]
    assert await waiting(sessions) == 3
    await outbox.drain()
    assert await published(topics, start) == list(range(5))


async def test_a_repeat_of_what_was_published_but_not_deleted_has_no_effect(
    outbox: Outbox, sessions: Sessions, topics: MoodyTopics
) -> None:
    start = await topics.cursor(NUMBERS)
    async with sessions.begin() as session:
        for number in range(3):
            outbox.add(session, NUMBERS, number, event_id=f"id-{number}")
    await topics.publish(NUMBERS, 0, event_id="id-0")
    await outbox.drain()
    assert await published(topics, start) == [0, 1, 2]


async def test_a_stalled_broker_does_not_block_writers(
    topics: MoodyTopics, sessions: Sessions
) -> None:
    topics.stalls = True
    async with asyncio.timeout(PATIENCE):
        async with Outbox(topics, sessions, OUTBOX, close_seconds=0.05) as outbox:
            await commit(outbox, sessions, 1)
            await wait_until(lambda: topics.tries == 1)
            await commit(outbox, sessions, 2)
    assert await waiting(sessions) == 2


async def test_the_end_publishes_what_is_left_and_leaves_no_task(
    outbox: Outbox, topics: MoodyTopics, sessions: Sessions
) -> None:
    start = await topics.cursor(NUMBERS)
    tasks = asyncio.all_tasks()
    async with outbox:
        await commit(outbox, sessions, 1, 2, 3)
    assert asyncio.all_tasks() == tasks
    assert await waiting(sessions) == 0
    async with outbox:
        await commit(outbox, sessions, 4)
    assert await published(topics, start) == [1, 2, 3, 4]


async def test_the_end_while_the_broker_fails_loses_nothing(
    outbox: Outbox, topics: MoodyTopics, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "gqlnotify.outbox")
    topics.refuses = True
    await commit(outbox, sessions, 1, 2, 3)
    async with outbox:
        await wait_until(lambda: topics.tries > 0)
    assert await waiting(sessions) == 3


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("no name", "1", "A topic name consists of"),
        ("gqlnotify.revocations", "1", "not for applications"),
        ("numbers", "{", "not JSON"),
        ("numbers", "NaN", "not JSON"),
        ("numbers", f'"{"x" * 2_000_000}"', "at most"),
    ],
)
async def test_an_event_that_can_not_be_published_is_named_and_set_aside(
    outbox: Outbox,
    sessions: Sessions,
    topics: MoodyTopics,
    caplog: pytest.LogCaptureFixture,
    topic: str,
    payload: str,
    reason: str,
) -> None:
    start = await topics.cursor(NUMBERS)
    async with sessions.begin() as session:
        await session.execute(OUTBOX.insert().values(event_id="bad", topic=topic, payload=payload))
        outbox.add(session, NUMBERS, 7)
    await outbox.drain()

    assert await published(topics, start) == [7]
    assert "'bad'" in caplog.text
    assert reason in caplog.text
    found = await outbox.measure()
    assert (found.waiting, found.refused, found.lag) == (0, 1, 0)
    assert REGISTRY.get_sample_value("gqlnotify_outbox_refused_rows") == 1
    await outbox.check()

    mended = update(OUTBOX).values(topic="numbers", payload="8", error=None)
    async with sessions.begin() as session:
        await session.execute(mended)
    await outbox.drain()
    assert await published(topics, start) == [7, 8]


async def test_readiness_and_metrics_tell_how_late_events_are(
    topics: MoodyTopics, sessions: Sessions
) -> None:
    outbox = Outbox(topics, sessions, OUTBOX, max_lag=0.1)
    await outbox.check()
    await commit(outbox, sessions, 1)

    async def is_late() -> bool:
        try:
            await outbox.check()
        except Lagging:
            return True
        return False

    await wait_until(is_late)
    assert REGISTRY.get_sample_value("gqlnotify_outbox_rows") == 1
    assert (REGISTRY.get_sample_value("gqlnotify_outbox_lag_seconds") or 0) > 0.1
    await outbox.drain()
    await outbox.check()
    assert REGISTRY.get_sample_value("gqlnotify_outbox_lag_seconds") == 0


async def test_an_invalid_event_is_refused_when_it_is_added(
    outbox: Outbox, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        with pytest.raises(errors.InternalError):
            outbox.add(session, NUMBERS, "one")  # type: ignore[misc]  # that is the point
        for topic in ("no name", "gqlnotify.revocations"):
            with pytest.raises(errors.BadUserInput):
                outbox.add(session, topic, 1)
        with pytest.raises(errors.BadUserInput):
            outbox.add(session, NUMBERS, 1, event_id="")
    assert await waiting(sessions) == 0


async def test_a_value_is_stored_as_it_was_when_it_was_added(
    outbox: Outbox, sessions: Sessions, topics: MoodyTopics
) -> None:
    value = ["Ä \U0001f600 \0"]
    async with sessions.begin() as session:
        outbox.add(session, "lists", value)
        value.append("later")
    async with sessions() as session:
        [payload] = await session.scalars(OUTBOX.select().with_only_columns(OUTBOX.c.payload))
    assert payload == '["Ä \U0001f600 \\u0000"]'


async def test_scoped_sessions_add_too(outbox: Outbox, sessions: Sessions) -> None:
    scoped = async_scoped_session(sessions, asyncio.current_task)
    outbox.add(scoped, NUMBERS, 1)
    await scoped.commit()
    await scoped.remove()
    assert await waiting(sessions) == 1


async def test_an_application_without_asyncio_sessions(
    topics: MoodyTopics, sqlite_url: str
) -> None:
    engine = create_engine(sqlite_url)
    METADATA.create_all(engine)
    sync_sessions = sessionmaker(engine)
    start = await topics.cursor(NUMBERS)

    def work(outbox: Outbox) -> None:
        with sync_sessions.begin() as session:
            session.execute(ROWS.insert().values(number=1))
            outbox.add(session, NUMBERS, 1)
        scoped: scoped_session[Session] = scoped_session(sync_sessions)
        outbox.add(scoped, NUMBERS, 2)
        scoped.commit()
        scoped.remove()

    async with Outbox(topics, sync_sessions, OUTBOX, poll_seconds=FAR) as outbox:
        # As FastAPI runs a `def` endpoint.
        await asyncio.to_thread(work, outbox)

        async def is_published() -> bool:
            return len(await published(topics, start)) == 2

        await wait_until(is_published)
    assert await published(topics, start) == [1, 2]
    assert (await outbox.measure()).waiting == 0
    engine.dispose()


async def test_a_wake_after_the_loop_has_ended_is_harmless(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    METADATA.create_all(engine)
    outbox = Outbox(MoodyTopics(), sessionmaker(engine), OUTBOX)

    async def run() -> None:
        # Its end is missing, as after a crash of the application.
        await outbox.__aenter__()

    thread = Thread(target=lambda: asyncio.run(run()))
    thread.start()
    await asyncio.to_thread(thread.join)
    outbox.wake()
    engine.dispose()


async def test_another_kind_of_database_is_refused(topics: MoodyTopics) -> None:
    # No driver is needed to find out.
    engine: Any = create_mock_engine("mysql://", lambda *_: None)
    sessions = sessionmaker(engine)
    with pytest.raises(ValueError, match="PostgreSQL or SQLite, and this is mysql"):
        await Outbox(topics, sessions, OUTBOX).__aenter__()


async def test_sessions_may_be_bound_after_the_outbox_is_made(
    topics: MoodyTopics, engine: AsyncEngine
) -> None:
    late = async_sessionmaker[AsyncSession]()
    outbox = Outbox(topics, late, OUTBOX)
    late.configure(bind=engine)
    async with outbox:
        await commit(outbox, late, 1)
        await wait_until(lambda: emptied(late))


@pytest.mark.processes
async def test_when_the_process_that_publishes_is_killed_another_takes_over_at_once(
    database_url: str, topics: MoodyTopics, sessions: Sessions
) -> None:
    start = await topics.cursor(NUMBERS)
    async with Outbox(topics, sessions, OUTBOX, poll_seconds=FAR) as outbox:
        command = [sys.executable, "-m", "tests.outbox.holder", database_url]
        holder = await asyncio.create_subprocess_exec(*command, stdout=PIPE, cwd=ROOT)
        assert holder.stdout is not None
        try:
            assert await holder.stdout.readline() == b"locked\n"
            await commit(outbox, sessions, 1)
            assert await waiting(sessions) == 1
        finally:
            holder.kill()
            await holder.wait()
        killed = time.monotonic()
        await wait_until(lambda: emptied(sessions))
        print(f"taken over after {time.monotonic() - killed:.3f} s")
    assert await published(topics, start) == [1]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_outbox_that_publishes_can_not_be_entered_again(
    outbox: Outbox, topics: MoodyTopics, sessions: Sessions
) -> None:
    start = await topics.cursor(NUMBERS)
    async with outbox:
        with pytest.raises(RuntimeError, match="publishes already"):
            await outbox.__aenter__()
        await commit(outbox, sessions, 1)
        await wait_until(lambda: emptied(sessions))
    async with outbox:
        await commit(outbox, sessions, 2)
    assert await published(topics, start) == [1, 2]
