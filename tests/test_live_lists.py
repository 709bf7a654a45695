"""The code of the page about live lists runs, and its clients have what the server has."""

import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from gqlnotify.testing import connect
from tests.servers import ROOT

PAGE = ROOT / "docs" / "live-lists.md"


@pytest.fixture
def page() -> Iterator[Any]:
    """The resolver of the page, as a module."""
    module = ModuleType("live_lists")
    sys.modules[module.__name__] = module
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    exec(compile(code, str(PAGE), "exec"), vars(module))
    yield module
    del sys.modules[module.__name__]


async def test_a_client_that_folds_as_the_page_says_has_the_list(page: Any) -> None:
    (document,) = re.findall(r"^```graphql\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    put = "mutation ($id: ID!, $title: String!) { putTask(id: $id, title: $title) { id } }"
    rows: dict[str, Any] = {}
    async with connect(page.app) as client:
        await client.execute(put, {"id": "1", "title": "wash"})
        stream = await client.subscribe(document)
        first = (await stream.next()).data["tasks"]
        rows = {row["id"]: row for row in first["snapshot"]}
        await client.execute(put, {"id": "2", "title": "dry"})
        await client.execute('mutation { deleteTask(id: "1") }')
        for result in await stream.take(2):
            change = result.data["tasks"]["change"]
            rows[change["key"]] = change["task"]

    assert rows == {"1": None, "2": {"id": "2", "title": "dry"}}
