"""How long the event loop does nothing else while it fans an event out to many."""

from benchmarks.harness import Cores, session
from benchmarks.loads.common import warm
from benchmarks.loads.scale import Figures, Scale
from benchmarks.subjects import Subject


def measure(subject: Subject, cores: Cores, scale: Scale) -> Figures:
    """Return the longest stretch in milliseconds, by the clock and in processor time."""
    if not subject.tells_stretch:
        return {}
    with session(subject, cores) as s:
        s.enter_room()
        s.connect(scale.members)
        warm(s, scale)
        s.calm()
        s.process.get("/longest-stretch")
        s.load.ask("rounds", scale.stretches, 1, 1, 60_000)
        told = s.process.get("/longest-stretch")
        return {"stretch": told["ms"], "stretch_cpu": told["cpuMs"]}
