"""The documentation agrees with the code."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client import REGISTRY

import schema.app  # The task service has metrics of its own.
import schema.errors
from gqlnotify import Settings, errors
from schema.settings import TaskSettings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "gqlnotify"
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in DOCS.rglob("*.md"))]


def test_the_first_code_of_the_readme_is_the_example_that_is_tested() -> None:
    readme = (ROOT / "README.md").read_text()
    example = (ROOT / "examples" / "minimal.py").read_text()

    first = re.search(r"```python\n(.*?)```", readme, re.DOTALL)

    assert first is not None
    assert example.endswith(first[1])


def test_every_setting_is_documented_with_its_default() -> None:
    library, _, service = (DOCS / "settings.md").read_text().partition("## The task service")

    for name, field in TaskSettings.model_fields.items():
        default = "unset" if field.default is None else f"`{field.default}`"
        table = library if name in Settings.model_fields else service
        assert f"| `GQLNOTIFY_{name.upper()}` | {default} | {field.description} |" in table


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/settings.md"])
def test_every_setting_that_a_page_names_exists(page: str) -> None:
    # A name with an asterisk stands for several settings.
    names = re.findall(r"GQLNOTIFY_([A-Z_]*[A-Z])\b(?!_?\*)", (ROOT / page).read_text())

    assert {name.lower() for name in names} <= set(TaskSettings.model_fields)


def test_every_limit_in_the_table_is_a_setting_with_its_default_and_a_code_that_exists() -> None:
    _, _, section = (DOCS / "settings.md").read_text().partition("## Limits")
    rows = re.findall(r"^\| (`.*?`) \| (`.*?`) \| .* \| (.*) \|$", section, re.MULTILINE)
    codes = {error.code for error in _subclasses(errors.NotifyError)}

    assert len(rows) >= 20
    for names, defaults, answer in rows:
        fields = [Settings.model_fields[name.strip("`")] for name in names.split(", ")]
        assert defaults == ", ".join(f"`{field.default}`" for field in fields)
        assert set(re.findall(r"`([A-Z_]{5,})`", answer)) <= codes


@pytest.mark.parametrize(
    ("defined_by", "heading"),
    [(errors, "## Error codes"), (schema.errors, "### Error codes of the task service")],
)
def test_every_error_code_is_documented_and_every_documented_code_exists(
    defined_by: ModuleType, heading: str
) -> None:
    page = (DOCS / "protocol.md").read_text()
    section = re.split("^##", page.partition(f"{heading}\n")[2], flags=re.MULTILINE)[0]
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", section, re.MULTILINE))
    classes = [errors.NotifyError, *_subclasses(errors.NotifyError)]

    assert documented == {e.code for e in classes if e.__module__ == defined_by.__name__}


def test_every_error_code_says_what_a_client_should_do() -> None:
    page = (DOCS / "protocol.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| *(.*?) *\|$", page, re.MULTILINE)

    assert [code for code, meaning, action in rows if not (meaning and action)] == []


def test_every_close_code_is_documented() -> None:
    page = (DOCS / "protocol.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d{4}) \|", page, re.MULTILINE)}
    ours = {error.code for error in _subclasses(errors.ConnectionClosed)}

    assert ours | {4401, 4403, 4406, 4500} == documented


def test_every_promise_names_a_test_that_exists() -> None:
    page = (DOCS / "guarantees.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)

    assert len(named) >= 8
    for file, test in named:
        assert re.search(rf"def {test}\b", (ROOT / file).read_text()), f"{file}::{test}"


def test_the_map_names_every_file_and_no_other() -> None:
    page = (DOCS / "architecture.md").read_text()
    files = [f for end in ("py", "lua") for f in PACKAGE.rglob(f"*.{end}")]

    named = [file for row in _rows_of_the_map(page) for file in row]

    assert len(named) == len(set(named))
    assert set(named) == {str(f.relative_to(PACKAGE)) for f in files if f.name != "__init__.py"}


def test_every_metric_is_documented_and_every_documented_metric_exists() -> None:
    page = (DOCS / "operations.md").read_text()
    documented = set(re.findall(r"^\| `(gqlnotify_\w+)` \|", page, re.MULTILINE))
    exposed = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in REGISTRY.collect()
        if metric.name.startswith("gqlnotify_")
    }

    assert documented == exposed


@pytest.mark.parametrize("page", PAGES)
def test_links_between_the_pages_lead_somewhere(page: str) -> None:
    file = ROOT / page

    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", file.read_text()):
        found = file.parent / target if target else file
        assert found.exists(), target
        if anchor:
            assert anchor in _anchors_of(found), f"{target}#{anchor}"


def _anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _rows_of_the_map(page: str) -> Iterator[list[str]]:
    """Yield the files of each row: a row of a folder names them in its second column."""
    folder = ""
    for line in page.partition("## Decisions")[0].splitlines():
        if head := re.match(r"\| file of `(\w+/)`", line):
            folder = head[1]
        elif row := re.match(r"\| `([\w/]+/)` \| (.*)", line):
            yield [row[1] + name for name in re.findall(r"`(\w+\.(?:py|lua))`", row[2])]
        elif row := re.match(r"\| (`\w+\.py`.*?) \|", line):
            yield [folder + name for name in re.findall(r"`(\w+\.py)`", row[1])]


def _subclasses(cls: Any) -> list[Any]:
    return [s for direct in cls.__subclasses__() for s in (direct, *_subclasses(direct))]
