"""Each member gets each event behind its position once and in order, whatever happens around it."""

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import strawberry
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gqlnotify import Cursor, Settings, Topic, TopicManager, errors, event_loop, execution
from gqlnotify.brokers import Broker, MemoryBroker
from gqlnotify.event_loop import Visited
from gqlnotify.execution import (
    Ended,
    Executions,
    Group,
    Operation,
    Shareable,
    SharedExecution,
    fan_out,
)
from gqlnotify.execution import group as group_module
from gqlnotify.execution.shared import CONCURRENCY
from gqlnotify.protocol.frames import Batch
from gqlnotify.topics import live_topic
from gqlnotify.topics.subscriber import Subscriber
from tests.bad_brokers import LosingItsData, UnreliableBroker, pause
from tests.waiting import PATIENCE, wait_until

DOCUMENT = "subscription { numbers { value } }"


class Numbers:
    """A topic of numbers, whose n-th event is n. Its resolver takes as many ticks as `turns` say.

    The resolvers of the numbers in `failing` raise, and those of `cancelled` are cancelled.
    """

    def __init__(
        self, broker: Broker, turns: Sequence[int] = (0,), concurrency: int = CONCURRENCY
    ) -> None:
        self.topics = TopicManager(broker, settings=Settings(topic_linger=0, broker_wait=0))
        self.gate: asyncio.Event | None = None
        self.executed: list[int] = []
        self.finished: list[int] = []
        self.failing: Collection[int] = ()
        self.cancelled: Collection[int] = ()
        numbers, topics = self, self.topics

        @strawberry.type
        class Number:
            raw: int

            @strawberry.field
            async def value(self) -> int:
                numbers.executed.append(self.raw)
                if numbers.gate is not None:
                    await numbers.gate.wait()
                await pause(turns[self.raw % len(turns)])
                if self.raw in numbers.failing:
                    raise RuntimeError("on purpose")
                if self.raw in numbers.cancelled:
                    raise asyncio.CancelledError
                numbers.finished.append(self.raw)
                return self.raw

        @strawberry.type
        class Query:
            nothing: int = 0

        @strawberry.type
        class Subscription:
            @strawberry.subscription
            async def numbers(self) -> AsyncIterator[Number]:
                return topics.subscribe(numbers.topic)

        self.topic = Topic("numbers", Number)
        self.number = Number
        schema = strawberry.Schema(Query, subscription=Subscription)
        self.executions = Executions(schema, encode=json.dumps, concurrency=concurrency)

    async def say(self, number: int) -> Cursor:
        return await self.topics.publish(self.topic, self.number(raw=number))

    async def ask(self, after: str | None = None) -> Shareable:
        """Begin a subscription."""
        extensions = None if after is None else {"after": after}
        results = execution.stream(
            self.executions, Operation(query=DOCUMENT, extensions=extensions)
        )
        found = [result async for result in results]
        assert isinstance(found[0], Shareable), found
        return found[0]


@dataclass(eq=False)
class Listener:
    """A member that keeps what it hears, and may be too slow for it."""

    execution: SharedExecution
    heard: list[int] = field(default_factory=list)
    errors: Sequence[Mapping[str, Any]] | None = None
    slow: bool = False
    group: Group | None = None
    task: "asyncio.Task[None] | None" = None
    fallen: int = 0
    batches: int = 0

    def push(self, batch: Batch) -> bool:
        if not self.slow:
            self._hear(batch)
        return not self.slow

    async def send(self, batch: Batch) -> None:
        await wait_until(lambda: not self.slow)
        self._hear(batch)

    def lagged(self, subscriber: Subscriber) -> None:
        self.group, self.fallen = None, self.fallen + 1
        self.join(subscriber)

    def on_round(self) -> Iterable[Visited]:
        return ()

    def end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        assert self.errors is None, "ended twice"
        self.group, self.errors = None, errors

    def join(self, subscriber: Subscriber) -> None:
        self.task = asyncio.create_task(self._join(subscriber))
        self.task.add_done_callback(lambda _task: subscriber.close())

    async def leave(self) -> None:
        if self.group is not None:
            self.group.leave(self)
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def _join(self, subscriber: Subscriber) -> None:
        try:
            self.group = await self.execution.join(self, subscriber)
        except Ended as ended:
            self.end(ended.errors)
        except errors.NotifyError as error:
            self.end([error.formatted()])
        else:
            if self.group is None:
                self.end([])

    def _hear(self, batch: Batch) -> None:
        self.batches += 1
        assert self.errors is None, "heard after the end"
        for body in batch.bodies:
            message = json.loads("{" + body.text[1:])
            payload = message["payload"]
            number = int(payload["extensions"]["cursor"].partition("-")[2])
            assert payload.get("errors") or payload["data"]["numbers"]["value"] == number
            self.heard.append(number)


