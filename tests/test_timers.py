"""The timers of an event loop's connections share one timer of the loop."""

import asyncio
import gc
import time
import weakref
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from gqlnotify import timers as module
from gqlnotify.event_loop import SLICE_SECONDS
from gqlnotify.timers import Timers
from tests.waiting import wait_until

seen: ContextVar[str] = ContextVar("seen", default="nothing")


@pytest.fixture
async def timers() -> Timers:
    return Timers.of(asyncio.get_running_loop())


def fail() -> None:
    raise RuntimeError("no")


async def test_timers_run_in_the_order_in_which_they_are_due(timers: Timers) -> None:
    ran: list[float] = []
    for seconds in (0.06, 0.02, 0.04, 0.0):
        timers.after(seconds, partial(ran.append, seconds))
    await wait_until(lambda: len(ran) == 4)
    assert ran == [0.0, 0.02, 0.04, 0.06]
    assert len(timers) == 0


async def test_a_timer_is_not_early(timers: Timers) -> None:
    loop = asyncio.get_running_loop()
    began, ran = loop.time(), list[float]()
    timers.after(0.05, lambda: ran.append(loop.time()))
    await wait_until(lambda: ran)
    assert ran[0] - began >= 0.05 - module._EARLY_SECONDS


async def test_a_cancelled_timer_does_not_run(timers: Timers) -> None:
    ran: list[str] = []
    timers.after(0.02, lambda: ran.append("cancelled")).cancel()
    timers.after(0.03, lambda: ran.append("kept"))
    await wait_until(lambda: ran)
    assert ran == ["kept"]


async def test_a_timer_may_set_and_cancel_others(timers: Timers) -> None:
    ran: list[str] = []
    last = timers.after(0.02, lambda: ran.append("last"))

    def first() -> None:
        last.cancel()
        timers.after(0.01, lambda: ran.append("new"))

    timers.after(0.01, first)
    timers.after(0.03, lambda: ran.append("end"))
    await wait_until(lambda: "end" in ran)
    assert ran == ["new", "end"]


async def test_a_failing_timer_is_logged_and_the_others_run(
    timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []
    timers.after(0.0, fail)
    timers.after(0.0, lambda: ran.append("ran"))
    await wait_until(lambda: ran)
    assert "A timer of a connection failed" in caplog.text


async def test_a_timer_runs_without_the_context_of_its_caller(timers: Timers) -> None:
    seen.set("the caller")
    ran: list[str] = []
    timers.after(0.0, lambda: ran.append(seen.get()))
    await wait_until(lambda: ran)
    assert ran == ["nothing"]


async def test_the_loop_does_other_things_between_many_timers(timers: Timers) -> None:
    ran: list[str] = []

    def slow() -> None:
        time.sleep(2 * SLICE_SECONDS)
        ran.append("slow")

    for _ in range(5):
        timers.after(0.0, slow)
    await wait_until(lambda: ran)
    assert len(ran) < 5
    await wait_until(lambda: len(ran) == 5)


async def test_cancelled_timers_are_dropped_long_before_they_are_due(timers: Timers) -> None:
    kept = timers.after(3600, lambda: None)
    for _ in range(3 * module._FIRST_SWEEP):
        timers.after(3600, lambda: None).cancel()
    assert len(timers) < module._FIRST_SWEEP
    kept.cancel()


async def test_a_late_timer_has_one_timer_of_the_loop_though_earlier_ones_run_before_it(
    timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    set_for: list[float] = []
    call_at = loop.call_at

    def noted(when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        set_for.append(when)
        return call_at(when, *args, **options)

    monkeypatch.setattr(loop, "call_at", noted)
    late = timers.after(3600, lambda: None)
    for _ in range(3):
        ran: list[str] = []
        timers.after(0, partial(ran.append, "early"))
        await wait_until(partial(bool, ran))
    assert set_for.count(late.due) == 1


async def test_a_cancelled_timer_keeps_nothing_in_memory(timers: Timers) -> None:
    class Peer:
        def ping(self) -> None:
            """Do nothing."""

    peer = Peer()
    known = weakref.ref(peer)
    timers.after(3600, peer.ping).cancel()
    del peer
    gc.collect()
    assert known() is None


async def test_a_timer_that_is_set_for_the_last_millisecond_runs_in_a_later_turn(
    timers: Timers,
) -> None:
    loop = asyncio.get_running_loop()
    ran: list[str] = []

    def again() -> None:
        ran.append("ran")
        if ran.count("ran") < 3:
            timers.after(0.0001, again)
        loop.call_soon(ran.append, "turn")

    timers.after(0, again)
    await wait_until(lambda: len(ran) == 6)
    assert ran == ["ran", "turn"] * 3
