import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from sqlalchemy import func, select

from gqlnotify import Cursor, Settings, TopicManager, errors
from schema.database import Database
from schema.models import OutboxRow
from schema.outbox import Outbox
from schema.store import TaskStore
from schema.types import TASKS, TaskEvent
from tests.schema.client import PATIENCE
from tests.schema.conftest import until


class MoodyTopics(TopicManager):
    """Topics whose broker fails or stalls when told to."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings=settings)
        self.refuses = False
        self.refuses_after: int | None = None
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
        if self.refuses or self.tries == self.refuses_after:
            raise errors.BrokerUnavailable("out of order")
        self.publishing += 1
        self.most_at_once = max(self.most_at_once, self.publishing)
        try:
            # Whoever else could publish now gets the chance.
            for _ in range(20):
                await asyncio.sleep(0)
            return await super().publish_bytes(topic, payload, event_id=event_id)
        finally:
            self.publishing -= 1


@pytest.fixture
async def topics(settings: Settings) -> AsyncIterator[MoodyTopics]:
    topics = MoodyTopics(settings)
    yield topics
    await topics.close()


async def add(store: TaskStore, count: int) -> list[str]:
    tasks = [
        await store.create(title=f"{number}", description="", assignee=None, actor="alice")
        for number in range(count)
    ]
    return [task.id for task in tasks]


async def waiting(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(OutboxRow)) or 0


async def emptied(database: Database) -> None:
    async def is_empty() -> bool:
        return await waiting(database) == 0

    await until(is_empty)


async def published(topics: TopicManager, after: str, count: int) -> list[TaskEvent]:
    """Return the events behind `after`, and check that there are `count` and no more."""
    end = await topics.cursor(TASKS)
    async with aclosing(topics.subscribe(TASKS, after=after)) as stream, asyncio.timeout(PATIENCE):
        events = [await anext(stream) for _ in range(count)]
        assert str(stream.cursor) == end
    return events


async def test_a_drain_publishes_in_order_and_empties_the_outbox(
    store: TaskStore, outbox: Outbox, topics: MoodyTopics, database: Database
) -> None:
    start = await topics.cursor(TASKS)
    # More than one batch.
    tasks = await add(store, 230)
    await outbox.drain()
    assert [event.task.id for event in await published(topics, start, 230)] == tasks
    assert await waiting(database) == 0


async def test_a_wake_publishes_without_waiting_for_the_sweep(
    store: TaskStore, database: Database, topics: MoodyTopics
) -> None:
    outbox = Outbox(database, topics, sweep_seconds=1000)
    start = await topics.cursor(TASKS)
    outbox.start()
    try:
        for number in range(1, 4):
            await add(store, 1)
            outbox.wake()
            await emptied(database)
            await published(topics, start, number)
    finally:
        await outbox.close()


async def test_an_idle_outbox_leaves_the_database_alone(
    store: TaskStore, database: Database, topics: MoodyTopics
) -> None:
    class Counted(Outbox):
        drains = 0

        async def drain(self) -> None:
            self.drains += 1
            await super().drain()

    outbox = Counted(database, topics, sweep_seconds=1000)
    outbox.start()
    try:
        await add(store, 1)
        outbox.wake()
        await emptied(database)
        # Far more time than another drain takes.
        for _ in range(100):
            await store.get("unknown")
        assert outbox.drains <= 2
    finally:
        await outbox.close()


async def test_the_sweep_publishes_what_nobody_woke_it_for(
    store: TaskStore, database: Database, topics: MoodyTopics
) -> None:
    outbox = Outbox(database, topics, sweep_seconds=0.01)
    start = await topics.cursor(TASKS)
    outbox.start()
    try:
        await emptied(database)
        await add(store, 3)
        await emptied(database)
    finally:
        await outbox.close()
    await published(topics, start, 3)


async def test_concurrent_writers_and_drainers_publish_every_event_once_and_in_order(
    database_url: str, database: Database, topics: MoodyTopics
) -> None:
    start = await topics.cursor(TASKS)
    databases = [database, Database(database_url), Database(database_url)]
    outboxes = [Outbox(each, topics, sweep_seconds=0.02) for each in databases]
    tasks = await add(TaskStore(database), 4)
    for each in outboxes:
        each.start()
    try:
        await asyncio.gather(
            *(
                update_and_wake(TaskStore(databases[number % 3]), outboxes[number % 3], tasks)
                for number in range(9)
            )
        )
        await emptied(database)
    finally:
        for each in outboxes:
            await each.close()
        for other in databases[1:]:
            await other.close()
    assert topics.most_at_once == 1
    events = await published(topics, start, 4 + 9 * 4)
    for task in tasks:
        versions = [event.task.version for event in events if event.task.id == task]
        assert versions == list(range(1, 11))


async def update_and_wake(store: TaskStore, outbox: Outbox, tasks: list[str]) -> None:
    for task in tasks:
        await store.update(task, {"title": "t"}, expected_version=None, actor="alice")
        outbox.wake()


async def test_while_the_broker_fails_events_wait_and_then_come_in_order(
    store: TaskStore, database: Database, topics: MoodyTopics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "schema.outbox")
    outbox = Outbox(database, topics, sweep_seconds=0.01)
    start = await topics.cursor(TASKS)
    topics.refuses = True
    outbox.start()
    try:
        tasks = await add(store, 5)
        outbox.wake()
        await until(lambda: topics.tries >= 3)
        assert await waiting(database) == 5
        topics.refuses = False
        await emptied(database)
    finally:
        await outbox.close()
    assert [event.task.id for event in await published(topics, start, 5)] == tasks


async def test_nothing_overtakes_the_event_that_the_broker_refused(
    store: TaskStore, database: Database, topics: MoodyTopics, outbox: Outbox
) -> None:
    start = await topics.cursor(TASKS)
    tasks = await add(store, 5)
    topics.refuses_after = 3
    with pytest.raises(errors.BrokerUnavailable):
        await outbox.drain()
    assert [event.task.id for event in await published(topics, start, 2)] == tasks[:2]
    assert await waiting(database) == 3
    await outbox.drain()
    assert [event.task.id for event in await published(topics, start, 5)] == tasks


async def test_a_repeat_of_what_was_published_but_not_deleted_has_no_effect(
    store: TaskStore, database: Database, topics: MoodyTopics, outbox: Outbox
) -> None:
    start = await topics.cursor(TASKS)
    await add(store, 3)
    async with database.reading() as session:
        rows = (await session.scalars(select(OutboxRow).order_by(OutboxRow.id))).all()
    for row in rows[:2]:
        await topics.publish_bytes(row.topic, row.payload, event_id=row.event_id)
    await outbox.drain()
    await published(topics, start, 3)


async def test_a_stalled_broker_keeps_nobody_from_writing(
    store: TaskStore, database: Database, topics: MoodyTopics
) -> None:
    outbox = Outbox(database, topics, close_seconds=0.05)
    topics.stalls = True
    outbox.start()
    await add(store, 1)
    outbox.wake()
    await until(lambda: topics.tries == 1)
    async with asyncio.timeout(PATIENCE):
        await add(store, 1)
        await outbox.close()
    assert await waiting(database) == 2


async def test_close_publishes_what_is_left(
    store: TaskStore, database: Database, topics: MoodyTopics
) -> None:
    outbox = Outbox(database, topics, sweep_seconds=1000)
    start = await topics.cursor(TASKS)
    outbox.start()
    await add(store, 3)
    await outbox.close()
    assert await waiting(database) == 0
    await published(topics, start, 3)


async def test_close_ends_while_the_broker_fails_and_loses_nothing(
    store: TaskStore, database: Database, topics: MoodyTopics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "schema.outbox")
    outbox = Outbox(database, topics)
    topics.refuses = True
    await add(store, 3)
    outbox.start()
    await until(lambda: topics.tries > 0)
    await outbox.close()
    assert await waiting(database) == 3
    assert [task for task in asyncio.all_tasks() if task.get_name() == "outbox"] == []


async def test_close_of_an_outbox_that_never_started_is_nothing(outbox: Outbox) -> None:
    await outbox.close()
