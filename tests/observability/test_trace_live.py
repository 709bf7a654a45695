"""The traces that follow live: bounded, and over soon after the last look."""

import pytest
from typing_extensions import override

from gqlnotify.errors import BadUserInput
from gqlnotify.observability.trace import Kind, Ring, live
from gqlnotify.observability.trace_live import (
    FOLLOW_SECONDS,
    MAX_STEPS,
    MAX_TRACES,
    Followed,
    Live,
    Trace,
)


class Now:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Operation(Followed):
    def __init__(self) -> None:
        self.is_followed = True

    @override
    def unfollow(self) -> None:
        self.is_followed = False


def kinds(trace: Trace) -> list[Kind]:
    return [step.kind for step in trace.take()[0]]


def test_a_trace_gets_the_steps_of_its_subject_and_those_of_the_topic() -> None:
    traces = Live()
    alice, everybody = traces.follow("a", "alice", "tasks"), traces.follow("b", None, "tasks")

    traces.step(Kind.RECEIVED, topic="tasks", cursor="1-1")
    traces.step(Kind.RECEIVED, topic="rooms", cursor="1-1")
    traces.step(Kind.EXECUTED, topic="tasks", cursor="1-1")  # for a group without her
    traces.step(Kind.PUSHED, topic="tasks", cursor="1-1", subject="bob")
    traces.step(Kind.WRITTEN, topic="tasks", cursor="1-1", subject="alice")

    assert kinds(alice) == [Kind.RECEIVED, Kind.WRITTEN]
    assert kinds(everybody) == [Kind.RECEIVED, Kind.EXECUTED, Kind.PUSHED, Kind.WRITTEN]
    assert alice.take() == ([], 0)


def test_a_trace_that_is_not_asked_for_ends() -> None:
    now = Now()
    traces = Live(now=now)
    operation = Operation()
    traces.follow("a", "alice", None)
    traces.followed[operation] = "alice", "tasks"
    now.seconds += FOLLOW_SECONDS - 1
    traces.follow("a", "alice", None)

    now.seconds += FOLLOW_SECONDS - 1
    traces.expire()
    assert (traces.on, operation.is_followed) == (True, True)
    assert traces.follows("alice", "tasks")

    now.seconds += 1
    traces.expire()
    assert (traces.on, operation.is_followed) == (False, False)


def test_steps_that_come_too_fast_are_counted() -> None:
    traces = Live()
    trace = traces.follow("a", None, "tasks")
    for _ in range(MAX_STEPS + 7):
        traces.step(Kind.RECEIVED, topic="tasks")

    steps, left_out = trace.take()

    assert (len(steps), left_out) == (MAX_STEPS, 7)


def test_only_so_many_traces_follow() -> None:
    traces = Live()
    for number in range(MAX_TRACES):
        traces.follow(str(number), "alice", None)
    traces.follow("0", "alice", None)

    with pytest.raises(BadUserInput, match="20 traces follow"):
        traces.follow("one more", "alice", None)


def test_what_is_recorded_is_a_step_too() -> None:
    trace = live.follow("a test", "zoe", None)
    try:
        Ring().note(Kind.REFUSED, subject="zoe", code="FORBIDDEN")

        assert kinds(trace) == [Kind.REFUSED]
    finally:
        trace.expires_at = 0
        live.expire()
    assert not live.on
