"""`chaos` finds the faults that people have reported, and nothing in clean applications."""

import re
import time

import pytest

from gqlnotify.testing import Kind, Tokens, chaos
from tests.testing import faults
from tests.testing.faults import CLEAN, Build
from tests.waiting import SCALE


@pytest.fixture
def viewers(tokens: Tokens) -> list[str]:
    return [tokens(subject, subscribe="*") for subject in ("ann", "bob")]


@pytest.mark.parametrize("build", CLEAN)
async def test_nothing_is_reported_on_a_clean_application(build: Build, viewers: list[str]) -> None:
    app, operations = build()

    report = await chaos(app, operations, viewers=viewers, missed=60, crowd=30)

    report.check()
    assert len(report.steps) > 8


@pytest.mark.parametrize(
    ("build", "kind", "what", "look_at"),
    [
        (faults.generator_that_leaks, Kind.LEFT_OVER, r"tasks run .*pump \(.*faults.py", "finally"),
        (faults.queue_that_stays_in_a_list, Kind.LEFT_OVER, r"queues \(asyncio", "finally"),
        (faults.viewer_in_a_shared_loader, Kind.LEAKED, "receipt is '.* for (ann|bob)'", "loader"),
        (faults.complete_that_mutes_siblings, Kind.LOST, "no client gets an event any", "finally"),
        (faults.cursor_that_skips, Kind.LOST, "35 of .* events did not come", "the first 25 came"),
        (faults.session_held_per_socket, Kind.LOST, "15 of 30 clients got no event", "session"),
        (faults.session_around_the_loop, Kind.LOST, "15 of 30 clients got no event", "session"),
    ],
)
async def test_a_fault_is_found(
    build: Build, kind: Kind, what: str, look_at: str, viewers: list[str]
) -> None:
    app, operations = build()
    began = time.monotonic()

    report = await chaos(app, operations, viewers=viewers, missed=60, crowd=30)

    print(report)
    assert time.monotonic() - began < 10 * SCALE
    [problem] = report.problems
    assert problem.kind is kind
    assert re.search(what, problem.what)
    assert look_at in problem.look_at
    assert f"{kind.value.upper()}: " in str(report)
