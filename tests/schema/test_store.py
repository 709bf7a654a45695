import asyncio
from datetime import UTC, datetime, timedelta, timezone
from threading import enumerate as enumerate_threads

import pytest
from sqlalchemy import select

from gqlnotify import TopicManager
from gqlnotify.outbox import Outbox
from schema.database import Database
from schema.errors import Conflict, NotFound
from schema.models import OUTBOX, TaskRow
from schema.store import TaskStore
from schema.types import TASKS, Task, TaskEvent, TaskEventKind, TaskStatus
from tests.schema.conftest import until


async def add(store: TaskStore, title: str = "a task", assignee: str | None = None) -> Task:
    return await store.create(title=title, description="", assignee=assignee, actor="alice")


async def recorded(database: Database) -> list[TaskEvent]:
    async with database.reading() as session:
        payloads = await session.scalars(select(OUTBOX.c.payload).order_by(OUTBOX.c.id))
        return [TASKS.decode(payload.encode()) for payload in payloads]


async def test_a_task_reads_back_as_it_was_written(store: TaskStore) -> None:
    task = await store.create(
        title="Ä \U0001f600", description="\x01'\"\\", assignee="bob", actor="alice"
    )
    assert await store.get(task.id) == task
    assert task.created_at.utcoffset() == timedelta()


async def test_a_change_reads_back_as_it_was_written(store: TaskStore) -> None:
    task = await add(store, assignee="bob")
    changed = await store.update(
        task.id,
        {"title": "t", "description": "d", "status": TaskStatus.DONE, "assignee": None},
        expected_version=1,
        actor="bob",
    )
    assert await store.get(task.id) == changed
    assert changed == Task(
        id=task.id,
        title="t",
        description="d",
        status=TaskStatus.DONE,
        assignee=None,
        created_by="alice",
        created_at=task.created_at,
        updated_at=changed.updated_at,
        version=2,
    )


async def test_every_change_is_committed_with_its_event(
    store: TaskStore, database: Database
) -> None:
    created = await add(store)
    updated = await store.update(created.id, {"title": "t"}, expected_version=None, actor="bob")
    deleted = await store.delete(created.id, actor="carol")
    events = await recorded(database)
    assert [event.task for event in events] == [created, updated, deleted]
    assert [event.kind for event in events] == list(TaskEventKind)
    assert [event.actor for event in events] == ["alice", "bob", "carol"]
    assert await store.get(created.id) is None


async def test_a_change_that_fails_leaves_no_event(store: TaskStore, database: Database) -> None:
    task = await add(store)
    before = await recorded(database)
    with pytest.raises(Conflict):
        await store.update(task.id, {"title": "t"}, expected_version=7, actor="bob")
    with pytest.raises(NotFound):
        await store.update("unknown", {"title": "t"}, expected_version=None, actor="bob")
    with pytest.raises(NotFound):
        await store.delete("unknown", actor="bob")
    assert await recorded(database) == before
    assert await store.get(task.id) == task


async def test_a_transaction_that_fails_leaves_neither_task_nor_event(
    store: TaskStore, database: Database
) -> None:
    task = await add(store)

    async def fail_half_way() -> None:
        async with database.writing() as session:
            row = await session.scalar(select(TaskRow))
            assert row is not None
            row.title = "half done"
            await session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_half_way()
    assert await store.get(task.id) == task
    assert len(await recorded(database)) == 1


async def test_of_concurrent_updates_of_one_version_one_wins(
    store: TaskStore, database: Database
) -> None:
    task = await add(store)
    updates = (
        store.update(task.id, {"title": f"{number}"}, expected_version=1, actor=f"{number}")
        for number in range(20)
    )
    results = await asyncio.gather(*updates, return_exceptions=True)
    [winner] = [result for result in results if isinstance(result, Task)]
    conflicts = [result for result in results if isinstance(result, Conflict)]
    assert [error.extensions["currentVersion"] for error in conflicts] == [2] * 19
    assert await store.get(task.id) == winner
    assert [event.task for event in await recorded(database)] == [task, winner]


