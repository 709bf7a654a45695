"""From figures to RESULTS.md, its plot and the raw figures."""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.method import MEASURED, OPENING, REPEAT
from benchmarks.plot import Bar, bars
from benchmarks.scenarios import BURST, MISSED
from benchmarks.servers import GRAPHQL_WS, LIMIT, SERVERS, STRAWBERRY

Cell = Callable[["Figures", str], str]


@dataclass(frozen=True)
class Figures:
    """What each run found: server by server, figure by figure."""

    runs: Sequence[Mapping[str, Mapping[str, float]]]

    def of(self, server: str, name: str) -> list[float]:
        """Return the figure from each run that has it."""
        found = (run.get(server, {}).get(name) for run in self.runs)
        return [value for value in found if value is not None]

    def ratios(self, above: str, below: str, name: str) -> list[float]:
        """Return a figure of one server over that of another, within each run."""
        pairs = ((run.get(above, {}).get(name), run.get(below, {}).get(name)) for run in self.runs)
        return [a / b for a, b in pairs if a is not None and b]

    @property
    def servers(self) -> list[tuple[str, str]]:
        """The names and titles of those that were measured."""
        return [(s.name, s.title) for s in SERVERS if any(run.get(s.name) for run in self.runs)]


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
        "per_second": f"{scale['per_second']:g}",
        "rated": scale["rated"],
        "seconds": f"{scale['seconds']:g}",
    }
    parts = [
        OPENING.format(**told),
        f"![CPU per delivery, by server]({plot})",
        *_tables(figures, scale, many),
        *_missing(results),
        MEASURED.format(**told),
        REPEAT,
        "## The machine",
        _rows(["", ""], ([name, text] for name, text in results["machine"].items())),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _tables(figures: Figures, scale: Mapping[str, Any], many: str) -> list[str]:
    single = f"single/{scale['many']}"
    sizes = {f"{size:,}": _figure(f"single/{size}") for size in scale["sizes"]}
    return [
        "## CPU per delivered event, in microseconds",
        _table(
            figures,
            sizes
            | {f"{many}, bursts of {BURST}": _figure("burst")}
            | {f"{many}, different variables": _figure("different")},
        ),
        f"## The same as ratios, at {many} subscribers",
        _table(
            figures,
            {
                "cheaper than Strawberry": _cheaper(STRAWBERRY, single),
                "than graphql-ws": _cheaper(GRAPHQL_WS, single),
                "of the limit": _dearer(LIMIT, single),
                "bursts: than Strawberry": _cheaper(STRAWBERRY, "burst"),
                "than graphql-ws ": _cheaper(GRAPHQL_WS, "burst"),
                "of the limit ": _dearer(LIMIT, "burst"),
                "different variables: than Strawberry": _cheaper(STRAWBERRY, "different"),
            },
        ),
        f"## Speed, at {many} subscribers",
        _table(
            figures,
            {
                "deliveries per second": _figure("throughput", digits=0),
                "delay p50, ms": _figure("p50"),
                "delay p99, ms": _figure("p99"),
                "kept up with the rate": _kept_up,
                "bytes per delivery": _figure("bytes", digits=0),
            },
        ),
        "## Connections",
        _table(
            figures,
            {
                "memory of one, kB": _figure("memory", scale=1 / 1000),
                "CPU to connect and subscribe, ms": _figure("connect", scale=1 / 1000),
                "with a token, ms": _figure("connect_token", scale=1 / 1000),
                "CPU of one `publish`, ms": _figure("publish", scale=1 / 1000),
            },
        ),
        f"## {many} clients come back, each after {MISSED} missed events",
        _table(
            figures,
            {
                "executions": _figure("executions", digits=0),
                "CPU per replayed event, us": _figure("replay"),
                "with `subscribe`, us": _figure("replay_with_subscribe"),
            },
        ),
    ]


def _missing(results: Mapping[str, Any]) -> list[str]:
    titles = {server.name: server.title for server in SERVERS}
    lines = [f"- {titles[name]}: {why}" for name, why in results["not_run"].items()]
    lines += [f"- {what} failed: {why}" for what, why in results["failed"].items()]
    return ["## Not run", "\n".join(lines) or "Nothing: all servers were measured."]


def _table(figures: Figures, columns: Mapping[str, Cell]) -> str:
    lines = []
    for name, title in figures.servers:
        cells = [cell(figures, name) for cell in columns.values()]
        if any(cells):
            lines.append([title, *cells])
    return _rows(["", *columns], lines) if lines else "Not measured."


def _rows(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:" if len(head) > 2 else "---"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *lines])


def _figure(name: str, *, scale: float = 1, digits: int | None = None) -> Cell:
    def cell(figures: Figures, server: str) -> str:
        return _spread([value * scale for value in figures.of(server, name)], digits)

    return cell


def _cheaper(than: str, name: str) -> Cell:
    def cell(figures: Figures, server: str) -> str:
        return _spread(figures.ratios(than, server, name)) if server != than else ""

    return cell


def _dearer(than: str, name: str) -> Cell:
    def cell(figures: Figures, server: str) -> str:
        return _spread(figures.ratios(server, than, name)) if server != than else ""

    return cell


def _kept_up(figures: Figures, server: str) -> str:
    found = figures.of(server, "kept_up")
    return "" if not found else "yes" if all(found) else f"no, in {found.count(0)} runs"


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
        for name, title in figures.servers
    ]
    return bars(
        f"CPU per delivered event at {many:,} subscribers, in microseconds (log scale)",
        ("one event at a time", f"bursts of {BURST}"),
        [bar for bar in found if bar.first and bar.second],
    )
