"""Runs many seeds, each in a fork of this process, so that all begin with the same memory."""

import gc
import os
import pickle
import select
import signal
from collections.abc import Iterable, Iterator

from tests.simulation.history import Violation
from tests.simulation.run import Case, Outcome, Simulation

_MOST_CPU_SECONDS = 8.0
_WARM: list[Simulation] = []


def outcomes(cases: Iterable[Case], processes: int = 1) -> Iterator[Outcome]:
    """Run the cases, `processes` at a time, and yield what came of each."""
    gc.disable()
    if not _WARM:
        # Fills the caches of the interpreter and the frameworks for all forks. It is kept, because
        # its tasks can't be closed without their loops.
        _WARM.append(Simulation(Case(0)))
        _WARM[0].run()
        gc.freeze()
    waiting = iter(cases)
    running: dict[int, tuple[Case, bytearray]] = {}
    while True:
        while len(running) < processes and (case := next(waiting, None)) is not None:
            running[_fork(case)] = case, bytearray()
        if not running:
            return
        for pipe in select.select(list(running), [], [])[0]:
            data = os.read(pipe, 1 << 20)
            case, pickled = running[pipe]
            pickled += data
            if not data:
                del running[pipe]
                os.close(pipe)
                os.wait()
                yield pickle.loads(pickled) if pickled else _endless(case)


def _endless(case: Case) -> Outcome:
    endless = Violation("progress", "a turn of an event loop never ends")
    return Outcome(case, "", (), [endless], set())


def shrunk(failed: Outcome) -> Outcome:
    """Return an outcome that fails too, from which no fault can be left out."""
    kept = list(range(len(failed.faults)) if failed.case.kept is None else failed.case.kept)
    for fault in list(kept):
        fewer = tuple(each for each in kept if each != fault)
        [outcome] = outcomes([Case(failed.case.seed, fewer)])
        if outcome.violations:
            kept.remove(fault)
            failed = outcome
    return failed


def _fork(case: Case) -> int:
    reading, writing = os.pipe()
    if os.fork() == 0:
        # Ends this process.
        signal.setitimer(signal.ITIMER_VIRTUAL, _MOST_CPU_SECONDS)
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(Simulation(case).run(), pipe)
        os._exit(0)
    os.close(writing)
    return reading
