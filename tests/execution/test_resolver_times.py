"""Resolvers are timed only while somebody looks."""

from types import SimpleNamespace
from typing import Any

import pytest

from gqlnotify.execution import resolver_times
from gqlnotify.execution.resolver_times import ResolverTimes

INFO = SimpleNamespace(
    parent_type=SimpleNamespace(name="Task"),
    field_name="owner",
    path=SimpleNamespace(prev=SimpleNamespace(prev=None)),
)


def owner(source: Any, info: Any, **arguments: Any) -> str:
    return f"{source} {arguments}"


async def slow_owner(source: Any, info: Any) -> str:
    raise ValueError(source)


def test_nothing_is_timed_before_a_look() -> None:
    assert ResolverTimes().timing is None


def test_a_resolver_is_timed_and_gets_the_same_arguments() -> None:
    times = ResolverTimes()
    times.look()
    assert times.timing is not None

    made = times.timing.get_field_resolver(owner)("it", INFO, first=1)

    assert made == "it {'first': 1}"
    [row] = times.look()
    assert (row["name"], row["calls"]) == ("Task.owner", 1)


async def test_a_resolver_that_waits_and_fails_is_timed_too() -> None:
    times = ResolverTimes()
    times.look()
    assert times.timing is not None

    with pytest.raises(ValueError, match="it"):
        await times.timing.get_field_resolver(slow_owner)("it", INFO)

    assert [row["calls"] for row in times.look()] == [1]


def test_timing_ends_some_time_after_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_times, "LOOK_SECONDS", 0.0)
    times = ResolverTimes()
    times.look()

    assert times.timing is None