async def listening(numbers: Numbers, after: str | None = None, **options: Any) -> Listener:
    shareable = await numbers.ask(after)
    listener = Listener(shareable.execution, **options)
    listener.join(shareable.subscriber)
    return listener


async def tick_until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until `condition` is true, and not one tick longer."""
    while not condition():
        await pause(1)


@asynccontextmanager
async def playing(
    broker: Broker, turns: Sequence[int] = (0,), concurrency: int = CONCURRENCY
) -> AsyncIterator[Numbers]:
    """Expect that nothing is left once everybody has left."""
    before = asyncio.all_tasks()
    numbers = Numbers(broker, turns, concurrency)
    yield numbers
    await wait_until(lambda: not numbers.topics.live_topics.by_name)
    await wait_until(lambda: asyncio.all_tasks() <= before)
    await numbers.topics.close()


# Any order of what may happen

Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 6)),
        st.tuples(st.just("join"), st.just(0)),
        st.tuples(st.just("return"), st.integers(0, 30)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("slow"), st.integers(0, 9)),
        st.tuples(st.just("quick"), st.integers(0, 9)),
        st.tuples(st.just("turn"), st.integers(1, 4)),
    ),
    max_size=30,
)
FATES = st.lists(st.lists(st.integers(0, 6), max_size=2), max_size=12)
TURNS = st.lists(st.integers(0, 5), min_size=1, max_size=4)


BROKEN = st.lists(st.integers(1, 20), max_size=3)


@given(
    STEPS,
    FATES,
    TURNS,
    st.integers(0, 3),
    st.sampled_from([1, 200, 64 * 1024]),
    st.sampled_from([1, 2, 64]),
    st.sampled_from([1, 2, 256]),
    st.tuples(BROKEN, BROKEN),
)
@settings(
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_each_member_hears_each_event_behind_its_position_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
    steps: list[Step],
    fates: list[list[int]],
    turns: list[int],
    answer_turns: int,
    batch: int,
    concurrency: int,
    slice_members: int,
    broken: tuple[list[int], list[int]],
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(live_topic, "BUFFER_SIZE", 4)
        patched.setattr(live_topic, "PAGE_SIZE", 3)
        patched.setattr(live_topic, "RETRY_SECONDS", (0.001, 0.002))
        patched.setattr(group_module, "BATCH_BYTES", batch)
        patched.setattr(fan_out, "SLICE_MEMBERS", slice_members)
        broker = UnreliableBroker(fates, answer_turns=answer_turns)
        asyncio.run(_play(broker, steps, turns, concurrency, broken))


async def _play(
    broker: Broker,
    steps: list[Step],
    turns: list[int],
    concurrency: int,
    broken: tuple[list[int], list[int]],
) -> None:
    async with playing(broker, turns, concurrency) as numbers, asyncio.timeout(PATIENCE):
        numbers.failing, numbers.cancelled = broken
        cursors = [await numbers.topics.cursor(numbers.topic)]
        listeners: list[tuple[int | None, Listener]] = []
        for what, number in steps:
            await _step(numbers, cursors, listeners, what, number)
        # Whatever the live path has lost is found by the next event at the latest.
        for _, listener in listeners:
            listener.slow = False
        cursors.append(await numbers.say(len(cursors)))
        numbers.topics.live_topics.refresh("numbers")
        last = len(cursors) - 1
        for _, listener in listeners:
            await wait_until(lambda heard=listener.heard: heard and heard[-1] == last)
        for beginning, listener in listeners:
            first = listener.heard[0] if beginning is None else beginning + 1
            assert listener.heard == list(range(first, last + 1))
            assert listener.errors is None
        for _, listener in listeners:
            await listener.leave()


async def _step(
    numbers: Numbers,
    cursors: list[Cursor],
    listeners: list[tuple[int | None, Listener]],
    what: str,
    number: int,
) -> None:
    match what:
        case "publish":
            for _ in range(number):
                cursors.append(await numbers.say(len(cursors)))
        case "join":
            listeners.append((None, await listening(numbers)))
        case "return":
            beginning = number % len(cursors)
            listeners.append((beginning, await listening(numbers, cursors[beginning])))
        case "leave" if listeners:
            _, listener = listeners.pop(number % len(listeners))
            await listener.leave()
        case "slow" | "quick" if listeners:
            listeners[number % len(listeners)][1].slow = what == "slow"
        case "turn":
            await pause(number)


# One thing at a time


async def test_a_burst_waits_for_its_resolvers_together_and_arrives_as_one_batch() -> None:
    async with playing(MemoryBroker(), concurrency=4) as numbers:
        numbers.gate = asyncio.Event()
        listener = await listening(numbers)
        await wait_until(lambda: listener.group)
        for number in range(1, 7):
            await numbers.say(number)
        await wait_until(lambda: len(numbers.executed) == 4)
        await pause(5)
        assert numbers.executed == [1, 2, 3, 4], "no more than the concurrency allows"
        numbers.gate.set()
        await wait_until(lambda: listener.heard == [1, 2, 3, 4, 5, 6])
        assert listener.batches <= 3
        await listener.leave()


async def test_a_finished_event_waits_for_the_one_before_it() -> None:
    async with playing(MemoryBroker(), turns=(0, 20, 0)) as numbers:
        listener = await listening(numbers)
        await wait_until(lambda: listener.group)
        for number in range(1, 4):
            await numbers.say(number)
        await tick_until(lambda: numbers.finished == [2, 3])
        assert listener.heard == []
        await wait_until(lambda: listener.heard == [1, 2, 3])
        await listener.leave()


async def test_events_that_come_between_two_slices_are_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fan_out, "SLICE_MEMBERS", 1)
    monkeypatch.setattr(event_loop, "SLICE_SECONDS", 0)
    async with playing(MemoryBroker()) as numbers:
        members = [await listening(numbers) for _ in range(4)]
        await wait_until(lambda: all(member.group for member in members))
        await numbers.say(1)
        await tick_until(lambda: any(member.heard for member in members))
        await numbers.say(2)
        await wait_until(lambda: all(member.heard == [1, 2] for member in members))
        for member in members:
            await member.leave()


async def test_members_that_join_or_leave_between_two_slices_get_what_is_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fan_out, "SLICE_MEMBERS", 2)
    monkeypatch.setattr(event_loop, "SLICE_SECONDS", 0)
    async with playing(MemoryBroker()) as numbers:
        members = [await listening(numbers) for _ in range(7)]
        await wait_until(lambda: all(member.group for member in members))
        await numbers.say(1)
        await tick_until(lambda: any(member.heard for member in members))
        served = [member for member in members if member.heard]
        assert len(served) == 2
        leaves = next(member for member in members if not member.heard)
        await leaves.leave()
        joins = await listening(numbers)
        await wait_until(lambda: joins.group)
        await numbers.say(2)
        stay = [member for member in members if member is not leaves]
        await wait_until(lambda: all(member.heard == [1, 2] for member in stay))
        await wait_until(lambda: joins.heard == [2])
        assert leaves.heard == []
        for member in (*stay, joins):
            await member.leave()


async def test_a_slow_member_holds_up_nobody_and_misses_nothing() -> None:
    async with playing(MemoryBroker()) as numbers:
        slow, quick = await listening(numbers), await listening(numbers)
        await wait_until(lambda: slow.group and quick.group)
        slow.slow = True
        for number in range(1, 4):
            await numbers.say(number)
            await wait_until(lambda: len(quick.heard) == number)  # noqa: B023
        assert (slow.heard, slow.fallen) == ([], 1)
        slow.slow = False
        await wait_until(lambda: slow.group is quick.group)
        assert slow.heard == quick.heard == [1, 2, 3]
        assert numbers.executed == [1, 2, 3]
        for listener in (slow, quick):
            await listener.leave()


async def test_a_replay_of_plain_fields_lets_the_loop_do_other_things_in_between() -> None:
    class Plain(Listener):
        def _hear(self, batch: Batch) -> None:
            self.batches += 1

    async with playing(MemoryBroker()) as numbers:
        begin = await numbers.topics.cursor(numbers.topic)
        for number in range(1, 31):
            await numbers.say(number)
        operation = Operation(
            query="subscription { numbers { raw } }", extensions={"after": str(begin)}
        )
        results = execution.stream(numbers.executions, operation)
        (shareable,) = [result async for result in results]
        member = Plain(shareable.execution)
        member.join(shareable.subscriber)
        ticks = 0
        while member.batches < 30:
            await pause(1)
            ticks += 1
        assert ticks >= 30
        await member.leave()


async def test_a_member_ahead_of_the_group_waits_for_it() -> None:
    async with playing(MemoryBroker()) as numbers:
        numbers.gate = asyncio.Event()
        begin = await numbers.topics.cursor(numbers.topic)
        first = await listening(numbers)
        await wait_until(lambda: first.group)
        cursor = await numbers.say(1)
        await wait_until(lambda: numbers.executed)
        ahead, beside = await listening(numbers, cursor), await listening(numbers, begin)
        await wait_until(lambda: beside.group)
        assert ahead.group is None
        numbers.gate.set()
        await wait_until(lambda: ahead.group)
        await numbers.say(2)
        await wait_until(lambda: ahead.heard == [2])
        await wait_until(lambda: first.heard == beside.heard == [1, 2])
        for listener in (first, ahead, beside):
            await listener.leave()


async def test_the_last_one_who_leaves_in_the_middle_of_an_execution_ends_the_group() -> None:
    async with playing(MemoryBroker()) as numbers:
        numbers.gate = asyncio.Event()
        only = await listening(numbers)
        await wait_until(lambda: only.group)
        group = only.group
        assert group is not None
        await numbers.say(1)
        await wait_until(lambda: numbers.executed)
        await only.leave()
        assert group.ended
        assert group._refilling is None
        numbers.gate.set()


async def test_whoever_gives_up_on_the_way_leaves_nothing() -> None:
    async with playing(MemoryBroker()) as numbers:
        begin = await numbers.topics.cursor(numbers.topic)
        await numbers.say(1)
        slow = await listening(numbers, begin, slow=True)
        await wait_until(lambda: numbers.executed)
        await pause(3)
        await slow.leave()


async def test_a_member_that_is_gone_when_it_has_lagged_leaves_no_group_behind() -> None:
    class Gone(Listener):
        def join(self, subscriber: Subscriber) -> None:
            super().join(subscriber)
            if self.fallen:
                assert self.task is not None
                self.task.cancel()

    async with playing(MemoryBroker()) as numbers:
        shareable = await numbers.ask()
        only = Gone(shareable.execution)
        only.join(shareable.subscriber)
        await wait_until(lambda: only.group)
        group = only.group
        assert group is not None
        only.slow = True
        await numbers.say(1)
        await wait_until(lambda: group.ended)
        assert only.fallen == 1


async def test_the_events_of_a_topic_that_all_have_left_are_let_go() -> None:
    async with playing(MemoryBroker()) as numbers:
        members = [await listening(numbers)]
        await wait_until(lambda: members[0].group)
        await numbers.say(1)
        await wait_until(lambda: members[0].heard == [1])
        buffer = weakref.ref(numbers.topics.live_topics.by_name[numbers.topic.name].buffer)
        await members.pop().leave()
    gc.collect()
    assert buffer() is None
    assert numbers.executions._by_key, "what is executed stays, for whoever comes back"


async def test_closing_the_topics_ends_members_and_comers() -> None:
    numbers = Numbers(MemoryBroker())
    begin = await numbers.topics.cursor(numbers.topic)
    member = await listening(numbers)
    await wait_until(lambda: member.group)
    await numbers.say(1)
    await wait_until(lambda: member.heard == [1])
    subscriber = await listening(numbers, begin, slow=True)
    await pause(3)
    await numbers.topics.close()
    subscriber.slow = False
    await wait_until(lambda: member.errors == subscriber.errors == [])


async def test_closing_the_topics_ends_a_member_that_is_slow_at_that_very_moment() -> None:
    numbers = Numbers(MemoryBroker())
    numbers.gate = asyncio.Event()
    member = await listening(numbers)
    await wait_until(lambda: member.group)
    await numbers.say(1)
    await wait_until(lambda: numbers.executed)
    member.slow = True
    await numbers.topics.close()
    numbers.gate.set()
    await pause(5)
    member.slow = False
    await wait_until(lambda: member.errors is not None)
    assert member.errors == []


async def test_a_gap_is_told_to_all_members() -> None:
    async with playing(LosingItsData()) as numbers:
        members = [await listening(numbers), await listening(numbers)]
        await wait_until(lambda: all(member.group for member in members))
        await numbers.say(1)
        await wait_until(lambda: all(member.heard == [1] for member in members))
        broker: Any = numbers.topics._broker
        broker._histories.clear()
        await numbers.say(2)
        await wait_until(lambda: all(member.errors for member in members))
        for member in members:
            assert member.errors is not None
            assert member.errors[0]["extensions"]["code"] == "CURSOR_EXPIRED"
            assert member.heard == [1]


async def test_a_member_that_breaks_does_not_keep_an_event_from_the_others() -> None:
    class Broken(Listener):
        def push(self, batch: Batch) -> bool:
            raise RuntimeError("on purpose")

    async with playing(MemoryBroker()) as numbers:
        shareable = await numbers.ask()
        broken = Broken(shareable.execution)
        broken.join(shareable.subscriber)
        sound = await listening(numbers)
        await wait_until(lambda: broken.group and sound.group)
        await numbers.say(1)
        # The group may end, but then it says so to everybody.
        await wait_until(lambda: sound.heard == [1] or sound.errors)
        for listener in (broken, sound):
            await listener.leave()
