"""The short form of `make soak`: no event is lost and nothing remains, whatever clients do."""

import random
from pathlib import Path

import pytest

from tests.soak.run import Plan, soak

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "portable"])
async def test_connections_that_come_and_go_lose_no_event_and_leave_nothing(
    direct: bool, tmp_path: Path
) -> None:
    plan = Plan(0.1, connections=60, direct=direct, seed=random.randrange(10**6))
    report = await soak(plan, tmp_path, progress=print)
    assert report.good, f"{plan}\n{report}\n" + "\n".join(report.problems)
    assert report.counts["events followed"] > report.counts["events published"] > 0
