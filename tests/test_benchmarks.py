"""Each load of the benchmark runs, with a few clients, and the report shows all that it finds."""

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.harness import Cores, raise_limits
from benchmarks.loads import LOADS
from benchmarks.loads.scale import TINY
from benchmarks.report import sections, write
from benchmarks.subjects import SUBJECTS, NotRun, compiled

pytestmark = pytest.mark.processes

# The limit starts at once. The others are for the loads that it can't take.
SUBJECT_OF = {
    "deliver": "limit",
    "in_flight": "limit",
    "open_loop": "limit",
    "stretch": "limit",
    "different": "limit",
    "connect": "limit",
    "token": "tasks",
    "comeback": "bare",
    "across": "bare-redis",
    "storm": "bare-redis",
    "storm_unchanged": "tasks-redis",
}
COLUMNS = [column for columns in sections(asdict(TINY)).values() for column in columns.values()]


@pytest.fixture(autouse=True, scope="module")
def tools() -> None:
    try:
        compiled("load")
        compiled("limit")
        raise_limits()
    except NotRun as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("load", LOADS)
def test_each_load_measures_a_subject(load: str) -> None:
    subject = next(each for each in SUBJECTS if each.name == SUBJECT_OF[load])
    figures = LOADS[load](subject, Cores.of_this_machine(), TINY)
    assert figures
    assert figures.keys() <= {column.figure for column in COLUMNS}


def test_the_report_shows_each_figure_and_its_ratios(tmp_path: Path) -> None:
    tasks = {column.figure: 3.0 for column in COLUMNS}
    limit = {column.figure: 2.0 for column in COLUMNS}
    results = {
        "machine": {"CPU": "a fast one"},
        "scale": asdict(TINY),
        "runs": [{"tasks": tasks, "limit": limit}],
        "not_run": {"yoga": "node is not installed"},
        "failed": {},
    }
    write(tmp_path / "RESULTS.md", results)
    report = (tmp_path / "RESULTS.md").read_text()
    assert "| the task service, memory | **3.00** |" in report
    assert "| the task service, memory | - / - / 1.50 |" in report
    assert "| one event at a time, of the limit | **1.50** |" in report
    assert "GraphQL Yoga (Node): node is not installed" in report
    assert "Not measured" not in report
