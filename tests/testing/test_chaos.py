"""`chaos` finds the faults that people have reported, and nothing in clean applications."""

import re
from dataclasses import replace

import pytest
from fastapi import FastAPI

from gqlnotify.testing import Kind, Operation, Tokens, chaos
from tests.live_lists import TASKS_LIVE, House
from tests.testing import faults
from tests.testing.app import SETTINGS
from tests.testing.faults import CLEAN, Build


@pytest.fixture
def viewers(tokens: Tokens) -> list[str]:
    return [tokens(subject, subscribe="*") for subject in ("ann", "bob")]


def live_list() -> tuple[FastAPI, list[Operation]]:
    house = House(SETTINGS)

    async def put(number: int) -> None:
        await house.put(str(number % 7), f"task {number}")

    return house.app, [Operation(document=TASKS_LIVE, cause=put)]


@pytest.mark.parametrize("build", [*CLEAN, live_list])
async def test_nothing_is_reported_on_a_clean_application(build: Build, viewers: list[str]) -> None:
    app, operations = build()

    report = await chaos(app, operations, viewers=viewers, missed=40, crowd=16)

    report.check()
    assert len(report.steps) > 8


@pytest.mark.parametrize(
    ("build", "kind", "what", "look_at"),
    [
        (faults.generator_that_leaks, Kind.LEFT_OVER, r"tasks run .*pump \(.*faults.py", "finally"),
        (faults.queue_that_stays_in_a_list, Kind.LEFT_OVER, r"queues \(asyncio", "finally"),
        (faults.viewer_in_a_shared_loader, Kind.LEAKED, "receipt is '.* for (ann|bob)'", "loader"),
        (faults.discount_in_a_shared_cache, Kind.LEAKED, "discount is '(10|0)', which", "loader"),
        (faults.complete_that_mutes_siblings, Kind.LOST, "get no event any more", "finally"),
        (faults.cursor_that_skips, Kind.LOST, "15 of .* events did not come", "the first 25 came"),
        (faults.generator_without_a_cursor, Kind.LOST, "comes back", "its results have no cursor"),
        (faults.session_held_per_socket, Kind.LOST, "7 of 16 clients got no event", "session"),
        (faults.session_around_the_loop, Kind.LOST, "7 of 16 clients got no event", "session"),
    ],
)
async def test_a_fault_is_found(
    build: Build, kind: Kind, what: str, look_at: str, viewers: list[str]
) -> None:
    app, operations = build()
    # Only a leak needs two viewers.
    some = viewers if kind is Kind.LEAKED else viewers[:1]
    report = await chaos(app, operations, viewers=some, missed=40, crowd=16)

    print(report)
    [problem] = report.problems
    assert problem.kind is kind
    assert re.search(what, problem.what)
    assert look_at in problem.look_at
    assert f"{kind.value.upper()}: " in str(report)


async def test_an_operation_that_nobody_can_read_is_reported(viewers: list[str]) -> None:
    app, [operation] = faults.clean()
    wrong = replace(operation, document="subscription { mesages { text } }")

    report = await chaos(app, [wrong], viewers=viewers)

    [problem] = report.problems
    assert problem.kind is Kind.FAILED
    assert "no viewer got an event: Cannot query field 'mesages'" in problem.what
    with pytest.raises(AssertionError, match=r"^chaos found 1 problem\n\nFAILED: mesages: no"):
        report.check()
