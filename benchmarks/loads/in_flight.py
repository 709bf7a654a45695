"""Mutations over WebSockets, many of which are on the way at any time."""

from benchmarks.harness import Cores, session
from benchmarks.loads.common import IN_FLIGHT, PUBLISHERS, warm
from benchmarks.loads.scale import Figures, Scale
from benchmarks.subjects import Subject


def measure(subject: Subject, cores: Cores, scale: Scale) -> Figures:
    """Return CPU per delivery, and deliveries per second."""
    if not subject.publishes_over_websocket:
        return {}
    with session(subject, cores) as s:
        s.enter_room()
        s.connect(scale.many)
        s.publish_over_websockets(PUBLISHERS)
        warm(s, scale)
        [spent], answer = s.spent("rounds", 100_000, 1, IN_FLIGHT, scale.milliseconds)
        return {
            "flight": spent / answer["received"],
            "flight_throughput": answer["received"] / answer["ns"] * 1e9,
        }
