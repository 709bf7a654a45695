"""Prometheus' metrics, or plain ones of this process if its client is not installed."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gqlnotify.extras import MissingExtra, needs

__all__ = ["DIRECTORY", "Counter", "Gauge", "Histogram", "exposition", "samples"]


class Sample(NamedTuple):
    """One value of a metric in this process: the end of its name, its labels, and the value."""

    kind: str
    labels: tuple[str, ...]
    value: float


# The folder in which processes share their counts. prometheus_client reads it once, when it is
# imported.
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


class Plain:
    """A metric of this process alone, in place of each kind. The console shows it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._value = 0.0
        self._observations = 0
        self._children: dict[tuple[object, ...], Plain] = {}

    def labels(self, *values: object) -> "Plain":
        """Return the metric with these labels."""
        return self._children.setdefault(values, Plain())

    def inc(self, amount: float = 1) -> None:
        """Add `amount`."""
        self._value += amount

    def set(self, value: float) -> None:
        """Replace the value."""
        self._value = value

    def observe(self, amount: float) -> None:
        """Add one observation."""
        self._value += amount
        self._observations += 1

    def samples(self) -> "Iterator[Sample]":
        """Yield the values, under the names that Prometheus' client gives them."""
        yield Sample("_total", (), self._value)
        yield Sample("_sum", (), self._value)
        yield Sample("_count", (), self._observations)
        for labels, child in self._children.items():
            yield Sample("_total", tuple(map(str, labels)), child._value)


if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    installed = True
else:
    try:
        with needs("metrics", "/metrics"):
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    except MissingExtra:
        installed = False
        Counter = Gauge = Histogram = Plain
    else:
        installed = True

if installed and DIRECTORY in os.environ:
    # The first metric opens a file in this folder.
    Path(os.environ[DIRECTORY]).mkdir(parents=True, exist_ok=True)


def samples(metric: "Counter | Histogram") -> Iterator[Sample]:
    """Yield what this process has counted: the total of a counter, or sum and count."""
    if isinstance(metric, Plain):
        yield from metric.samples()
        return
    for family in metric.collect():
        for each in family.samples:
            kind = each.name.removeprefix(family.name)
            yield Sample(kind, tuple(each.labels.values()), each.value)


def exposition(accept: str) -> tuple[bytes, str]:
    """Return all metrics in the format that the header `accept` prefers, and its media type.

    Raises:
        MissingExtra: Prometheus' client is not installed.
    """
    with needs("metrics", "/metrics"):
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415
    encode: Callable[[CollectorRegistry], bytes]
    encode, media_type = choose_encoder(accept)
    return encode(_registry()), media_type


def _registry() -> "CollectorRegistry":
    from prometheus_client import REGISTRY  # noqa: PLC0415
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

    directory = os.environ.get(DIRECTORY)
    if directory is None:
        return REGISTRY
    _forget_the_dead(Path(directory))
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def _forget_the_dead(directory: Path) -> None:
    """Remove the gauges of processes that have ended. Their counters stay."""
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

    for file in directory.glob("gauge_live*_*.db"):
        process = int(file.stem.rpartition("_")[2])
        if not _is_alive(process):
            mark_process_dead(process)  # type: ignore[no-untyped-call]


def _is_alive(process: int) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True
