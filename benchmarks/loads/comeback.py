"""All clients lose their connections, miss some events and come back with their cursors."""

from benchmarks.harness import MISSED, Cores, Session, session
from benchmarks.loads.scale import Figures, Scale
from benchmarks.subjects import Subject


def measure(subject: Subject, cores: Cores, scale: Scale) -> Figures:
    """Return CPU per replayed event, and how often an event was executed."""
    if not subject.resumes:
        return {}
    with session(subject, cores, environment={"BENCH_COUNT": "1"}) as s:
        s.enter_room(resume=True)
        s.connect(scale.many)
        _come_back(s, scale, missed=0)
        before, spent, nothing_missed = _executions(s), 0.0, 0.0
        for _ in range(scale.comebacks):
            nothing_missed += _come_back(s, scale, missed=0)
            spent += _come_back(s, scale, missed=MISSED)
        events = scale.comebacks * scale.many * MISSED
        found = {
            "replay": (spent - nothing_missed) / events,
            "replay_with_subscribe": spent / events,
        }
        if subject.counts_executions:
            found["executions"] = (_executions(s) - before) / scale.comebacks
        return found


def _come_back(s: Session, scale: Scale, *, missed: int) -> float:
    """Return the microseconds of CPU from the first `subscribe` to the last missed event."""
    s.load.ask("drop")
    s.calm()
    if missed:
        s.load.ask("post", missed)
    s.load.ask("join", scale.many, 32)
    s.calm()
    before = s.process.cpu()
    s.load.ask("ask")
    s.load.ask("wait", missed)
    s.calm()
    return (s.process.cpu() - before) / 1000


def _executions(s: Session) -> float:
    if not s.subject.counts_executions:
        return 0.0
    return float(s.process.get("/graphql?query={executions}")["data"]["executions"])
