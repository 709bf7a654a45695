"""What clients see, and the topic that carries it."""

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


@strawberry.enum(description="How far a task is.")
class TaskStatus(StrEnum):
    """How far a task is."""

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
    """Something to do. Times are aware, in UTC."""

    id: strawberry.ID
    title: str
    description: str
    status: TaskStatus
    assignee: str | None
    created_by: str = strawberry.field(description="The subject whose token created it.")
    created_at: datetime
    updated_at: datetime
    version: int = strawberry.field(description="1 when created, one more with each update.")


@documented
@strawberry.type
class TaskEvent:
    """One committed change of a task."""

    kind: TaskEventKind
    task: Task = strawberry.field(
        description="The task after the change; a deleted one as it was before."
    )
    actor: str = strawberry.field(description="The subject whose token made the change.")
    at: datetime


TASKS = Topic("tasks", TaskEvent)


@documented
@strawberry.type
class TaskEdge:
    """A task and its place in the list."""

    cursor: str
    node: Task


@documented
@strawberry.type
class TaskConnection:
    """A page of tasks, in the order of their creation."""

    edges: list[TaskEdge]
    page_info: PageInfo
    event_cursor: str = strawberry.field(
        description="Read before the list: taskEvents after it misses no later change."
    )


@documented
@strawberry.type
class Viewer:
    """Whom the token speaks for."""

    subject: str
    expires_at: datetime | None


@documented
@strawberry.type
class Notification:
    """Something that was published."""

    topic: str
    payload: JSON
    author: str | None
    published_at: datetime
    cursor: str = strawberry.field(description="Where it stands in its topic.")


@dataclass(frozen=True)
class Notice:
    """A notification as its topic carries it: the broker knows the rest."""

    payload: Any
    author: str | None
    published_at: datetime

    def notification(self, topic: str, cursor: str) -> Notification:
        """Return what a client sees of this notice."""
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
    """A new task."""

    title: str = strawberry.field(description="1 to 200 characters.")
    description: str = strawberry.field(default="", description="At most 10 000 characters.")
    assignee: str | None = strawberry.field(
        default=strawberry.UNSET, description="1 to 200 characters."
    )


@documented
@strawberry.input
class UpdateTaskInput:
    """Changes to a task: what is not given stays as it is."""

    title: str | None = strawberry.field(
        default=strawberry.UNSET, description="1 to 200 characters."
    )
    description: str | None = strawberry.field(
        default=strawberry.UNSET, description="At most 10 000 characters."
    )
    status: TaskStatus | None = strawberry.UNSET
    assignee: str | None = strawberry.field(
        default=strawberry.UNSET, description="1 to 200 characters; null unassigns."
    )
    expected_version: int | None = strawberry.field(
        default=strawberry.UNSET, description="A CONFLICT where the task has another version."
    )


def given(value: T | None) -> T | None:
    """Return an optional argument, None where the client left it out."""
    return None if value is strawberry.UNSET else value
