"""From figures to RESULTS.md, its plot and the raw figures."""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import BURST, MISSED
from benchmarks.loads.common import IN_FLIGHT
from benchmarks.method import MEASURED, OPENING, REPEAT
from benchmarks.plot import Bar, bars
from benchmarks.subjects import GRAPHQL_WS, LIMIT, STRAWBERRY, SUBJECTS

_REFERENCES = (STRAWBERRY, GRAPHQL_WS, LIMIT)


@dataclass(frozen=True)
class Figures:
    """What each run found: subject by subject, figure by figure."""

    runs: Sequence[Mapping[str, Mapping[str, float]]]

    def of(self, subject: str, name: str) -> list[float]:
        """Return the figure from each run that has it."""
        found = (run.get(subject, {}).get(name) for run in self.runs)
        return [value for value in found if value is not None]

    def ratios(self, subject: str, name: str, reference: str, of: str) -> list[float]:
        """Return a figure over one of the reference, within each run."""
        pairs = (
            (run.get(subject, {}).get(name), run.get(reference, {}).get(of)) for run in self.runs
        )
        return [a / b for a, b in pairs if a is not None and b]

    @property
    def subjects(self) -> list[tuple[str, str]]:
        """The names and titles of those that were measured."""
        return [(s.name, s.title) for s in SUBJECTS if any(run.get(s.name) for run in self.runs)]


@dataclass(frozen=True)
class Column:
    """A figure in a table.

    Attributes:
        figure: its name.
        scale: what it is multiplied with.
        digits: how many digits it has after the point; by default as many as make sense.
        answer: it is 1 for yes and 0 for no.
        of: the figure of the references that it is compared with, if not the same one.
    """

    figure: str
    scale: float = 1
    digits: int | None = None
    answer: bool = False
    of: str = ""


Columns = Mapping[str, Column]


def write(out: Path, results: Mapping[str, Any]) -> None:
    """Write the report to `out`, and beside it the plot and the figures that it was made from."""
    figures, many = Figures(results["runs"]), results["scale"]["many"]
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    out.with_suffix(".svg").write_text(_plot(figures, many))
    out.write_text(_text(figures, results, out.with_suffix(".svg").name))


