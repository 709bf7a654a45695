"""What `gqlnotify trace` costs a server: `python -m benchmarks.trace`.

It prints the CPU time of a delivery to 1,000 subscribers, each with a subject of its own, turn by
turn without a trace and while one follows one of the subjects. What the server needs to answer the
command counts too.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.harness import BURST, Cores, Session, raise_limits, session
from benchmarks.subjects import SUBJECTS

SUBSCRIBERS = 1000
SUBJECT = "user7"
MILLISECONDS = 3000


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace")
    parser.add_argument("--turns", type=int, default=10)
    turns = parser.parse_args().turns
    raise_limits()
    subject = next(subject for subject in SUBJECTS if subject.name == "tasks-redis")
    with session(subject, Cores.of_this_machine()) as s:
        s.enter_room()
        s.connect(SUBSCRIBERS)
        print("| events at once | without a trace | with one | ratio |\n|---|---|---|---|")
        for events in (1, BURST):
            _row(s, events, turns)


def _row(s: Session, events: int, turns: int) -> None:
    cpu(s, events)
    without, with_one = [], []
    for _ in range(turns):
        without.append(cpu(s, events))
        with following(s):
            with_one.append(cpu(s, events))
    ratio = statistics.median(b / a for a, b in zip(without, with_one, strict=True))
    before, after = statistics.median(without), statistics.median(with_one)
    print(f"| {events} | {before:.3f} us | {after:.3f} us | {ratio:.3f} |", flush=True)


def cpu(s: Session, events: int) -> float:
    """Return the microseconds of the server's CPU time for a delivery."""
    [spent], answer = s.spent("rounds", 100_000, events, 1, MILLISECONDS)
    return spent / float(answer["received"])


@contextmanager
def following(s: Session) -> Iterator[None]:
    """Follow one of the subscribers, as an operator does."""
    command = [sys.executable, "-m", "gqlnotify", "trace", "--subject", SUBJECT, "--json"]
    process = subprocess.Popen(
        command,
        env={**s.process.environment, "COLUMNS": "200"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert b"Following" in process.stderr.readline()
        time.sleep(1)
        yield
    finally:
        process.kill()
        process.communicate()
        # The server ends a trace that is not asked for any more.
        time.sleep(6)


if __name__ == "__main__":
    main()
