"""The generated parts of docs/clients.md: the table, and the programs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from tests.matrix.clients import CLIENTS_OF_THE_TABLE, PROGRAMS, Client
from tests.matrix.followers import Tally
from tests.matrix.run import PHASES, Plan
from tests.servers import ROOT

PAGE = ROOT / "docs" / "clients.md"

_TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of the table -->)", re.DOTALL)
_PROGRAM = re.compile(r"(<!-- ([\w.-]+) -->\n```\w+\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
_UNKNOWN = "not run"


def with_programs(page: str) -> str:
    """Return the page with the text of every program that it names."""
    return _PROGRAM.sub(lambda found: found[1] + (PROGRAMS / found[2]).read_text(), page)


def with_table(page: str, table: str) -> str:
    """Return the page with this table."""
    return _TABLE.sub(lambda _: table, page)


def table(counted: Mapping[str, Tally], plan: Plan, *, today: date) -> str:
    """Return the table: a row for each client, then what happened when to the unchanged ones."""
    events = max((tally.events for tally in counted.values()), default=0)
    measured = (
        f"Measured on {today.isoformat()}. Each program got {plan.cuts} cuts, an outage of"
        f" {plan.outage:g} s, {plan.restarts} deploys and {plan.restarts} kills of its server,"
        f" and up to {events} events."
    )
    ran = [c for c in CLIENTS_OF_THE_TABLE if any(p.name in counted for _, p in c.programs)]
    summary = ["client", "version", "works", "unchanged", "with the helper", "by hand"]
    phases = ["unchanged, lost / repeated", *PHASES]
    parts = [
        measured,
        _markdown([summary, *(_summary(c, counted) for c in ran)]),
        _markdown([phases, *(_phases(c, counted) for c in ran)]),
    ]
    return "\n{}\n\n".format("\n\n".join(parts))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others))


def _summary(client: Client, counted: Mapping[str, Tally]) -> list[str]:
    tallies = {way: counted.get(program.name) for way, program in client.programs}
    unchanged = tallies["unchanged"]
    works = _UNKNOWN if unchanged is None else "yes" if unchanged.events else "no"
    by_hand = _effect(tallies.get("by hand"))
    if client.by_hand:
        by_hand = f"+{client.lines_by_hand} lines: {by_hand}"
    cells = [works, _effect(unchanged), _effect(tallies.get("helper")), by_hand]
    return [f"[{client.name}](#{client.anchor})", client.version, *cells]


def _effect(tally: Tally | None) -> str:
    if tally is None:
        return ""
    return "; ".join(_effects(tally))


def _effects(tally: Tally) -> Iterator[str]:
    total = tally.total
    yield f"{total.lost} lost"
    marks = f", {tally.unmarked} of them not marked" if tally.unmarked else ", all marked"
    yield f"{total.repeated} repeated" + (marks if total.repeated else "")
    for number, what in (
        (total.reordered, "reordered"),
        (tally.refused, "errors"),
        (tally.stopped, "stopped"),
    ):
        if number:
            yield f"{number} {what}"


def _phases(client: Client, counted: Mapping[str, Tally]) -> list[str]:
    tally = counted.get(client.unchanged)
    if tally is None:
        return [client.name, *[""] * len(PHASES)]
    found = [tally.phases.get(phase) for phase in range(len(PHASES))]
    return [client.name, *(f"{c.lost} / {c.repeated}" if c else "" for c in found)]
