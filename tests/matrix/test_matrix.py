"""The short form of `make clients`, and what docs/clients.md says."""

import re
from pathlib import Path

import pytest

from tests.matrix.clients import CLIENTS_OF_THE_TABLE, PROGRAMS
from tests.matrix.page import PAGE, with_programs
from tests.matrix.run import Plan, run


@pytest.mark.processes
def test_graphql_ws_loses_nothing_when_its_connection_is_cut(tmp_path: Path) -> None:
    programs = {"unchanged": "graphql-ws.mjs", "by hand": "graphql-ws-by-hand.mjs"}
    paths = {way: [PROGRAMS / file] for way, file in programs.items()}

    counted = run(paths, Plan(cuts=2, outage=0, restarts=0), logs=tmp_path)

    for tally in counted.values():
        assert tally.events > 10
        assert tally.cuts == 3
        assert tally.lost_nothing, tally
    assert counted["by hand"].total.repeated == 0


def test_the_page_shows_the_programs_that_run() -> None:
    page = PAGE.read_text()

    assert with_programs(page) == page


def test_the_page_has_a_section_and_the_programs_of_every_client() -> None:
    page = PAGE.read_text()
    shown = set(re.findall(r"<!-- ([\w.-]+) -->\n```", page))

    for client in CLIENTS_OF_THE_TABLE:
        assert f"## {client.name}\n" in page
        assert {program.name for _, program in client.programs} <= shown