def _text(figures: Figures, results: Mapping[str, Any], plot: str) -> str:
    scale, many = results["scale"], f"{results['scale']['many']:,}"
    told = {
        "many": many,
        "runs": len(results["runs"]),
        "burst": BURST,
        "half": BURST // 2,
        "missed": MISSED,
        "in_flight": IN_FLIGHT,
        "open_seconds": f"{scale['open_seconds']:g}",
        "patience": f"{scale['patience']:g}",
        "members": f"{scale['members']:,}",
        "stretches": scale["stretches"],
        "storm": f"{scale['storm']:,}",
        "stay": f"{scale['stay']:,}",
        "per_second": f"{scale['per_second']:g}",
        "rated": scale["rated"],
        "seconds": f"{scale['seconds']:g}",
    }
    parts = [
        OPENING.format(**told),
        f"![CPU per delivery, by server]({plot})",
        "## At a glance",
        _glance(figures, scale),
        *(
            part
            for title, columns in sections(scale).items()
            for part in _section(figures, title, columns)
        ),
        *_missing(results),
        MEASURED.format(**told),
        REPEAT,
        "## The machine",
        _rows(["", ""], ([name, text] for name, text in results["machine"].items())),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def sections(scale: Mapping[str, Any]) -> dict[str, Columns]:
    """Return the tables: the title of each, and its columns."""
    many = f"{scale['many']:,}"
    return {
        "CPU per delivered event, in microseconds": {
            **{f"{size:,}": Column(f"single/{size}") for size in scale["sizes"]},
            f"{many}, bursts of {BURST}": Column("burst"),
            f"{many}, {IN_FLIGHT} in flight": Column("flight"),
            f"{many}, different variables": Column("different"),
        },
        f"Publishers at another process, through Redis, {many} subscribers": {
            "CPU per delivery, us": Column("across", of=f"single/{scale['many']}"),
            f"{IN_FLIGHT} in flight, us": Column("across_flight", of="flight"),
            "CPU of the publishers' process per event, us": Column("across_publish", of="publish"),
            f"deliveries per second, {IN_FLIGHT} in flight": Column(
                "across_throughput", digits=0, of="flight_throughput"
            ),
        },
        f"Delays in milliseconds, {many} subscribers, events published at a rate": {
            name: column
            for rate in scale["rates"]
            for name, column in {
                f"{rate}/s: p50": Column(f"open/{rate}/p50"),
                f"{rate}/s: p99": Column(f"open/{rate}/p99"),
                f"{rate}/s: kept up": Column(f"open/{rate}/kept_up", answer=True),
            }.items()
        },
        f"Speed, {many} subscribers": {
            f"deliveries per second, two mutations of {BURST // 2}": Column("throughput", digits=0),
            f"{IN_FLIGHT} in flight": Column("flight_throughput", digits=0),
            f"{scale['per_second']:g}/s: delay p50, ms": Column("p50"),
            "p99, ms": Column("p99"),
            "kept up": Column("kept_up", answer=True),
            "bytes per delivery": Column("bytes", digits=0),
        },
        f"The longest stretch of the event loop, {scale['members']:,} subscribers": {
            "by the clock, ms": Column("stretch"),
            "processor time, ms": Column("stretch_cpu"),
        },
        "Connections": {
            "memory, kB": Column("memory", scale=1 / 1000),
            "CPU to connect and subscribe, ms": Column("connect", scale=1 / 1000),
            "with a token: memory, kB": Column("memory_token", scale=1 / 1000, of="memory"),
            "CPU, ms": Column("connect_token", scale=1 / 1000, of="connect"),
            "CPU of one `publish`, ms": Column("publish", scale=1 / 1000),
        },
        f"{many} clients come back, each after {MISSED} missed events": {
            "executions": Column("executions", digits=0),
            "CPU per replayed event, us": Column("replay"),
            "with `subscribe`, us": Column("replay_with_subscribe"),
        },
        f"The storm: {scale['storm']:,} clients come back at once to two processes": {
            "seconds until the last is live": Column("storm_seconds"),
            "CPU of each client, ms": Column("storm_cpu", scale=1 / 1000, of="connect"),
            "delay of those who stayed: p50, ms": Column("storm_stay_p50"),
            "p99, ms": Column("storm_stay_p99"),
            "seconds, clients without cursors": Column("storm_unchanged_seconds"),
            "CPU of each of these, ms": Column("storm_unchanged_cpu", scale=1 / 1000, of="connect"),
            "delay of those who stayed then: p50, ms": Column("storm_unchanged_stay_p50"),
            "p99 then, ms": Column("storm_unchanged_stay_p99"),
        },
    }


def _glance(figures: Figures, scale: Mapping[str, Any]) -> str:
    single, rate = f"single/{scale['many']}", scale["rates"][len(scale["rates"]) // 2]
    ratios = {
        "one event at a time, of the limit": ("tasks", single, LIMIT, single),
        f"{IN_FLIGHT} in flight, of the limit": ("tasks", "flight", LIMIT, "flight"),
        "the same through Redis, of the limit": ("tasks-redis", "across_flight", LIMIT, "flight"),
        "connect with a token, of Strawberry without": (
            "tasks",
            "connect_token",
            STRAWBERRY,
            "connect",
        ),
        "different variables, of Strawberry": ("tasks", "different", STRAWBERRY, "different"),
        "the portable path, of Strawberry": ("tasks-portable", single, STRAWBERRY, single),
    }
    lines = [[what, _spread(figures.ratios(*which))] for what, which in ratios.items()]
    plain = {
        f"{rate} events/s, p99, ms": Column(f"open/{rate}/p99"),
        f"longest stretch at {scale['members']:,} subscribers, ms": Column("stretch"),
        "memory of a connection with a token, kB": Column("memory_token", scale=1 / 1000),
    }
    lines += [[what, _cell(figures, "tasks", column)] for what, column in plain.items()]
    return _rows(["the task service", ""], [line for line in lines if line[1]])


def _section(figures: Figures, title: str, columns: Columns) -> list[str]:
    return [
        f"## {title}",
        _table(figures, columns, _cell),
        "Ratios to Strawberry / graphql-ws / the limit:",
        _table(figures, columns, _ratios),
    ]


def _cell(figures: Figures, subject: str, column: Column) -> str:
    values = figures.of(subject, column.figure)
    if not column.answer:
        return _spread([value * column.scale for value in values], column.digits)
    return "" if not values else "yes" if all(values) else f"no, in {values.count(0)} runs"


def _ratios(figures: Figures, subject: str, column: Column) -> str:
    if column.answer:
        return ""
    found = [
        figures.ratios(subject, column.figure, reference, column.of or column.figure)
        for reference in _REFERENCES
    ]
    return " / ".join(_number(statistics.median(each)) if each else "-" for each in found) * any(
        found
    )


def _missing(results: Mapping[str, Any]) -> list[str]:
    titles = {subject.name: subject.title for subject in SUBJECTS}
    lines = [f"- {titles[name]}: {why}" for name, why in results["not_run"].items()]
    lines += [f"- {what} failed: {why}" for what, why in results["failed"].items()]
    return ["## Not run", "\n".join(lines) or "Nothing: every subject was measured."]


def _table(figures: Figures, columns: Columns, cell: Callable[..., str]) -> str:
    lines = []
    for name, title in figures.subjects:
        cells = [cell(figures, name, column) for column in columns.values()]
        if any(cells):
            lines.append([title, *cells])
    return _rows(["", *columns], lines) if lines else "Not measured."


def _rows(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:" if len(head) > 2 else "---"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *lines])


def _spread(values: Sequence[float], digits: int | None = None) -> str:
    """Return the median and, where there is more than one value, the least and the greatest."""
    if not values:
        return ""
    middle = f"**{_number(statistics.median(values), digits)}**"
    if len(values) == 1:
        return middle
    return f"{middle} ({_number(min(values), digits)} - {_number(max(values), digits)})"


def _number(value: float, digits: int | None = None) -> str:
    if digits is None:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _plot(figures: Figures, many: int) -> str:
    found = [
        Bar(title.replace("`", ""), figures.of(name, f"single/{many}"), figures.of(name, "burst"))
        for name, title in figures.subjects
    ]
    return bars(
        f"CPU per delivered event at {many:,} subscribers, in microseconds (log scale)",
        ("one event at a time", f"bursts of {BURST}"),
        [bar for bar in found if bar.first and bar.second],
    )
