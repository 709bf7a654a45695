"""Clients publish at one process, and subscribers are at another: Redis is in between."""

from benchmarks.harness import Cores, Session, session
from benchmarks.loads.common import IN_FLIGHT, PUBLISHERS, warm
from benchmarks.loads.scale import Figures, Scale
from benchmarks.subjects import Subject


def measure(subject: Subject, cores: Cores, scale: Scale) -> Figures:
    """Return CPU per delivery in the subscribers' process, and per event in the publishers'."""
    if not subject.redis:
        return {}
    with session(subject, cores, processes=2) as s:
        s.enter_room()
        s.publish_over_websockets(PUBLISHERS, s.other)
        s.connect(scale.many)
        warm(s, scale)
        single, _, _ = _rounds(s, scale, window=1)
        flight, publish, throughput = _rounds(s, scale, window=IN_FLIGHT)
        return {
            "across": single,
            "across_flight": flight,
            "across_publish": publish,
            "across_throughput": throughput,
        }


def _rounds(s: Session, scale: Scale, *, window: int) -> tuple[float, float, float]:
    (subscribers, publishers), answer = s.spent("rounds", 100_000, 1, window, scale.milliseconds)
    return (
        subscribers / answer["received"],
        publishers / answer["events"],
        answer["received"] / answer["ns"] * 1e9,
    )
