"""The live list of tasks: all that a client needs, in one subscription."""

from strawberry import ID

from gqlnotify import Change, Event, Snapshot, errors
from schema.store import TaskStore
from schema.types import LiveTasks, Task, TaskChange, TaskEvent, TaskEventKind, TaskStatus

MOST_TASKS = 1000


async def load_tasks(
    store: TaskStore, status: TaskStatus | None, assignee: str | None
) -> list[Task]:
    """Return all tasks of a list.

    Raises:
        BadUserInput: there are more than a client can show.
    """
    page = await store.list(first=MOST_TASKS, status=status, assignee=assignee)
    if page.has_next:
        raise errors.BadUserInput(
            f"A live list has at most {MOST_TASKS} tasks: ask for one status or assignee"
        )
    return [task for _, task in page.items]


def belongs(change: TaskEvent, status: TaskStatus | None, assignee: str | None) -> bool:
    """Return whether a task belongs to a list after a change."""
    task = change.task
    return (
        change.kind is not TaskEventKind.DELETED
        and status in {None, task.status}
        and assignee in {None, task.assignee}
    )


def live_tasks(each: Snapshot[Task] | Change[TaskEvent], _event: Event) -> LiveTasks:
    """Return what a client gets."""
    if isinstance(each, Snapshot):
        return LiveTasks(snapshot=each.items)
    task = None if each.value is None else each.value.task
    return LiveTasks(change=TaskChange(id=ID(str(each.key)), task=task))
