"""A process restarts, and all its clients come back at once, each after some missed events.

They go to both processes in turn. Others have been at the second one all along, and get events.
"""

import time

from benchmarks.harness import MISSED, Cores, Session, load_client, session
from benchmarks.loads.scale import Figures, Scale
from benchmarks.subjects import Subject

_ROOM = 1
_PER_SECOND = 5
_LONGEST_SECONDS = 600


def measure(subject: Subject, cores: Cores, scale: Scale) -> Figures:
    """Return seconds until the last is live, CPU of each, and the delays of those who stayed."""
    return _storm(subject, cores, scale, name="storm", with_cursors=True)


def measure_unchanged(subject: Subject, cores: Cores, scale: Scale) -> Figures:
    """Return the same for clients that send no cursor: the server knows where they have got to."""
    if not subject.needs_tokens:
        return {}
    return _storm(subject, cores, scale, name="storm_unchanged", with_cursors=False)


def _storm(
    subject: Subject, cores: Cores, scale: Scale, *, name: str, with_cursors: bool
) -> Figures:
    if not (subject.redis and subject.resumes):
        return {}
    with (
        session(subject, cores, processes=2) as s,
        load_client(s.other.port, cores) as load,
    ):
        stay = Session(subject, [s.other], load, s.token_file)
        _connect(s, stay, scale)
        s.load.ask("drop")
        if not with_cursors:
            s.load.ask("forget")
        s.process.restart()
        stay.load.ask("post", MISSED)
        stay.publish_over_websockets(1)
        found = _come_back(s, stay, scale)
        return {f"{name}_{figure}": value for figure, value in found.items()}


def _connect(s: Session, stay: Session, scale: Scale) -> None:
    """Have all connect and hear an event of one publisher: its numbers have no gap."""
    for each in (s, stay):
        each.enter_room(resume=True, number=_ROOM)
    s.load.ask("connect", scale.storm, 32)
    stay.connect(scale.stay)
    s.load.ask("reach", 1)
    s.load.ask("odd", s.other.port)


def _come_back(s: Session, stay: Session, scale: Scale) -> Figures:
    s.calm()
    before, began = [process.cpu() for process in s.processes], time.monotonic()
    stay.load.tell("open", _PER_SECOND * _LONGEST_SECONDS, 1_000_000 // _PER_SECOND, 10_000)
    s.load.ask("connect", scale.storm, scale.storm)
    s.load.ask("reach", MISSED)
    seconds = time.monotonic() - began
    stay.load.tell("stop")
    delays = stay.load.hear("open")
    stay.load.hear("stop")
    spent = [process.cpu() - then for process, then in zip(s.processes, before, strict=True)]
    return {
        "seconds": seconds,
        "cpu": sum(spent) / 1000 / scale.storm,
        "stay_p50": delays["p50_ms"],
        "stay_p99": delays["p99_ms"],
    }
