"""The queries: reading tasks, rooms and private messages. They require a valid token."""

import strawberry

from gqlnotify import current_principal
from schema import commands
from schema.chat import commands as chat
from schema.chat.room import Room
from schema.chat.types import PrivateMessages
from schema.checks import check_storable
from schema.context import Info
from schema.types import (
    Task,
    TaskConnection,
    TaskStatus,
    Viewer,
    documented,
    given,
)


@documented
@strawberry.type
class Query:
    """Tasks, rooms, and the viewer."""

    @strawberry.field
    async def task(self, info: Info, id: strawberry.ID) -> Task | None:  # noqa: A002
        """One task, or null if no task has this id."""
        # Raises without a valid token, even if the router is once configured to require none.
        current_principal()
        return await info.context.store.get(check_storable("id", id))

    @strawberry.field
    async def tasks(
        self,
        info: Info,
        first: int = 50,
        after: str | None = strawberry.UNSET,
        status: TaskStatus | None = strawberry.UNSET,
        assignee: str | None = strawberry.UNSET,
    ) -> TaskConnection:
        """Tasks in the order of their creation, at most 200 per page."""
        return await commands.list_tasks(
            info.context,
            first=first,
            after=given(after),
            status=given(status),
            assignee=given(assignee),
        )

    @strawberry.field
    async def room(self, info: Info, room: str) -> Room:
        """A room. Requires the right to subscribe to `rooms.<room>`."""
        return Room(name=room, event_cursor=await chat.enter(info.context, room))

    @strawberry.field
    async def private_messages(
        self, info: Info, last: int = 50, before: strawberry.ID | None = strawberry.UNSET
    ) -> PrivateMessages:
        """The newest private messages of the viewer, oldest first, at most 200.

        With before, the newest ones before that message.
        """
        return await chat.private_messages(info.context, last=last, before=given(before))

    @strawberry.field
    def me(self) -> Viewer:
        """The subject of the token, and when the token expires."""
        principal = current_principal()
        return Viewer(subject=principal.subject, expires_at=principal.expires_at)
