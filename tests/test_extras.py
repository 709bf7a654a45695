"""What works without the extras, and that everything imported is declared."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from gqlnotify.extras import MODULES, MissingExtra, needs

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# The parts that may need an extra; all others work without.
PARTS = {
    "server": ("server/", "cli/", "http_server.py"),
    "metrics": ("observability/prometheus.py",),
    "otel": ("observability/tracing.py",),
    "client": ("client.py",),
    "outbox": ("outbox/",),
    "testing": ("testing/", "pytest_plugin.py"),
}

BARE = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set().union(*MODULES.values()) - {"opentelemetry"}}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
# FastAPI needs OpenTelemetry's API itself, so it is missing only while gqlnotify looks for it.
sys.modules["opentelemetry"] = None
from gqlnotify.observability import tracing
del sys.modules["opentelemetry"]
assert tracing._tracer is None
"""
ROUTER = """
import asyncio
import httpx
import strawberry
from fastapi import FastAPI
from gqlnotify import GraphQLRouter, Settings, Topic, TopicManager, metrics

topics = TopicManager(settings=Settings())
NUMBERS = Topic("numbers", int)

@strawberry.type
class Query:
    @strawberry.field
    async def cursor(self) -> str:
        return str(await topics.publish(NUMBERS, 1))

app = FastAPI()
app.include_router(GraphQLRouter(strawberry.Schema(Query), topics=topics), prefix="/graphql")
app.add_route("/metrics", metrics.endpoint)

async def main():
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        answer = await client.post("/graphql", json={"query": "{ cursor }"})
        assert answer.json()["data"]["cursor"], answer.text
        answer = await client.get("/metrics")
        print(answer.status_code, answer.text)

asyncio.run(main())
"""


def run_without_extras(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BARE + code], check=False, capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.processes
def test_a_router_works_without_extras_and_metrics_name_what_to_install() -> None:
    done = run_without_extras(ROUTER)

    assert done.stderr == ""
    assert done.stdout.strip() == '501 /metrics needs an extra: pip install "gqlnotify[metrics]"'


@pytest.mark.processes
@pytest.mark.parametrize(
    ("module", "part", "extra"),
    [
        ("gqlnotify.server", "gqlnotify.server", "server"),
        ("gqlnotify.http_server", "gqlnotify.server", "server"),
        ("gqlnotify.client", "gqlnotify.client", "client"),
        ("gqlnotify.outbox", "gqlnotify.outbox", "outbox"),
    ],
)
def test_a_part_names_what_to_install(module: str, part: str, extra: str) -> None:
    done = run_without_extras(f"import {module}")

    expected = f'MissingExtra: {part} needs an extra: pip install "gqlnotify[{extra}]"'
    assert done.stderr.strip().endswith(expected)


@pytest.mark.processes
def test_the_command_line_names_what_to_install() -> None:
    done = run_without_extras("from gqlnotify.__main__ import main; main()")

    expected = 'gqlnotify: The command line needs an extra: pip install "gqlnotify[server]"\n'
    assert (done.returncode, done.stderr) == (1, expected)


def test_an_import_error_of_our_own_is_not_reported_as_a_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError) as raised, needs("server", "This"):
        raise ModuleNotFoundError("No module named 'gqlnotify.oops'", name="gqlnotify.oops")
    assert not isinstance(raised.value, MissingExtra)


def test_every_import_is_declared_and_extras_are_imported_only_where_needed() -> None:
    distributions = packages_distributions()
    core = declared(PROJECT["dependencies"])
    extras = {extra: declared(EXTRAS[extra]) for extra in PARTS}
    for file in sorted((ROOT / "gqlnotify").rglob("*.py")):
        place = file.relative_to(ROOT / "gqlnotify").as_posix()
        known = core.union(*(extras[e] for e, parts in PARTS.items() if place.startswith(parts)))
        for module in imported_roots(file) - sys.stdlib_module_names - {"gqlnotify"}:
            names = {normal(name) for name in distributions[module]}
            assert names & known, f"{place} imports {module}"


def test_the_extras_contain_the_modules_that_the_code_imports() -> None:
    distributions = packages_distributions()
    for extra, modules in MODULES.items():
        for module in modules:
            assert {normal(n) for n in distributions[module]} & declared(EXTRAS[extra]), module
    assert declared(EXTRAS["all"]) == {"gqlnotify"}
    # What only tests need has no place in production.
    in_all = [extra for extra in MODULES if extra != "testing"]
    assert EXTRAS["all"] == [f"gqlnotify[{','.join(in_all)}]"]


def declared(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=; ]", each)[0]) for each in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_roots(file: Path) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            roots.add(node.module.partition(".")[0])
    return roots


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds() -> None:
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    oldest = {pin.replace("==", ">=").removesuffix(".0") for pin in pins}
    bounds = {
        re.sub(r"\[.*\]", "", each).partition(",")[0]
        for each in [*PROJECT["dependencies"], *EXTRAS["server"]]
    }

    assert len(oldest) == 5
    assert oldest <= bounds
