"""Each subscriber has variables of its own: there is nothing to share."""

from benchmarks.harness import Cores, session
from benchmarks.loads.common import cpu_per_delivery, warm
from benchmarks.loads.scale import Figures, Scale
from benchmarks.subjects import Subject


def measure(subject: Subject, cores: Cores, scale: Scale) -> Figures:
    """Return CPU per delivery."""
    with session(subject, cores) as s:
        s.enter_room(different=True)
        s.connect(scale.many)
        warm(s, scale)
        return {"different": cpu_per_delivery(s, scale)}
