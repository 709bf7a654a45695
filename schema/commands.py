"""What clients may do, over GraphQL, REST and WebSocket: checks the arguments and the rights."""

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from strawberry.relay import PageInfo, from_base64, to_base64

from gqlnotify import Topic, authorize, current_principal, errors
from schema.checks import MAX_DESCRIPTION, check_page, check_payload, check_storable, check_text
from schema.context import Context
from schema.store import TaskPage
from schema.types import (
    TASKS,
    Notice,
    Notification,
    Task,
    TaskConnection,
    TaskEdge,
    TaskStatus,
)

OWN_TOPICS = {"tasks", "rooms", "inbox"}
"""The first segments of the topics that the task service alone publishes to."""

_CURSOR_PREFIX = "task"
_LAST_POSITION = 2**63 - 1


async def create_task(
    context: Context, *, title: str, description: str, assignee: str | None
) -> Task:
    """Create a task. Requires the right to publish to `tasks`."""
    actor = await task_writer()
    return await context.store.create(
        title=check_text("title", title),
        description=check_description(description),
        assignee=check_assignee(assignee),
        actor=actor,
    )


async def list_tasks(
    context: Context,
    *,
    first: int,
    after: str | None,
    status: TaskStatus | None,
    assignee: str | None,
) -> TaskConnection:
    """Return a page of tasks. Requires a token."""
    current_principal()
    check_page("first", first)
    # Before the list is read: the event of every change that the list misses is then after this
    # cursor. The other way round, a change in between would be in neither.
    event_cursor = await context.topics.cursor(TASKS)
    page = await context.store.list(
        first=first,
        after=0 if after is None else _position(after),
        status=status,
        assignee=None if assignee is None else check_storable("assignee", assignee),
    )
    return _connection(page, event_cursor)


async def publish_notice(
    context: Context, topic: str, payload: Any, *, event_id: str | None = None
) -> Notification:
    """Publish JSON to a topic of notifications. Requires the right to publish to it."""
    actor = subject()
    notice = Notice(check_payload(payload), actor, datetime.now(UTC))
    cursor = await context.topics.publish(
        notices(topic),
        notice,
        event_id=None if event_id is None else scoped_id(event_id, actor),
    )
    return notice.notification(topic, cursor)


def notices(topic: str) -> Topic[Notice]:
    """Return the topic of notifications with this name.

    Raises:
        Forbidden: the topic is one of the task service's own.
        BadUserInput: it is not a valid name of a topic.
    """
    # A client that could publish here would send events of changes that never happened.
    if topic.partition(".")[0] in OWN_TOPICS:
        raise errors.Forbidden(
            "topic: those that begin with tasks, rooms or inbox belong to the task service"
        )
    return Topic(topic, Notice)


async def task_writer() -> str:
    """Return the subject that may change tasks.

    Raises:
        Forbidden: the token has no right to publish to `tasks`.
    """
    await authorize("publish", TASKS.name)
    return subject()


def check_description(text: str) -> str:
    """Return a description if it can be stored."""
    return check_text("description", text, least=0, most=MAX_DESCRIPTION)


def check_assignee(name: str | None) -> str | None:
    """Return an assignee, or None, if it can be stored."""
    return None if name is None else check_text("assignee", name)


def subject() -> str:
    """Return the subject of the token, if it can be stored."""
    return check_storable("sub", current_principal().subject)


def scoped_id(event_id: str, *scope: str) -> str:
    """Return an id that differs from every id of another scope, and is short.

    Raises:
        BadUserInput: `event_id` does not have 1 to 200 characters, or can't be stored.
    """
    check_text("eventId", event_id)
    # The publisher is a scope: else one could block the event of another by using its id first.
    # With the lengths in front, no two scopes give the same text. The hash makes it short enough
    # for any subject.
    text = "".join(f"{len(each)}:{each}:" for each in scope) + event_id
    return sha256(text.encode()).hexdigest()


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
