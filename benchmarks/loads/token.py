"""The same with tokens that are checked: a connection without a good one must be refused."""

from benchmarks import tokens
from benchmarks.harness import Cores, Failed, Session, load_client, session
from benchmarks.loads.common import connect_many
from benchmarks.loads.scale import Figures, Scale
from benchmarks.subjects import Subject


def measure(subject: Subject, cores: Cores, scale: Scale) -> Figures:
    """Return CPU and memory of a connection."""
    if not subject.checks_tokens:
        return {}
    with session(subject, cores, check_tokens=True) as s:
        _refuses_a_bad_token(s, cores)
        spent, kept = connect_many(s, scale)
        return {"connect_token": spent, "memory_token": kept}


def _refuses_a_bad_token(s: Session, cores: Cores) -> None:
    with load_client(s.process.port, cores) as load:
        stranger = Session(s.subject, s.processes, load, tokens.bad())
        stranger.enter_room()
        try:
            load.ask("connect", 1, 1)
        except Failed:
            return
    raise Failed("it lets in who has no good token")
