"""The short form of `make chaos`: each of the worst faults once, in a random order."""

import random
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS, FLUSH
from tests.chaos.run import run
from tests.chaos.stage import Scale

pytestmark = pytest.mark.processes

SCALE = Scale(2, 6, None, None)
WORST = {
    "Redis killed",
    "Redis stopped and continued",
    "Redis kills Pub/Sub connections",
    "server's link half-open",
    "server killed",
    "server restarted",
    "outbox dies before it publishes",
    "sockets of clients cut",
}


def test_no_client_misses_an_event_and_each_lost_history_is_reported(
    tmp_path: Path,
) -> None:
    seed = random.randrange(10**6)
    plan = [fault for fault in FAULTS if fault.name in WORST]
    random.Random(seed).shuffle(plan)
    # Last, because it may lose events and announce that.
    report = run([*plan, FLUSH], seed=seed, logs=tmp_path, scale=SCALE, progress=print)
    assert report.good, f"seed {seed}\n{report}\n" + "\n".join(report.problems)
    assert report.faults == len(WORST) + 1
    assert report.rows[FLUSH.name].counts.gaps > 0
