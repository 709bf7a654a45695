"""The loads: each file has one, which takes a subject and returns figures by their names."""

from collections.abc import Callable

from benchmarks.harness import Cores
from benchmarks.loads import (
    across,
    comeback,
    connect,
    deliver,
    different,
    in_flight,
    open_loop,
    storm,
    stretch,
    token,
)
from benchmarks.loads.scale import Figures, Scale
from benchmarks.subjects import Subject

Load = Callable[[Subject, Cores, Scale], Figures]

LOADS: dict[str, Load] = {
    "deliver": deliver.measure,
    "in_flight": in_flight.measure,
    "across": across.measure,
    "open_loop": open_loop.measure,
    "stretch": stretch.measure,
    "different": different.measure,
    "connect": connect.measure,
    "token": token.measure,
    "comeback": comeback.measure,
    "storm": storm.measure,
    "storm_unchanged": storm.measure_unchanged,
}
