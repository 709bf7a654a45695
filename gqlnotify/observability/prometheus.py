"""Prometheus' metrics, or no-op metrics if its client is not installed."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gqlnotify.extras import MissingExtra, needs

__all__ = ["DIRECTORY", "Counter", "Gauge", "Histogram", "exposition"]

# The folder in which processes share their counts. prometheus_client reads it once, when it is
# imported.
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


class Nothing:
    """A metric that does nothing, in place of each kind."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def labels(self, *_: object) -> "Nothing":
        """Return a no-op metric for any labels."""
        return self

    def inc(self, amount: float = 1) -> None:
        """Do nothing."""

    def set(self, value: float) -> None:
        """Do nothing."""

    def observe(self, amount: float) -> None:
        """Do nothing."""


if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    installed = True
else:
    try:
        with needs("metrics", "/metrics"):
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    except MissingExtra:
        installed = False
        Counter = Gauge = Histogram = Nothing
    else:
        installed = True

if installed and DIRECTORY in os.environ:
    # The first metric opens a file in this folder.
    Path(os.environ[DIRECTORY]).mkdir(parents=True, exist_ok=True)


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
