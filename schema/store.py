"""Tasks in the database. A change and its event are committed in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypedDict
from uuid import uuid4

import strawberry
from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from gqlnotify.outbox import Outbox
from schema.database import Database
from schema.errors import Conflict, NotFound
from schema.models import TaskRow
from schema.types import TASKS, Task, TaskEvent, TaskEventKind, TaskStatus


class TaskChanges(TypedDict, total=False):
    """The fields that an update sets."""

    title: str
    description: str
    status: TaskStatus
    assignee: str | None


@dataclass(frozen=True)
class TaskPage:
    """Tasks with their positions, ascending.

    Attributes:
        items: pairs of a position and its task.
        has_next: whether there are tasks after these.
        has_previous: whether there are tasks before these.
    """

    items: Sequence[tuple[int, Task]]
    has_next: bool
    has_previous: bool


class TaskStore:
    """Reads and writes tasks.

    It does not check its arguments: resolvers do. `actor` is the subject of the token.

    Args:
        database: where the tasks are.
        outbox: what publishes their events.
    """

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def create(
        self, *, title: str, description: str, assignee: str | None, actor: str
    ) -> Task:
        """Create a task with the status TODO and version 1."""
        now = datetime.now(UTC)
        row = TaskRow(
            id=str(uuid4()),
            title=title,
            description=description,
            status=TaskStatus.TODO,
            assignee=assignee,
            created_by=actor,
            created_at=now,
            updated_at=now,
            version=1,
        )
        async with self._database.writing() as session:
            session.add(row)
            self._record(session, TaskEventKind.CREATED, task := _task(row), actor, now)
        return task

    async def update(
        self, task_id: str, changes: TaskChanges, *, expected_version: int | None, actor: str
    ) -> Task:
        """Apply `changes` and increase the version by 1.

        Args:
            task_id: the id of the task.
            changes: the new values of fields.
            expected_version: the version that the task must have; None allows any.
            actor: the subject whose token makes the change.

        Raises:
            NotFound: no task has this id.
            Conflict: the task has another version, which is in `currentVersion`.
        """
        async with self._database.writing() as session:
            row = await _locked(session, task_id)
            if expected_version not in {None, row.version}:
                raise Conflict(
                    f"The task is at version {row.version}, not {expected_version}",
                    currentVersion=row.version,
                )
            for column, value in changes.items():
                setattr(row, column, value)
            row.version += 1
            row.updated_at = datetime.now(UTC)
            self._record(session, TaskEventKind.UPDATED, task := _task(row), actor, row.updated_at)
        return task

    async def delete(self, task_id: str, *, actor: str) -> Task:
        """Delete a task and return its last state.

        Raises:
            NotFound: no task has this id.
        """
        async with self._database.writing() as session:
            row = await _locked(session, task_id)
            await session.delete(row)
            self._record(
                session, TaskEventKind.DELETED, task := _task(row), actor, datetime.now(UTC)
            )
        return task

    async def get(self, task_id: str) -> Task | None:
        """Return a task, or None if no task has this id."""
        async with self._database.reading() as session:
            row = await session.scalar(select(TaskRow).where(TaskRow.id == task_id))
        return None if row is None else _task(row)

    async def list(
        self,
        *,
        first: int,
        after: int = 0,
        status: TaskStatus | None = None,
        assignee: str | None = None,
    ) -> TaskPage:
        """Return at most `first` tasks after the position `after`, in the order of creation."""
        wanted: list[ColumnElement[bool]] = []
        if status is not None:
            wanted.append(TaskRow.status == status)
        if assignee is not None:
            wanted.append(TaskRow.assignee == assignee)
        page = select(TaskRow).where(*wanted, TaskRow.position > after)
        earlier = select(exists().where(*wanted, TaskRow.position <= after))
        async with self._database.reading() as session:
            # One task more than requested shows whether there is a next page.
            found = await session.scalars(page.order_by(TaskRow.position).limit(first + 1))
            rows = found.all()
            has_previous = after > 0 and bool(await session.scalar(earlier))
        items = [(row.position, _task(row)) for row in rows[:first]]
        return TaskPage(items, has_next=len(rows) > first, has_previous=has_previous)

    def _record(
        self, session: AsyncSession, kind: TaskEventKind, task: Task, actor: str, at: datetime
    ) -> None:
        happened = TaskEvent(kind=kind, task=task, actor=actor, at=at)
        self._outbox.add(session, TASKS, happened)


async def _locked(session: AsyncSession, task_id: str) -> TaskRow:
    # PostgreSQL locks the row until the commit, so that two updates do not read the same version.
    # SQLite ignores FOR UPDATE: there, the transaction has locked the whole file.
    row = await session.scalar(select(TaskRow).where(TaskRow.id == task_id).with_for_update())
    if row is None:
        raise NotFound("No task has this id")
    return row


def _task(row: TaskRow) -> Task:
    return Task(
        id=strawberry.ID(row.id),
        title=row.title,
        description=row.description,
        status=row.status,
        assignee=row.assignee,
        created_by=row.created_by,
        created_at=row.created_at,
        updated_at=row.updated_at,
        version=row.version,
    )
