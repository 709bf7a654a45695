"""The mutations: changing tasks, publishing notifications, and the chat."""

from typing import TypeVar

import strawberry
from strawberry.scalars import JSON

from gqlnotify import errors
from schema import commands
from schema.chat import commands as chat
from schema.chat.types import Message, PrivateMessage
from schema.checks import check_storable, check_text
from schema.context import Info
from schema.store import TaskChanges
from schema.types import (
    CreateTaskInput,
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
    """Changes to tasks, notifications to publish, and messages."""

    @strawberry.mutation
    async def create_task(self, info: Info, input: CreateTaskInput) -> Task:  # noqa: A002
        """Create a task. Requires the right to publish to `tasks`."""
        return await commands.create_task(
            info.context,
            title=input.title,
            description=input.description,
            assignee=given(input.assignee),
        )

    @strawberry.mutation
    async def update_task(
        self,
        info: Info,
        id: strawberry.ID,  # noqa: A002
        input: UpdateTaskInput,  # noqa: A002
    ) -> Task:
        """Change a task. Requires the right to publish to `tasks`."""
        actor = await commands.task_writer()
        return await info.context.store.update(
            check_storable("id", id),
            _changes(input),
            expected_version=given(input.expected_version),
            actor=actor,
        )

    @strawberry.mutation
    async def delete_task(self, info: Info, id: strawberry.ID) -> Task:  # noqa: A002
        """Delete a task and return its last state. Requires the right to publish to `tasks`."""
        actor = await commands.task_writer()
        return await info.context.store.delete(check_storable("id", id), actor=actor)

    @strawberry.mutation
    async def publish(
        self, info: Info, topic: str, payload: JSON, event_id: str | None = strawberry.UNSET
    ) -> Notification:
        """Publish JSON with at most 64 KiB and 100 levels to a topic of notifications.

        That is any topic that does not begin with `tasks`, `rooms` or `inbox`.

        Publishing again with the same eventId (1 to 200 characters) has no effect. Requires the
        right to publish to the topic.
        """
        return await commands.publish_notice(info.context, topic, payload, event_id=given(event_id))

    @strawberry.mutation
    async def say(
        self, info: Info, room: str, text: str, event_id: str | None = strawberry.UNSET
    ) -> Message:
        """Send a message, with 1 to 2 000 characters, to a room.

        The name of a room is any text with 1 to 60 characters. Sending again with the same eventId
        has no effect. Requires the right to publish to `rooms.<room>`.
        """
        return await chat.say(info.context, room, text, event_id=given(event_id))

    @strawberry.mutation
    async def set_typing(self, info: Info, room: str, typing: bool) -> bool:
        """Tell the people in a room whether the viewer, who is there too, is typing.

        Returns `typing`. Requires the right to subscribe to `rooms.<room>`.
        """
        await chat.set_typing(info.context, room, typing=typing)
        return typing

    @strawberry.mutation
    async def whisper(
        self, info: Info, to: str, text: str, event_id: str | None = strawberry.UNSET
    ) -> PrivateMessage:
        """Send a message, with 1 to 2 000 characters, that only this subject and the viewer get.

        Sending again with the same eventId has no effect. Requires the right to publish to
        `inbox.<to>`.
        """
        return await chat.whisper(info.context, to, text, event_id=given(event_id))


def _changes(wanted: UpdateTaskInput) -> TaskChanges:
    changes = TaskChanges()
    if wanted.title is not strawberry.UNSET:
        changes["title"] = check_text("title", _not_null("title", wanted.title))
    if wanted.description is not strawberry.UNSET:
        changes["description"] = commands.check_description(
            _not_null("description", wanted.description)
        )
    if wanted.status is not strawberry.UNSET:
        changes["status"] = _not_null("status", wanted.status)
    if wanted.assignee is not strawberry.UNSET:
        changes["assignee"] = commands.check_assignee(wanted.assignee)
    if not changes:
        raise errors.BadUserInput("input: must change something")
    return changes


def _not_null(argument: str, value: T | None) -> T:
    if value is None:
        raise errors.BadUserInput(f"{argument}: must not be null")
    return value
