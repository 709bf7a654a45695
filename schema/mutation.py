"""The mutations: changing tasks, and publishing notifications."""

from datetime import UTC, datetime
from hashlib import sha256
from typing import TypeVar

import strawberry
from strawberry.scalars import JSON

from gqlnotify import Topic, authorize, current_principal, errors
from schema.checks import MAX_DESCRIPTION, check_payload, check_storable, check_text
from schema.context import Info
from schema.store import TaskChanges
from schema.types import (
    TASKS,
    CreateTaskInput,
    Notice,
    Notification,
    Task,
    UpdateTaskInput,
    documented,
    given,
)

T = TypeVar("T")


@documented
@strawberry.type
class Mutation:
    """Changes to tasks, and notifications to publish."""

    @strawberry.mutation
    async def create_task(self, info: Info, input: CreateTaskInput) -> Task:  # noqa: A002
        """Create a task. Requires the right to publish to `tasks`."""
        actor = await _task_writer()
        task = await info.context.store.create(
            title=check_text("title", input.title),
            description=_description(input.description),
            assignee=_assignee(given(input.assignee)),
            actor=actor,
        )
        info.context.outbox.wake()
        return task

    @strawberry.mutation
    async def update_task(
        self,
        info: Info,
        id: strawberry.ID,  # noqa: A002
        input: UpdateTaskInput,  # noqa: A002
    ) -> Task:
        """Change a task. Requires the right to publish to `tasks`."""
        actor = await _task_writer()
        task = await info.context.store.update(
            check_storable("id", id),
            _changes(input),
            expected_version=given(input.expected_version),
            actor=actor,
        )
        info.context.outbox.wake()
        return task

    @strawberry.mutation
    async def delete_task(self, info: Info, id: strawberry.ID) -> Task:  # noqa: A002
        """Delete a task and return its last state. Requires the right to publish to `tasks`."""
        actor = await _task_writer()
        task = await info.context.store.delete(check_storable("id", id), actor=actor)
        info.context.outbox.wake()
        return task

    @strawberry.mutation
    async def publish(
        self, info: Info, topic: str, payload: JSON, event_id: str | None = strawberry.UNSET
    ) -> Notification:
        """Publish JSON with at most 64 KiB and 100 levels to any topic except `tasks`.

        Publishing again with the same eventId (1 to 200 characters) has no effect. Requires the
        right to publish to the topic.
        """
        actor = _subject()
        notice = Notice(check_payload(payload), actor, datetime.now(UTC))
        repeatable = given(event_id)
        cursor = await info.context.topics.publish(
            notices(topic),
            notice,
            event_id=None if repeatable is None else _event_id(actor, repeatable),
        )
        return notice.notification(topic, cursor)


def notices(topic: str) -> Topic[Notice]:
    """Return the topic of notifications with this name.

    Raises:
        Forbidden: the topic is one of the task service's own.
        BadUserInput: it is not a valid name of a topic.
    """
    # A client that could publish here would send events of changes that never happened.
    if topic == TASKS.name or topic.startswith(f"{TASKS.name}."):
        raise errors.Forbidden("topic: `tasks` and `tasks.*` belong to the task service")
    return Topic(topic, Notice)


async def _task_writer() -> str:
    await authorize("publish", TASKS.name)
    return _subject()


def _subject() -> str:
    return check_storable("sub", current_principal().subject)


def _event_id(publisher: str, event_id: str) -> str:
    check_text("eventId", event_id)
    # Event ids are separate for each publisher: else one could block the event of another by using
    # its id first. With the length in front, no two pairs give the same text. The hash makes it
    # short enough for any subject.
    return sha256(f"{len(publisher)}:{publisher}:{event_id}".encode()).hexdigest()


def _description(text: str) -> str:
    return check_text("description", text, least=0, most=MAX_DESCRIPTION)


def _assignee(name: str | None) -> str | None:
    return None if name is None else check_text("assignee", name)


def _changes(wanted: UpdateTaskInput) -> TaskChanges:
    changes = TaskChanges()
    if wanted.title is not strawberry.UNSET:
        changes["title"] = check_text("title", _not_null("title", wanted.title))
    if wanted.description is not strawberry.UNSET:
        changes["description"] = _description(_not_null("description", wanted.description))
    if wanted.status is not strawberry.UNSET:
        changes["status"] = _not_null("status", wanted.status)
    if wanted.assignee is not strawberry.UNSET:
        changes["assignee"] = _assignee(wanted.assignee)
    if not changes:
        raise errors.BadUserInput("input: must change something")
    return changes


def _not_null(argument: str, value: T | None) -> T:
    if value is None:
        raise errors.BadUserInput(f"{argument}: must not be null")
    return value
