import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.schema.client import Client, operation, token

pytestmark = pytest.mark.processes


async def refused(client: Client, name: str, variables: dict[str, Any], argument: str) -> None:
    error = await client.error(name, variables)
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"].startswith(f"{argument}: ")


async def test_a_created_task_is_what_was_asked_for(client: Client) -> None:
    before = datetime.now(UTC)
    task = await client.create("write", description="a test", assignee="bob")
    assert task == {
        "id": task["id"],
        "title": "write",
        "description": "a test",
        "status": "TODO",
        "assignee": "bob",
        "createdBy": "alice",
        "createdAt": task["createdAt"],
        "updatedAt": task["createdAt"],
        "version": 1,
    }
    created = datetime.fromisoformat(task["createdAt"])
    assert created.utcoffset() == timedelta()
    assert before <= created <= datetime.now(UTC)
    assert await client.data("task", {"id": task["id"]}) == task


async def test_a_task_needs_a_title_only(client: Client) -> None:
    task = await client.create("alone")
    assert (task["description"], task["assignee"]) == ("", None)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("title", ""),
        ("title", "x" * 201),
        ("title", "nul \0"),
        ("title", "half \udc00"),
        ("description", "x" * 10_001),
        ("description", "nul \0"),
        ("assignee", ""),
        ("assignee", "x" * 201),
        ("assignee", "half \ud800"),
    ],
)
async def test_text_out_of_bounds_is_refused_by_create_and_update(
    client: Client, argument: str, text: str
) -> None:
    await refused(client, "createTask", {"input": {"title": "fine", argument: text}}, argument)
    task = await client.create()
    await refused(client, "updateTask", {"id": task["id"], "input": {argument: text}}, argument)
    assert await client.data("task", {"id": task["id"]}) == task


async def test_text_at_its_bounds_is_kept_to_the_letter(client: Client) -> None:
    bounds = {"title": "\U0001f600" * 200, "description": "\x01" * 10_000, "assignee": "é" * 200}
    task = await client.create(**bounds)
    assert {name: task[name] for name in bounds} == bounds
    assert await client.data("task", {"id": task["id"]}) == task


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "new"},
        {"description": "new"},
        {"description": ""},
        {"status": "IN_PROGRESS"},
        {"assignee": "carol"},
        {"assignee": None},
        {"title": "new", "status": "DONE", "expectedVersion": 1},
        {"title": "new", "expectedVersion": None},
    ],
)
async def test_an_update_changes_what_is_given_and_nothing_else(
    client: Client, changes: dict[str, Any]
) -> None:
    task = await client.create("old", description="old", assignee="bob")
    updated = await client.update(task["id"], **changes)
    changes.pop("expectedVersion", None)
    assert updated == {**task, **changes, "version": 2, "updatedAt": updated["updatedAt"]}
    assert datetime.fromisoformat(updated["updatedAt"]) > datetime.fromisoformat(task["updatedAt"])
    assert await client.data("task", {"id": task["id"]}) == updated


@pytest.mark.parametrize("argument", ["title", "description", "status"])
async def test_an_update_to_null_is_refused(client: Client, argument: str) -> None:
    task = await client.create()
    await refused(client, "updateTask", {"id": task["id"], "input": {argument: None}}, argument)


@pytest.mark.parametrize("changes", [{}, {"expectedVersion": 1}])
async def test_an_update_of_nothing_is_refused(client: Client, changes: dict[str, Any]) -> None:
    task = await client.create()
    await refused(client, "updateTask", {"id": task["id"], "input": changes}, "input")


async def test_a_wrong_expected_version_is_a_conflict_that_says_the_current_one(
    client: Client,
) -> None:
    task = await client.create("old")
    await client.update(task["id"], title="newer")
    variables = {"id": task["id"], "input": {"title": "late", "expectedVersion": 1}}
    error = await client.error("updateTask", variables)
    assert error["extensions"] == {"code": "CONFLICT", "currentVersion": 2}
    assert (await client.data("task", {"id": task["id"]}))["title"] == "newer"


async def test_of_many_updates_of_one_version_one_wins(client: Client) -> None:
    task = await client.create()
    changes = [{"title": f"writer {number}", "expectedVersion": 1} for number in range(20)]
    results = await asyncio.gather(
        *(
            client.post(operation("updateTask"), {"id": task["id"], "input": each})
            for each in changes
        )
    )
    winners = [result["data"]["updateTask"] for result in results if "errors" not in result]
    losers = [result["errors"][0]["extensions"] for result in results if "errors" in result]
    assert losers == [{"code": "CONFLICT", "currentVersion": 2}] * 19
    assert winners == [await client.data("task", {"id": task["id"]})]


async def test_a_deleted_task_is_returned_as_it_was_and_gone(client: Client) -> None:
    task = await client.create()
    assert await client.data("deleteTask", {"id": task["id"]}) == task
    assert await client.data("task", {"id": task["id"]}) is None


@pytest.mark.parametrize("name", ["updateTask", "deleteTask"])
async def test_an_unknown_task_can_not_be_changed(client: Client, name: str) -> None:
    error = await client.error(name, {"id": "unknown", "input": {"title": "x"}})
    assert error["extensions"]["code"] == "NOT_FOUND"


@pytest.mark.parametrize("name", ["updateTask", "deleteTask"])
@pytest.mark.parametrize("text", ["a\0b", "a\udfffb"])
async def test_an_id_that_no_database_holds_is_refused(
    client: Client, name: str, text: str
) -> None:
    await refused(client, name, {"id": text, "input": {"title": "x"}}, "id")


@pytest.mark.parametrize("publish", [(), ("chat", "tasks.*")])
async def test_nothing_is_written_without_the_right_to_publish_tasks(
    client: Client, publish: tuple[str, ...]
) -> None:
    task = await client.create()
    reader = token("bob", publish=publish)
    variables = {"id": task["id"], "input": {"title": "stolen"}}
    for name in ("createTask", "updateTask", "deleteTask"):
        error = await client.error(name, variables, bearer=reader)
        assert error["extensions"]["code"] == "FORBIDDEN"
    [edge] = (await client.data("tasks"))["edges"]
    assert edge["node"] == task


async def test_a_subject_that_no_database_holds_can_not_write(client: Client) -> None:
    error = await client.error("createTask", {"input": {"title": "x"}}, bearer=token("nul \0"))
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"].startswith("sub: ")


async def test_unicode_is_no_obstacle(client: Client) -> None:
    title = "Ärger' OR 1=1; -- \N{SNOWMAN} \U0001f468\u200d\U0001f469"
    task = await client.create(title)
    assert (await client.data("task", {"id": task["id"]}))["title"] == title
