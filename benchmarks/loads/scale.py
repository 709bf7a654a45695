"""How many clients, how long, and what each load returns."""

from dataclasses import dataclass

Figures = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How many clients, and how long.

    Attributes:
        sizes: how many subscribers there are one after the other.
        many: how many there are in all other loads.
        seconds: how long a measurement may begin new rounds.
        warm: how long a server is warmed up before it.
        per_second: the slow rate, of `rated` events.
        rates: how many events a second are published in the open loop, one after the other.
        open_seconds: for how long, each.
        patience: seconds until the open loop gives up.
        comebacks: how often all clients come back.
        members: how many subscribers a fan-out has whose longest stretch is measured.
        stretches: how many events are fanned out for it.
        storm: how many clients come back at once.
        stay: how many were connected all along.
    """

    sizes: tuple[int, ...] = (1, 100, 1000, 5000)
    many: int = 1000
    seconds: float = 0.4
    warm: float = 0.2
    per_second: float = 2.0
    rated: int = 5
    rates: tuple[int, ...] = (50, 200, 500)
    open_seconds: float = 4.0
    patience: float = 10.0
    comebacks: int = 3
    members: int = 5000
    stretches: int = 10
    storm: int = 5000
    stay: int = 100

    @property
    def milliseconds(self) -> int:
        """How long a measurement may begin new rounds."""
        return int(self.seconds * 1000)


FULL = Scale()
QUICK = Scale(
    sizes=(1, 1000), rated=4, open_seconds=1.0, patience=5.0, members=2000, stretches=5, storm=1000
)
TINY = Scale(
    sizes=(1, 4),
    many=4,
    seconds=0.05,
    warm=0.02,
    per_second=50.0,
    rated=3,
    rates=(100,),
    open_seconds=0.1,
    patience=5.0,
    comebacks=1,
    members=4,
    stretches=2,
    storm=4,
    stay=2,
)
