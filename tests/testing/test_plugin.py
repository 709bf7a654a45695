"""The plugin in a project of its own, with pytest-asyncio and with anyio."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import PATIENCE, ROOT

pytestmark = pytest.mark.processes

OPTIONS = [
    "-v",
    "-W",
    "error",
    "-p",
    "no:cacheprovider",
    "--noconftest",
    "-o",
    "asyncio_mode=strict",
]
_BLOCK = re.compile(r"^```python(?: title=\"([\w.]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LEAKS = ["was destroyed", "never awaited", "never retrieved", "unclosed"]


SHOP = """
from collections.abc import AsyncIterator
import pytest
import strawberry
from fastapi import FastAPI
from gqlnotify import GraphQLRouter, Topic, TopicManager
from gqlnotify.testing import connect

pytestmark = pytest.mark.asyncio
shop_topics = TopicManager()

@strawberry.type
class Order:
    id: strawberry.ID

ORDERS = Topic("orders", Order)

@strawberry.type
class Query:
    hello: str = "world"

@strawberry.type
class Subscription:
    @strawberry.subscription
    async def orders(self) -> AsyncIterator[Order]:
        return shop_topics.subscribe(ORDERS)

shop = FastAPI()
schema = strawberry.Schema(Query, None, Subscription)
shop.include_router(GraphQLRouter(schema, topics=shop_topics), prefix="/graphql")
"""

WITHOUT_A_SECRET = """
import os
import pytest
pytestmark = pytest.mark.asyncio
secret = os.environ.pop("GQLNOTIFY_JWT_SECRET")
{code}
os.environ["GQLNOTIFY_JWT_SECRET"] = secret
"""


def the_page(folder: Path) -> Path:
    """Write the tests of docs/testing.md into a file. `minimal` is an example without tokens."""
    blocks = _BLOCK.findall((ROOT / "docs" / "testing.md").read_text())
    code = "\n".join(code for title, code in blocks if not title)
    (folder / "test_page.py").write_text(SHOP + code)
    for title, code in blocks:
        if title:
            (folder / title).write_text(WITHOUT_A_SECRET.format(code=code))
    return folder


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    editable = "ignore:Module already imported so cannot be rewritten"
    page = the_page(tmp_path_factory.mktemp("page"))
    places = ["-c", "pyproject.toml", "tests/testing/suite.py", str(page)]
    paths = os.pathsep.join([str(page), str(ROOT / "examples")])
    secret = "a secret of 32 bytes for the suite"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, "-W", editable, *places],
        cwd=ROOT,
        env={**os.environ, "GQLNOTIFY_JWT_SECRET": secret, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return run.stdout + run.stderr


def test_a_suite_passes_and_only_the_mistakes_fail(output: str) -> None:
    outcomes = re.findall(r"::(\w+)(?:\[\S+\])? (PASSED|FAILED|ERROR)", output)

    passed = [name for name, outcome in outcomes if outcome == "PASSED" and "_fails" not in name]
    assert len(passed) == 9, output
    wrong = {name for name, outcome in outcomes if outcome != "PASSED"}
    assert len(wrong) == 3, output
    assert all(name.endswith("_fails") for name in wrong), output


def test_the_task_that_is_left_over_is_named(output: str) -> None:
    assert re.search(
        r"LeftOver: The last client has left, and this still runs:\nE +- _pump \(", output
    )
    assert "test_with_a_task_of_its_own_left_fails.<locals>.read_and_wait" in output


def test_an_error_of_the_test_is_shown_and_nothing_else_is_left(output: str) -> None:
    assert "{'hello': 'world'} == {'hello': 'moon'}" in output
    assert not [sign for sign in LEAKS if sign in output], output


def test_the_plugin_imports_nothing_of_the_package_before_a_test_needs_it() -> None:
    program = "import sys, gqlnotify.pytest_plugin; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    ours = [name for name in done.stdout.split() if name.startswith("gqlnotify")]
    assert ours == ["gqlnotify", "gqlnotify.pytest_plugin"]
    assert "strawberry" not in done.stdout
