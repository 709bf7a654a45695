"""The queries: reading tasks. They require a valid token, and no rights."""

import strawberry
from strawberry.relay import PageInfo, from_base64, to_base64

from gqlnotify import current_principal, errors
from schema.checks import check_page, check_storable
from schema.context import Info
from schema.store import TaskPage
from schema.types import (
    TASKS,
    Task,
    TaskConnection,
    TaskEdge,
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
        current_principal()
        check_page(first)
        start, assignee = given(after), given(assignee)
        # Before the list is read: the event of every change that the list misses is then after this
        # cursor. The other way round, a change in between would be in neither.
        event_cursor = await info.context.topics.cursor(TASKS)
        page = await info.context.store.list(
            first=first,
            after=0 if start is None else _position(start),
            status=given(status),
            assignee=None if assignee is None else check_storable("assignee", assignee),
        )
        return _connection(page, event_cursor)

    @strawberry.field
    def me(self) -> Viewer:
        """The subject of the token, and when the token expires."""
        principal = current_principal()
        return Viewer(subject=principal.subject, expires_at=principal.expires_at)


def _connection(page: TaskPage, event_cursor: str) -> TaskConnection:
    edges = [TaskEdge(cursor=_cursor(position), node=task) for position, task in page.items]
    return TaskConnection(
        edges=edges,
        page_info=PageInfo(
            has_next_page=page.has_next,
            has_previous_page=page.has_previous,
            start_cursor=edges[0].cursor if edges else None,
            end_cursor=edges[-1].cursor if edges else None,
        ),
        event_cursor=event_cursor,
    )


def _cursor(position: int) -> str:
    return to_base64(_CURSOR_PREFIX, position)


def _position(cursor: str) -> int:
    try:
        position = int(from_base64(cursor)[1])
    except ValueError:
        position = -1
    # Only exactly what we sent: base64 and int accept several texts for the same number.
    if not 0 < position <= _LAST_POSITION or _cursor(position) != cursor:
        raise errors.BadUserInput("after: must be a cursor from an earlier page of tasks")
    return position
