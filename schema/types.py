"""The GraphQL types, and the topic of tasks."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from inspect import getdoc
from typing import Any, TypeVar

import strawberry
from strawberry.relay import PageInfo
from strawberry.scalars import JSON
from strawberry.types import get_object_definition

from gqlnotify import Topic

T = TypeVar("T")


def documented(cls: type[T]) -> type[T]:
    """Show the docstrings of a Strawberry type and of its resolvers to clients."""
    definition = get_object_definition(cls, strict=True)
    definition.description = getdoc(cls)
    for field in definition.fields:
        if field.base_resolver is not None:
            field.description = getdoc(field.base_resolver.wrapped_func)
    return cls


@strawberry.enum(description="The progress of a task.")
class TaskStatus(StrEnum):
    """The progress of a task."""

    TODO = "TODO"
    IN_PROGRESS = "IN_PROGRESS"
    DONE = "DONE"


@strawberry.enum(description="What happened to a task.")
class TaskEventKind(StrEnum):
    """What happened to a task."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"


@documented
@strawberry.type
class Task:
    """Something to do. All times are in UTC."""

    id: strawberry.ID
    title: str
    description: str
    status: TaskStatus
    assignee: str | None
    created_by: str = strawberry.field(description="The subject whose token created it.")
    created_at: datetime
    updated_at: datetime
    version: int = strawberry.field(
        description="1 when the task is created, and 1 more after each update."
    )


@documented
@strawberry.type
class TaskEvent:
    """One committed change of a task."""

    kind: TaskEventKind
    task: Task = strawberry.field(
        description="The task after the change, or the last state of a deleted task."
    )
    actor: str = strawberry.field(description="The subject whose token made the change.")
    at: datetime


@documented
@strawberry.type
class TaskChange:
    """What has become of one task of a live list."""

    id: strawberry.ID
    task: Task | None = strawberry.field(
        description="The task after the change; null if it does not belong to the list any more."
    )


@documented
@strawberry.type
class LiveTasks:
    """Either all tasks of a live list, or one change."""

    snapshot: list[Task] | None = None
    change: TaskChange | None = None


TASKS = Topic("tasks", TaskEvent)


@documented
@strawberry.type
class TaskEdge:
    """A task and its position in the list."""

    cursor: str
    node: Task


@documented
@strawberry.type
class TaskConnection:
    """A page of tasks, in the order of their creation."""

    edges: list[TaskEdge]
    page_info: PageInfo
    event_cursor: str = strawberry.field(
        description="Pass it to taskEvents as after, to get all changes since this list."
    )


@documented
@strawberry.type
class Viewer:
    """The subject of the token, and when the token expires."""

    subject: str
    expires_at: datetime | None


@documented
@strawberry.type
class Notification:
    """A published notification."""

    topic: str
    payload: JSON
    author: str | None
    published_at: datetime
    cursor: str = strawberry.field(description="Its position in the topic, for after.")


@dataclass(frozen=True)
class Notice:
    """A notification in its topic. The name and the cursor are not in it: the event has them."""

    payload: Any
    author: str | None
    published_at: datetime

    def notification(self, topic: str, cursor: str) -> Notification:
        """Return the notification that clients get."""
        return Notification(
            topic=topic,
            payload=JSON(self.payload),
            author=self.author,
            published_at=self.published_at,
            cursor=cursor,
        )


@documented
@strawberry.input
class CreateTaskInput:
    """The fields of a new task."""

    title: str = strawberry.field(description="1 to 200 characters.")
    description: str = strawberry.field(default="", description="At most 10 000 characters.")
    assignee: str | None = strawberry.field(
        default=strawberry.UNSET, description="1 to 200 characters."
    )


@documented
@strawberry.input
class UpdateTaskInput:
    """Changes to a task. Omitted fields keep their values."""

    title: str | None = strawberry.field(
        default=strawberry.UNSET, description="1 to 200 characters."
    )
    description: str | None = strawberry.field(
        default=strawberry.UNSET, description="At most 10 000 characters."
    )
    status: TaskStatus | None = strawberry.UNSET
    assignee: str | None = strawberry.field(
        default=strawberry.UNSET, description="1 to 200 characters; null removes the assignee."
    )
    expected_version: int | None = strawberry.field(
        default=strawberry.UNSET,
        description="If the task has another version, the update is refused with CONFLICT.",
    )


def given(value: T | None) -> T | None:
    """Return an optional argument, or None if the client has omitted it."""
    return None if value is strawberry.UNSET else value
