"""The code of the page about live lists runs, and its clients have what the server has."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from gqlnotify.testing import connect
from tests.redis_servers import Link
from tests.servers import ROOT, node, patience, running

PAGE = ROOT / "docs" / "live-lists.md"


def code_in(language: str) -> str:
    """Return the first block of the page in this language."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return str(blocks[0])


@pytest.fixture
def page() -> Iterator[Any]:
    """The resolver of the page, as a module."""
    module = ModuleType("live_lists")
    sys.modules[module.__name__] = module
    exec(compile(code_in("python"), str(PAGE), "exec"), vars(module))
    yield module
    del sys.modules[module.__name__]


async def test_a_client_that_folds_as_the_page_says_has_the_list(page: Any) -> None:
    put = "mutation ($id: ID!, $title: String!) { putTask(id: $id, title: $title) { id } }"
    rows: dict[str, Any] = {}
    async with connect(page.app) as client:
        await client.execute(put, {"id": "1", "title": "wash"})
        stream = await client.subscribe(code_in("graphql"))
        first = (await stream.next()).data["tasks"]
        rows = {row["id"]: row for row in first["snapshot"]}
        await client.execute(put, {"id": "2", "title": "dry"})
        await client.execute('mutation { deleteTask(id: "1") }')
        for result in await stream.take(2):
            change = result.data["tasks"]["change"]
            rows[change["key"]] = change["task"]

    assert rows == {"1": None, "2": {"id": "2", "title": "dry"}}


@pytest.mark.processes
async def test_the_javascript_of_the_page_has_the_list_after_a_cut_too(page: Any) -> None:
    async with running(page.app) as origin:
        with Link(int(origin.rpartition(":")[2])) as link:
            url = f"ws://127.0.0.1:{link.port}/graphql"
            code, query = code_in("js"), code_in("graphql")
            with node("fold.mjs", url=url, code=code, query=query) as client:
                await shows(client, [])
                await put(page, "1", "wash")
                await shows(client, [{"id": "1", "title": "wash"}])
                link.cut()
                await put(page, "1", "dry")
                await shows(client, [{"id": "1", "title": "dry"}])
                await delete(page, "1")
                await shows(client, [])


async def put(page: Any, id_: str, title: str) -> None:
    page.rows[id_] = page.Task(id=id_, title=title)
    await page.topics.publish(page.TASKS, page.TaskEvent(task=page.rows[id_]))


async def delete(page: Any, id_: str) -> None:
    await page.topics.publish(page.TASKS, page.TaskEvent(task=page.rows.pop(id_), deleted=True))


async def shows(client: Any, rows: list[dict[str, str]]) -> None:
    """Wait until the client shows these rows."""
    async with patience():
        while json.loads(await asyncio.to_thread(client.stdout.readline)) != rows:
            pass
