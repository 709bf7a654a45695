"""Clients publish at a rate whatever the server does: how late are the events?"""

from benchmarks.harness import Cores, Session, session
from benchmarks.loads.common import PUBLISHERS, warm
from benchmarks.loads.scale import Figures, Scale
from benchmarks.subjects import Subject

# An event may be as late as that when the last one was due.
_KEPT_UP_MS = 500


def measure(subject: Subject, cores: Cores, scale: Scale) -> Figures:
    """Return the delays at each rate, and whether the server kept up.

    A rate above one that was too high is not measured. It counts as not kept up.
    """
    if not subject.publishes_over_websocket:
        return {}
    found = {f"open/{rate}/kept_up": 0.0 for rate in scale.rates}
    with session(subject, cores) as s:
        s.enter_room()
        s.connect(scale.many)
        s.publish_over_websockets(PUBLISHERS)
        warm(s, scale)
        for rate in scale.rates:
            found |= _at_a_rate(s, scale, rate)
            if not found[f"open/{rate}/kept_up"]:
                break
    return found


def _at_a_rate(s: Session, scale: Scale, rate: int) -> Figures:
    s.calm()
    events, patience = int(rate * scale.open_seconds), int(scale.patience * 1000)
    answer = s.load.ask("open", events, 1_000_000 // rate, patience)
    all_came = answer["received"] == answer["expected"]
    return {
        f"open/{rate}/p50": answer["p50_ms"],
        f"open/{rate}/p99": answer["p99_ms"],
        f"open/{rate}/kept_up": float(all_came and answer["overtime_ms"] < _KEPT_UP_MS),
    }
