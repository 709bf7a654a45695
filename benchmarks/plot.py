"""A bar chart on a logarithmic scale, as SVG."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

_LEFT, _RIGHT, _TOP, _ROW, _BAR, _WIDTH = 270, 70, 74, 44, 15, 900
_COLOURS = ("#1f6feb", "#9ec5fe")
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}"
    ".tick{fill:#59636e}.grid{stroke:#d1d9e0}.span{stroke:#1f2328}"
)


@dataclass(frozen=True)
class Bar:
    """Two figures of one server, as all runs found them."""

    title: str
    first: Sequence[float]
    second: Sequence[float]


@dataclass(frozen=True)
class _Scale:
    low: int
    high: int

    def x(self, value: float) -> float:
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return round(_LEFT + part * (_WIDTH - _LEFT - _RIGHT), 1)


def bars(title: str, legend: tuple[str, str], rows: Sequence[Bar]) -> str:
    """Return the chart: medians as bars, with a line from the least to the greatest."""
    values = [value for row in rows for value in (*row.first, *row.second)] or [1, 10]
    low = math.floor(math.log10(min(values)))
    scale = _Scale(low, max(low + 1, math.ceil(math.log10(max(values)))))
    height = _TOP + len(rows) * _ROW + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
        *_legend(legend),
        *_grid(scale, height - 30),
        *(line for at, row in enumerate(rows) for line in _row(row, scale, _TOP + at * _ROW)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _legend(texts: tuple[str, str]) -> Iterator[str]:
    for place, (text, colour) in enumerate(zip(texts, _COLOURS, strict=True)):
        x = _LEFT + place * 200
        yield f'<rect x="{x}" y="42" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{x + 18}" y="53">{escape(text)}</text>'


def _grid(scale: _Scale, bottom: int) -> Iterator[str]:
    for power in range(scale.low, scale.high + 1):
        x, y = scale.x(10**power), bottom + 18
        yield f'<line class="grid" x1="{x}" y1="{_TOP - 8}" x2="{x}" y2="{bottom}"/>'
        yield f'<text class="tick" x="{x}" y="{y}" text-anchor="middle">{10**power:g}</text>'


def _row(row: Bar, scale: _Scale, y: int) -> Iterator[str]:
    yield f'<text x="{_LEFT - 12}" y="{y + _BAR + 5}" text-anchor="end">{escape(row.title)}</text>'
    for place, (values, colour) in enumerate(zip((row.first, row.second), _COLOURS, strict=True)):
        yield from _bar(values, colour, scale, y + place * (_BAR + 1))


def _bar(values: Sequence[float], colour: str, scale: _Scale, y: int) -> Iterator[str]:
    median, middle = statistics.median(values), y + _BAR / 2
    least, most = scale.x(min(values)), scale.x(max(values))
    width = round(scale.x(median) - _LEFT, 1)
    yield f'<rect x="{_LEFT}" y="{y}" width="{width}" height="{_BAR}" fill="{colour}"/>'
    yield f'<line class="span" x1="{least}" y1="{middle}" x2="{most}" y2="{middle}"/>'
    yield f'<text x="{most + 6}" y="{y + _BAR - 3}">{median:.3g}</text>'
