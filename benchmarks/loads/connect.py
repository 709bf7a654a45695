"""Connect, connection_init and subscribe, and what is then kept of it in memory."""

from benchmarks.harness import Cores, session
from benchmarks.loads.common import connect_many
from benchmarks.loads.scale import Figures, Scale
from benchmarks.subjects import Subject


def measure(subject: Subject, cores: Cores, scale: Scale) -> Figures:
    """Return CPU and memory of a connection: without a token if that is possible."""
    with session(subject, cores) as s:
        spent, kept = connect_many(s, scale)
        return {"connect": spent, "memory": kept}
