"""The live list of tasks equals what `tasks` answers."""

from typing import Any

import pytest

from schema.live_tasks import MOST_TASKS, load_tasks
from schema.store import TaskPage
from tests.schema.client import Client, Stream, token

pytestmark = pytest.mark.processes


async def fold(stream: Stream, wanted: dict[str, Any], tasks: dict[str, Any] | None = None) -> Any:
    """Fold what comes until the list is the wanted one. A snapshot's changes may come again."""
    while tasks != wanted:
        event = await stream.event()
        if event["snapshot"] is not None:
            tasks = {task["id"]: task for task in event["snapshot"]}
        elif event["change"]["task"] is None:
            assert tasks is not None
            tasks.pop(event["change"]["id"], None)
        else:
            assert tasks is not None
            tasks[event["change"]["id"]] = event["change"]["task"]
    return tasks


async def listed(client: Client, **variables: Any) -> dict[str, Any]:
    page = await client.data("tasks", variables)
    return {edge["node"]["id"]: edge["node"] for edge in page["edges"]}


async def test_a_client_has_the_list_without_a_query(client: Client) -> None:
    one = await client.create("one")
    async with client.stream("liveTasks") as stream:
        tasks = await fold(stream, {one["id"]: one})
        await client.update(one["id"], title="first")
        two = await client.create("two")
        await client.data("deleteTask", {"id": one["id"]})

        await fold(stream, {two["id"]: two}, tasks)

    assert await listed(client) == {two["id"]: two}


async def test_a_task_that_leaves_the_filter_is_removed(client: Client) -> None:
    task = await client.create("one", assignee="ann")
    filter_ = {"assignee": "ann", "status": "TODO"}
    async with client.stream("liveTasks", filter_) as stream:
        tasks = await fold(stream, {task["id"]: task})
        await client.update(task["id"], status="DONE")

        await fold(stream, {}, tasks)

    assert await listed(client, **filter_) == {}


async def test_a_client_that_comes_back_with_its_cursor_gets_only_the_changes(
    client: Client,
) -> None:
    async with client.stream("liveTasks") as stream:
        cursor = (await stream.result())["extensions"]["cursor"]
    created = await client.create("missed")
    async with client.stream("liveTasks", {"after": cursor}) as stream:
        assert await stream.event() == {
            "snapshot": None,
            "change": {"id": created["id"], "task": created},
        }


async def test_the_right_to_the_tasks_is_required(client: Client) -> None:
    async with client.stream("liveTasks", bearer=token("bob", subscribe=["news"])) as stream:
        assert (await stream.error())["extensions"]["code"] == "FORBIDDEN"


async def test_a_list_that_is_too_long_is_refused() -> None:
    class LongList:
        async def list(self, *, first: int, **_: object) -> TaskPage:
            assert first == MOST_TASKS
            return TaskPage([], has_next=True, has_previous=False)

    with pytest.raises(Exception, match="at most 1000 tasks"):
        await load_tasks(LongList(), None, None)  # type: ignore[arg-type]
