"""One document, the same variables: one event at a time, bursts, as many as may be, a rate."""

from benchmarks.harness import BURST, Cores, Session, session
from benchmarks.loads.common import cpu_per_delivery, warm
from benchmarks.loads.scale import Figures, Scale
from benchmarks.subjects import Subject


def measure(subject: Subject, cores: Cores, scale: Scale) -> Figures:
    """Return CPU per delivery, deliveries per second, and delays at a slow rate."""
    found: Figures = {}
    with session(subject, cores) as s:
        s.enter_room()
        warm(s, scale)
        [spent], answer = s.spent("rounds", 1000, 1, 1, scale.milliseconds)
        found["publish"] = spent / answer["rounds"]
        connected = 0
        for size in scale.sizes:
            s.connect(size - connected)
            connected = size
            warm(s, scale)
            found[f"single/{size}"] = cpu_per_delivery(s, scale)
            if size == scale.many:
                found |= _bursts(s, scale) | _at_a_rate(s, scale)
    return found


def _bursts(s: Session, scale: Scale) -> Figures:
    per_delivery = cpu_per_delivery(s, scale, events=BURST)
    # Two halves on the way at any time, so that the server never waits for the client.
    answer = s.load.ask("rounds", 100_000, BURST // 2, 2, scale.milliseconds)
    return {
        "burst": per_delivery,
        "throughput": answer["received"] / answer["ns"] * 1e9,
        "bytes": answer["bytes"] / answer["received"],
    }


def _at_a_rate(s: Session, scale: Scale) -> Figures:
    s.calm()
    period = 1 / scale.per_second
    answer = s.load.ask("rate", scale.rated, int(period * 1e6))
    overtime = answer["ns"] / 1e9 - period * (scale.rated - 1)
    kept_up = overtime < period and answer["late_ms"] < period * 100
    return {"p50": answer["p50_ms"], "p99": answer["p99_ms"], "kept_up": float(kept_up)}
