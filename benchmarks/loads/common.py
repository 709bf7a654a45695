"""What several loads do."""

from benchmarks.harness import Session
from benchmarks.loads.scale import Scale

PUBLISHERS = 32
"""How many WebSockets publish, so that none of them reaches a limit on operations or messages."""
IN_FLIGHT = 50
FIRST = 10
"""How many connections come and go first: what a server sets up once is not a connection's."""


def warm(s: Session, scale: Scale) -> None:
    """Let the server deliver for a while, which is not measured."""
    s.load.ask("rounds", 100_000, 1, 1, int(scale.warm * 1000))


def cpu_per_delivery(s: Session, scale: Scale, *, events: int = 1, window: int = 1) -> float:
    """Return microseconds: a mutation publishes so many `events`, and `window` are on the way."""
    [spent], answer = s.spent("rounds", 100_000, events, window, scale.milliseconds)
    return spent / float(answer["received"])


def connect_many(s: Session, scale: Scale) -> tuple[float, float]:
    """Return microseconds and bytes for each connection."""
    s.enter_room()
    s.connect(FIRST)
    s.load.ask("close")
    s.calm()
    before = s.process.memory()
    [spent] = s.spent_until_calm("connect", scale.many, 32)
    kept = s.process.memory() - before
    s.hear_one()
    return spent / scale.many, kept / scale.many
