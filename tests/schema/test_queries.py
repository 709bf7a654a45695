from base64 import b64encode
from datetime import datetime
from typing import Any

import pytest

from tests.schema.client import Client, token

pytestmark = pytest.mark.processes


async def pages(client: Client, **variables: Any) -> list[dict[str, Any]]:
    """Follow the cursors from the first page to the last."""
    found = [await client.data("tasks", variables)]
    while found[-1]["pageInfo"]["hasNextPage"]:
        after = found[-1]["pageInfo"]["endCursor"]
        found.append(await client.data("tasks", {**variables, "after": after}))
    return found


def titles(page: dict[str, Any]) -> list[str]:
    return [edge["node"]["title"] for edge in page["edges"]]


async def test_pages_give_every_task_once_in_the_order_of_creation(client: Client) -> None:
    names = [f"task {number}" for number in range(7)]
    for name in names:
        await client.create(name)
    found = await pages(client, first=3)
    assert [titles(page) for page in found] == [names[:3], names[3:6], names[6:]]
    assert [page["pageInfo"]["hasPreviousPage"] for page in found] == [False, True, True]
    for page in found:
        assert page["pageInfo"]["startCursor"] == page["edges"][0]["cursor"]
        assert page["pageInfo"]["endCursor"] == page["edges"][-1]["cursor"]


async def test_a_full_last_page_has_no_next_one(client: Client) -> None:
    for number in range(4):
        await client.create(f"task {number}")
    assert [len(page["edges"]) for page in await pages(client, first=2)] == [2, 2]


async def test_a_page_does_not_shift_when_earlier_tasks_are_deleted(client: Client) -> None:
    tasks = [await client.create(f"task {number}") for number in range(4)]
    first = await client.data("tasks", {"first": 2})
    for task in tasks[:2]:
        await client.data("deleteTask", {"id": task["id"]})
    second = await client.data("tasks", {"first": 2, "after": first["pageInfo"]["endCursor"]})
    assert titles(second) == ["task 2", "task 3"]
    assert second["pageInfo"]["hasPreviousPage"] is False


async def test_a_deleted_tasks_cursor_is_never_given_to_another(client: Client) -> None:
    last = await client.create("gone")
    cursor = (await client.data("tasks"))["pageInfo"]["endCursor"]
    await client.data("deleteTask", {"id": last["id"]})
    await client.create("new")
    assert titles(await client.data("tasks", {"after": cursor})) == ["new"]


async def test_a_page_of_none_tells_whether_there_are_any(client: Client) -> None:
    empty = await client.data("tasks", {"first": 0})
    assert empty["edges"] == []
    assert empty["pageInfo"] == {
        "hasNextPage": False,
        "hasPreviousPage": False,
        "startCursor": None,
        "endCursor": None,
    }
    await client.create()
    assert (await client.data("tasks", {"first": 0}))["pageInfo"]["hasNextPage"] is True


async def test_status_and_assignee_filter_the_list_and_its_pages(client: Client) -> None:
    for number in range(4):
        task = await client.create(f"task {number}", assignee="bob" if number % 2 else "carol")
        if number < 2:
            await client.update(task["id"], status="DONE")
    assert [titles(page) for page in await pages(client, first=1, assignee="bob")] == [
        ["task 1"],
        ["task 3"],
    ]
    assert titles(await client.data("tasks", {"status": "DONE"})) == ["task 0", "task 1"]
    both = await client.data("tasks", {"status": "DONE", "assignee": "carol"})
    assert titles(both) == ["task 0"]


async def test_a_filter_of_null_filters_nothing(client: Client) -> None:
    await client.create()
    page = await client.data("tasks", {"status": None, "assignee": None, "after": None})
    assert len(page["edges"]) == 1


@pytest.mark.parametrize("first", [-1, 201])
async def test_a_page_has_0_to_200_tasks(client: Client, first: int) -> None:
    error = await client.error("tasks", {"first": first})
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"] == "first: must be 0 to 200"


async def test_a_page_of_200_is_allowed(client: Client) -> None:
    assert (await client.data("tasks", {"first": 200}))["edges"] == []


@pytest.mark.parametrize(
    "after",
    [
        "",
        "nonsense",
        "ö",
        "\0",
        *(
            b64encode(text.encode()).decode()
            for text in [
                "task:0",
                "task:-1",
                "task:01",
                "task: 1",
                "task:\N{ARABIC-INDIC DIGIT ONE}",
                "task:x",
                "other:1",
            ]
        ),
        b64encode(f"task:{2**63}".encode()).decode(),
        b64encode(b"task:" + b"9" * 5000).decode(),
        b64encode(b"\xff\xfe").decode(),
    ],
)
async def test_a_cursor_that_was_never_given_out_is_refused(client: Client, after: str) -> None:
    error = await client.error("tasks", {"after": after})
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"].startswith("after: ")


async def test_an_unknown_task_is_null(client: Client) -> None:
    assert await client.data("task", {"id": "unknown"}) is None


@pytest.mark.parametrize(("name", "argument"), [("task", "id"), ("tasks", "assignee")])
@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
async def test_text_that_no_database_holds_is_refused(
    client: Client, name: str, argument: str, text: str
) -> None:
    error = await client.error(name, {argument: text})
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"].startswith(f"{argument}: ")


async def test_me_is_whom_the_token_speaks_for(client: Client) -> None:
    me = await client.data("me", bearer=token("zoë"))
    assert me["subject"] == "zoë"
    assert datetime.fromisoformat(me["expiresAt"]).utcoffset() is not None


async def test_reading_needs_no_right_to_any_topic(client: Client) -> None:
    task = await client.create()
    nobody = token("bob", subscribe=(), publish=())
    assert await client.data("task", {"id": task["id"]}, bearer=nobody) == task
    assert len((await client.data("tasks", bearer=nobody))["edges"]) == 1
