"""The queries: reading tasks. They require a valid token, and no rights."""

import strawberry

from gqlnotify import current_principal
from schema import commands
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

_CURSOR_PREFIX = "task"
_LAST_POSITION = 2**63 - 1


@documented
@strawberry.type
class Query:
    """Tasks, and the viewer."""

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
    def me(self) -> Viewer:
        """The subject of the token, and when the token expires."""
        principal = current_principal()
        return Viewer(subject=principal.subject, expires_at=principal.expires_at)
