"""The subscriptions: changes of tasks, notifications, and messages."""

from collections.abc import AsyncIterator
from functools import partial

import strawberry

from gqlnotify import errors
from schema.chat.commands import room_of
from schema.chat.people import people_update
from schema.chat.types import Message, PeopleUpdate, PrivateMessage, inbox_topic
from schema.checks import check_storable
from schema.commands import notices, subject
from schema.context import Info
from schema.live_tasks import belongs, live_tasks, load_tasks
from schema.types import (
    TASKS,
    LiveTasks,
    Notification,
    TaskEvent,
    TaskEventKind,
    TaskStatus,
    documented,
    given,
)


@documented
@strawberry.type
class Subscription:
    """Changes of tasks, notifications, and messages."""

    @strawberry.subscription
    def task_events(
        self,
        info: Info,
        task_id: strawberry.ID | None = strawberry.UNSET,
        kinds: list[TaskEventKind] | None = strawberry.UNSET,
        after: str | None = strawberry.UNSET,
    ) -> AsyncIterator[TaskEvent]:
        """Changes of all tasks, or of one task.

        Requires the right to subscribe to `tasks`, or to `tasks.<taskId>` for one task.
        """
        task, listed = given(task_id), given(kinds)
        if listed == []:
            raise errors.BadUserInput("kinds: must contain at least one kind, or be omitted")
        # An immutable set: filters that capture equal immutable values are equal, so subscriptions
        # with the same kinds share one execution.
        chosen = None if listed is None else frozenset(listed)

        def wanted(change: TaskEvent) -> bool:
            return task in {None, change.task.id} and (chosen is None or change.kind in chosen)

        return info.context.topics.subscribe(
            TASKS,
            after=given(after),
            where=wanted,
            view=None if task is None else f"{TASKS.name}.{task}",
        )

    @strawberry.subscription
    def live_tasks(
        self,
        info: Info,
        status: TaskStatus | None = strawberry.UNSET,
        assignee: str | None = strawberry.UNSET,
        after: str | None = strawberry.UNSET,
    ) -> AsyncIterator[LiveTasks]:
        """All tasks, at most 1000, and then each change. After a gap, all tasks again.

        Requires the right to subscribe to `tasks`.
        """
        wanted_status, wanted_assignee = given(status), given(assignee)
        if wanted_assignee is not None:
            check_storable("assignee", wanted_assignee)
        stream = info.context.topics.live(
            TASKS,
            load=partial(load_tasks, info.context.store, wanted_status, wanted_assignee),
            key=lambda change: change.task.id,
            where=lambda change: belongs(change, wanted_status, wanted_assignee),
            after=given(after),
        )
        return stream.map(live_tasks)

    @strawberry.subscription
    def notifications(
        self, info: Info, topic: str, after: str | None = strawberry.UNSET
    ) -> AsyncIterator[Notification]:
        """Notifications of a topic. Requires the right to subscribe to it."""
        stream = info.context.topics.subscribe(notices(topic), after=given(after))
        return stream.map(lambda notice, event: notice.notification(topic, event.cursor))

    @strawberry.subscription
    def messages(
        self, info: Info, room: str, after: str | None = strawberry.UNSET
    ) -> AsyncIterator[Message]:
        """Messages of a room. Requires the right to subscribe to `rooms.<room>`."""
        return info.context.topics.subscribe(room_of(room), after=given(after))

    @strawberry.subscription
    def people(
        self, info: Info, room: str, after: str | None = strawberry.UNSET
    ) -> AsyncIterator[PeopleUpdate]:
        """Who is in a room: first everybody, then each change.

        If changes were missed, everybody again. A person is in a room while they follow its
        messages. Requires the right to the presence of `rooms.<room>`.
        """
        stream = info.context.topics.presence(room_of(room), after=given(after))
        return stream.map(people_update)

    @strawberry.subscription
    def inbox(
        self, info: Info, after: str | None = strawberry.UNSET
    ) -> AsyncIterator[PrivateMessage]:
        """Private messages that the viewer sends and receives. No one else can get them."""
        return info.context.topics.subscribe(inbox_topic(subject()), after=given(after))
