"""Work that waits for the next tick of its event loop."""

import asyncio
from contextvars import ContextVar

import pytest

from gqlnotify.event_loop import TickBatcher

seen: ContextVar[str] = ContextVar("seen", default="nothing")


class Recorder:
    def __init__(self) -> None:
        self.ticks: list[str] = []

    def on_tick(self) -> None:
        self.ticks.append(seen.get())


class Failing:
    def on_tick(self) -> None:
        raise RuntimeError("no")


async def test_all_waiting_callbacks_run_together_in_the_next_tick() -> None:
    batcher, recorder = TickBatcher.of(asyncio.get_running_loop()), Recorder()
    batcher.add(recorder)
    batcher.add(recorder)
    assert recorder.ticks == []
    await asyncio.sleep(0)
    assert recorder.ticks == ["nothing", "nothing"]


async def test_a_batch_runs_without_the_context_of_its_callers() -> None:
    seen.set("the publisher")
    recorder = Recorder()
    TickBatcher.of(asyncio.get_running_loop()).add(recorder)
    await asyncio.sleep(0)
    assert recorder.ticks == ["nothing"]


async def test_a_failing_callback_is_logged_and_the_others_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    batcher, recorder = TickBatcher.of(asyncio.get_running_loop()), Recorder()
    batcher.add(Failing())
    batcher.add(recorder)
    await asyncio.sleep(0)
    assert recorder.ticks == ["nothing"]
    assert "Work for a tick of the event loop failed" in caplog.text


def test_each_loop_has_its_own() -> None:
    async def mine() -> TickBatcher:
        batcher = TickBatcher.of(asyncio.get_running_loop())
        assert TickBatcher.of(asyncio.get_running_loop()) is batcher
        return batcher

    assert asyncio.run(mine()) is not asyncio.run(mine())
