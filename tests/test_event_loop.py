"""Work that waits for the next tick of its event loop."""

import asyncio
import time
from collections.abc import Iterable
from contextvars import ContextVar

import pytest

from gqlnotify import event_loop
from gqlnotify.event_loop import Rounds, TickBatcher, Visited
from tests.bad_brokers import pause
from tests.waiting import wait_until

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
    await wait_until(lambda: recorder.ticks == ["nothing"])
    assert "Work for a tick of the event loop failed" in caplog.text


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(event_loop, "monotonic", clock)
    return clock


class Work:
    """Takes `seconds` each time, and notes in `done` that it ran."""

    def __init__(self, clock: Clock, seconds: float, done: list[object]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._done = done

    def on_tick(self) -> None:
        self._clock.now += self._seconds
        self._done.append(self)


async def test_long_work_lets_the_loop_do_other_things_in_between(clock: Clock) -> None:
    ticks, done = TickBatcher.of(asyncio.get_running_loop()), list[object]()
    work = [Work(clock, event_loop.SLICE_SECONDS * 0.6, done) for _ in range(6)]
    for one in work:
        ticks.add(one)
    for _ in range(3):
        asyncio.get_running_loop().call_soon(done.append, "a ping")
        await asyncio.sleep(0)
    assert done == [*work[:2], "a ping", *work[2:4], "a ping", *work[4:], "a ping"]


async def test_a_fan_out_of_an_idle_process_begins_in_the_next_tick(clock: Clock) -> None:
    ticks, done = TickBatcher.of(asyncio.get_running_loop()), list[object]()
    work = Work(clock, 0.02, done)
    for _ in range(3):
        ticks.add_fan_out(work)
        await asyncio.sleep(0)
        assert done.pop() is work
        await pause(2)
        clock.now += 0.02


async def test_events_after_a_long_fan_out_are_collected_until_no_further_one_comes(
    clock: Clock,
) -> None:
    ticks, done = TickBatcher.of(asyncio.get_running_loop()), list[object]()
    first, others = Work(clock, 0.02, done), [Work(clock, 0, done) for _ in range(5)]
    ticks.add_fan_out(first)
    await pause(3)
    for one in others:
        ticks.add_fan_out(one)
        await pause(1)
    assert done == [first]
    await wait_until(lambda: len(done) > 1)
    assert done == [first, *others]


async def test_a_rest_ends_even_if_events_come_all_the_time(clock: Clock) -> None:
    ticks, done = TickBatcher.of(asyncio.get_running_loop()), list[object]()
    work = Work(clock, 0.02, done)
    ticks.add_fan_out(work)
    await pause(3)
    added = 0
    while len(done) == 1:
        ticks.add_fan_out(work)
        added += 1
        clock.now += 0.0001
        await asyncio.sleep(0)
    assert added >= 199
    await wait_until(lambda: len(done) == 1 + added)


async def test_further_events_of_a_fan_out_that_rests_extend_its_rest(clock: Clock) -> None:
    ticks, done = TickBatcher.of(asyncio.get_running_loop()), list[object]()
    work = Work(clock, 0.02, done)
    ticks.add_fan_out(work)
    await pause(3)
    ticks.add_fan_out(work)
    events = 0
    while len(done) == 1:
        ticks.extend_rest()
        events += 1
        clock.now += 0.0001
        await asyncio.sleep(0)
    assert events >= 199


async def test_a_short_fan_out_has_no_rest(clock: Clock) -> None:
    ticks, done = TickBatcher.of(asyncio.get_running_loop()), list[object]()
    work = Work(clock, 0.001, done)
    for _ in range(3):
        ticks.add_fan_out(work)
        await asyncio.sleep(0)
        assert done.pop() is work
        await pause(2)


async def test_other_work_does_not_end_a_rest(clock: Clock) -> None:
    ticks, done = TickBatcher.of(asyncio.get_running_loop()), list[object]()
    fan_out, other = Work(clock, 0.02, done), Work(clock, 0, done)
    ticks.add_fan_out(fan_out)
    await pause(3)
    ticks.add(other)
    await pause(3)
    ticks.add_fan_out(fan_out)
    await pause(3)
    assert done == [fan_out, other]
    await wait_until(lambda: done == [fan_out, other, fan_out])


async def test_other_work_in_every_turn_does_not_put_off_a_fan_out(clock: Clock) -> None:
    ticks, done = TickBatcher.of(asyncio.get_running_loop()), list[object]()
    fan_out, other = Work(clock, 0, done), Work(clock, 0, done)
    ticks.add(other)
    await asyncio.sleep(0)
    ticks.add_fan_out(fan_out)
    for _ in range(10):
        ticks.add(other)
        await asyncio.sleep(0)
    assert fan_out in done


def test_each_loop_has_its_own() -> None:
    async def mine() -> TickBatcher:
        batcher = TickBatcher.of(asyncio.get_running_loop())
        assert TickBatcher.of(asyncio.get_running_loop()) is batcher
        return batcher

    assert asyncio.run(mine()) is not asyncio.run(mine())


class Counted:
    """Counts its visits, and returns what else has changed."""

    def __init__(self, *more: "Counted") -> None:
        self.visits = 0
        self._more = more

    def on_round(self) -> Iterable[Visited]:
        self.visits += 1
        return self._more


async def test_a_change_is_visited_once_however_often_it_was_reported() -> None:
    rounds, changed, last = Rounds(), Counted(), Counted()
    rounds.at_least_every(0.001)
    for _ in range(3):
        rounds.add(changed)
    await wait_until(lambda: changed.visits)
    rounds.add(last)
    await wait_until(lambda: last.visits)

    assert changed.visits == 1


async def test_what_a_visit_returns_is_visited_in_the_same_round() -> None:
    rounds, last = Rounds.of(asyncio.get_running_loop()), Counted()
    rounds.at_least_every(60)
    rounds.add(Counted(last))

    await wait_until(lambda: last.visits)


@pytest.mark.parametrize("nested", [False, True], ids=["added", "returned by a visit"])
async def test_a_long_round_leaves_the_event_loop_its_turns(nested: bool) -> None:
    turns = 0

    class Slow(Counted):
        def on_round(self) -> Iterable[Visited]:
            time.sleep(0.002)
            return super().on_round()

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    rounds, changed = Rounds(), [Slow() for _ in range(5)]
    for each in [Counted(*changed)] if nested else changed:
        rounds.add(each)
    counting = asyncio.create_task(count())
    await wait_until(lambda: changed[-1].visits)
    counting.cancel()

    assert turns >= len(changed)


async def test_a_visit_that_fails_does_not_keep_others_from_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Counted):
        def on_round(self) -> Iterable[Visited]:
            raise RuntimeError("broken")

    rounds, other = Rounds(), Counted()
    rounds.add(Broken())
    rounds.add(other)

    await wait_until(lambda: other.visits)
    assert "broken" in caplog.text


async def test_what_was_discarded_is_not_visited() -> None:
    rounds, discarded, last = Rounds(), Counted(), Counted()
    rounds.add(discarded)
    rounds.discard(discarded)
    rounds.add(last)

    await wait_until(lambda: last.visits)
    assert discarded.visits == 0


async def test_what_is_not_urgent_is_visited_too() -> None:
    rounds, changed = Rounds(), Counted()
    rounds.at_least_every(0.001)
    rounds.add(changed, is_urgent=False)

    await wait_until(lambda: changed.visits)