async def test_concurrent_updates_lose_no_version_and_record_them_in_order(
    store: TaskStore, database: Database
) -> None:
    task = await add(store)
    changes = (
        store.update(task.id, {"title": f"{number}"}, expected_version=None, actor="alice")
        for number in range(30)
    )
    updated = await asyncio.gather(*changes)
    assert sorted(each.version for each in updated) == list(range(2, 32))
    events = await recorded(database)
    assert [event.task.version for event in events] == list(range(1, 32))


async def test_two_processes_write_to_one_database(
    database_url: str, database: Database, outbox: Outbox
) -> None:
    # Two engines have no lock in common but the database's.
    other = Database(database_url)
    try:
        task = await add(TaskStore(database, outbox))
        writes = (
            TaskStore(each, outbox).update(
                task.id, {"title": "t"}, expected_version=None, actor="alice"
            )
            for each in [database, other] * 10
        )
        assert sorted(each.version for each in await asyncio.gather(*writes)) == list(range(2, 22))
    finally:
        await other.close()


async def test_many_processes_may_make_the_tables_at_once(
    database_url: str, topics: TopicManager
) -> None:
    databases = [Database(database_url) for _ in range(5)]
    try:
        await asyncio.gather(*(database.create() for database in databases))
        outbox = Outbox(topics, databases[0].sessions, OUTBOX)
        assert await TaskStore(databases[0], outbox).get("unknown") is None
    finally:
        for database in databases:
            await database.close()


async def test_a_page_says_what_lies_on_both_sides(store: TaskStore) -> None:
    tasks = [await add(store, f"{number}") for number in range(5)]
    everything = await store.list(first=10)
    assert [task for _, task in everything.items] == tasks
    positions = [position for position, _ in everything.items]
    page = await store.list(first=2, after=positions[1])
    assert [task for _, task in page.items] == tasks[2:4]
    assert (page.has_previous, page.has_next) == (True, True)
    last = await store.list(first=2, after=2**63 - 1)
    assert (last.items, last.has_previous, last.has_next) == ([], True, False)


async def test_a_filter_holds_on_both_sides(store: TaskStore) -> None:
    await add(store, "0")
    done = await add(store, "1", assignee="bob")
    done = await store.update(
        done.id, {"status": TaskStatus.DONE}, expected_version=None, actor="bob"
    )
    await add(store, "2")
    page = await store.list(first=1, status=TaskStatus.DONE, assignee="bob")
    [(position, task)] = page.items
    assert (task, page.has_next) == (done, False)
    assert not (await store.list(first=1, after=position - 1, assignee="bob")).has_previous


async def test_a_deleted_tasks_position_is_not_used_again(store: TaskStore) -> None:
    task = await add(store)
    [(old, _)] = (await store.list(first=1)).items
    await store.delete(task.id, actor="alice")
    await add(store)
    [(new, _)] = (await store.list(first=1)).items
    assert new > old


async def test_times_come_back_in_utc_whatever_zone_they_were_in(database: Database) -> None:
    instant = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=timezone(timedelta(hours=9)))
    async with database.writing() as session:
        session.add(row_of("id", instant))
    async with database.reading() as session:
        row = await session.scalar(select(TaskRow))
    assert row is not None
    assert row.created_at == instant
    assert row.created_at.tzinfo == UTC


async def test_a_failed_statement_does_not_tell_what_people_wrote(database: Database) -> None:
    async def twice() -> None:
        async with database.writing() as session:
            for _ in range(2):
                session.add(row_of("same", datetime.now(UTC)))
                await session.flush()

    with pytest.raises(Exception, match=r"tasks\.id|tasks_id") as failed:
        await twice()
    assert "secret" not in str(failed.value)


def row_of(task_id: str, instant: datetime) -> TaskRow:
    return TaskRow(
        id=task_id,
        title="secret",
        description="",
        status=TaskStatus.TODO,
        created_by="alice",
        created_at=instant,
        updated_at=instant,
        version=1,
    )


async def test_a_database_that_is_not_there_is_an_error_at_once() -> None:
    database = Database("sqlite:////proc/all.db")
    with pytest.raises(OSError, match="unable to open"):
        await database.create()
    await database.close()
    # The driver does not wait for the thread of a connection that failed; it outlives the loop.
    await until(lambda: not any("_connection_worker" in each.name for each in enumerate_threads()))
