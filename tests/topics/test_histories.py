"""Histories that continue in a new epoch, lose their newest events, or end."""

import asyncio
import random

import pytest

from gqlnotify import Cursor, Event, Settings, Subscription, TopicManager
from gqlnotify.brokers import Deliver, MemoryBroker, OnPossibleGap
from gqlnotify.errors import (
    CursorExpired,
)
from gqlnotify.settings import Retention
from gqlnotify.topics import live_topic
from tests.bad_brokers import (
    LosingItsData,
    OutOfReach,
    Restarting,
    pause,
)
from tests.streams import (
    NUMBERS,
    leaving_nothing,
    publish_all,
    reading,
    started,
    take,
)
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.usefixtures("no_linger")

# another epoch


@pytest.mark.usefixtures("small_buffers")
async def test_live_subscribers_see_no_gap_and_no_repeat_when_the_epoch_changes() -> None:
    broker = Restarting()
    async with leaving_nothing(TopicManager(broker)) as manager:
        live, slow = [await started(manager.subscribe(NUMBERS)) for _ in range(2)]
        read, cursors = asyncio.create_task(take(live, 60)), list[str]()
        for epoch in range(6):
            cursors += await publish_all(manager, range(epoch * 10, epoch * 10 + 10))
            broker.restart()

        assert await read == [*range(60)]
        assert await take(slow, 60) == [*range(60)]
        assert [str(live.cursor), str(slow.cursor)] == cursors[-1:] * 2
        assert len({cursor.partition("-")[0] for cursor in cursors}) == 6
        for stream in (live, slow):
            await stream.aclose()


@pytest.mark.parametrize("listened", [True, False])
@pytest.mark.parametrize("buffer", [3, 256])
async def test_resuming_after_any_cursor_of_any_epoch_has_no_gap_and_no_repeat(
    monkeypatch: pytest.MonkeyPatch, listened: bool, buffer: int
) -> None:
    monkeypatch.setattr(live_topic, "BUFFER_SIZE", buffer)
    broker = Restarting()
    async with leaving_nothing(TopicManager(broker)) as manager:
        other = manager.subscribe(NUMBERS)
        if listened:
            await other.start()
        cursors = [await manager.cursor(NUMBERS)]
        for number in range(9):
            cursors += await publish_all(manager, [number])
            if number % 3 == 2:
                broker.restart()

        for missed, cursor in enumerate(cursors):
            stream = await started(manager.subscribe(NUMBERS, after=cursor))
            assert await take(stream, 9 - missed) == [*range(missed, 9)]
            await stream.aclose()
        await other.aclose()


async def test_a_cursor_with_the_epoch_of_another_event_has_expired() -> None:
    broker = Restarting()
    async with leaving_nothing(TopicManager(broker)) as manager:
        listening = await started(manager.subscribe(NUMBERS))
        first = Cursor.parse((await publish_all(manager, [1]))[0])
        broker.restart()
        second = Cursor.parse((await publish_all(manager, [2]))[0])

        for mixed in (Cursor(second.epoch, first.seq), Cursor(first.epoch, second.seq)):
            stream = manager.subscribe(NUMBERS, after=str(mixed))
            with pytest.raises(CursorExpired):
                await take(stream, 1)
        await listening.aclose()


# lost events


@pytest.mark.usefixtures("small_buffers")
async def test_lost_newest_events_expire_only_the_subscribers_that_saw_them() -> None:
    broker = Restarting()
    async with leaving_nothing(TopicManager(broker)) as manager:
        streams = [await started(manager.subscribe(NUMBERS)) for _ in range(4)]
        cursors = await publish_all(manager, range(4))
        for taken, stream in enumerate(streams, start=1):
            assert await take(stream, taken) == [*range(taken)]
        before, at, beyond, far_beyond = streams
        assert str(at.cursor) == cursors[1]

        broker.restart(forgetting=2)
        newest = (await publish_all(manager, [12, 13, 14]))[-1]
        buffer = manager.live_topics.by_name[NUMBERS.name].buffer
        await wait_until(lambda: str(buffer.last) == newest)
        assert await take(before, 4) == [1, 12, 13, 14]
        assert await take(at, 3) == [12, 13, 14]
        for stream in (beyond, far_beyond):
            with pytest.raises(CursorExpired):
                await take(stream, 1)
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize("listened", [True, False])
async def test_resuming_after_lost_newest_events_continues_or_gets_cursor_expired(
    listened: bool,
) -> None:
    broker = Restarting()
    async with leaving_nothing(TopicManager(broker)) as manager:
        other = manager.subscribe(NUMBERS)
        if listened:
            await other.start()
        cursors = [await manager.cursor(NUMBERS), *await publish_all(manager, range(4))]
        broker.restart(forgetting=2)
        newest = (await publish_all(manager, [12, 13]))[-1]
        if listened:
            buffer = manager.live_topics.by_name[NUMBERS.name].buffer
            await wait_until(lambda: str(buffer.last) == newest)

        for missed, cursor in enumerate(cursors[:3]):
            stream = manager.subscribe(NUMBERS, after=cursor)
            assert await take(stream, 4 - missed) == [*range(missed, 2), 12, 13]
            await stream.aclose()
        for cursor in cursors[3:]:
            with pytest.raises(CursorExpired):
                await take(manager.subscribe(NUMBERS, after=cursor), 1)
        await other.aclose()


async def test_a_subscriber_at_the_end_of_a_truncated_history_continues_with_the_next_event() -> (
    None
):
    broker = Restarting()
    async with leaving_nothing(TopicManager(broker)) as manager:
        at, beyond = [await started(manager.subscribe(NUMBERS)) for _ in range(2)]
        await publish_all(manager, [0])
        assert await take(at, 1) == [0]
        broker.deaf = True
        await publish_all(manager, [1])
        broker.on_possible_gap(NUMBERS.name)
        assert await take(beyond, 2) == [0, 1]

        broker.restart(forgetting=1)
        broker.deaf = False
        buffer = manager.live_topics.by_name[NUMBERS.name].buffer
        broker.on_possible_gap(NUMBERS.name)
        await wait_until(lambda: buffer.last.seq == 1)
        reads = [await reading(stream) for stream in (at, beyond)]
        await publish_all(manager, [11])
        assert await reads[0] == 11
        with pytest.raises(CursorExpired):
            await reads[1]
        for stream in (at, beyond):
            await stream.aclose()


async def test_a_late_message_of_a_lost_event_does_not_hide_its_replacement() -> None:
    broker = Restarting()
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [0])
        assert await take(stream, 1) == [0]
        broker.deaf = True
        forgotten = Cursor.parse((await publish_all(manager, [1]))[0])
        broker.restart(forgetting=1)
        await publish_all(manager, [11, 12])

        broker.hold_one_answer = True
        broker.on_possible_gap(NUMBERS.name)
        await wait_until(lambda: not broker.hold_one_answer)
        manager._deliver(Event(NUMBERS.name, forgotten, b"1"))
        broker.answer.set()
        assert await take(stream, 1) == [1]
        with pytest.raises(CursorExpired):
            await take(stream, 1)
        await stream.aclose()


# everything together


class RandomFaults(Restarting):
    """Answers late, and remembers the event before each event."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.before: dict[Cursor, Cursor] = {}
        self._chance = chance

    async def start(self, deliver: Deliver, on_possible_gap: OnPossibleGap) -> None:
        loop = asyncio.get_running_loop()

        def after_ticks(ticks: int, event: Event) -> None:
            if ticks:
                loop.call_soon(after_ticks, ticks - 1, event)
            else:
                deliver(event)

        await super().start(
            lambda event: after_ticks(self._chance.randrange(6), event), on_possible_gap
        )

    async def publish(self, topic: str, payload: bytes, *, event_id: str | None = None) -> Cursor:
        place = self.places()[-1]
        cursor = await super().publish(topic, payload, event_id=event_id)
        self.before[cursor] = place
        return cursor

    async def _call(self, method: str) -> None:
        if method != "publish":
            await pause(self._chance.randrange(4))
        await super()._call(method)

    async def _hold(self) -> None:
        await pause(self._chance.randrange(4))

    def places(self) -> list[Cursor]:
        return self._places(NUMBERS.name)

    def change(self) -> None:
        """Change the faults at random."""
        self.deaf = self._chance.random() < 0.2
        self.down = {"read", "head"} if self._chance.random() < 0.2 else set()
        if self._chance.random() < 0.5:
            self.restart(forgetting=self._chance.choice([0, 1, 1, 2, 5]))
        if not self.deaf:
            self.on_possible_gap(NUMBERS.name)

    def stop(self) -> None:
        self.deaf, self.down = False, set()
        self.on_possible_gap(NUMBERS.name)


THE_END = -1


async def follow(stream: Subscription[int], taken: list[Cursor], broker: RandomFaults) -> None:
    async for number in stream:
        assert stream.cursor is not None
        assert broker.before[stream.cursor] == taken[-1], "A gap or a repeat"
        taken.append(stream.cursor)
        if number == THE_END:
            break


async def resume_to_the_end(
    manager: TopicManager, broker: RandomFaults, chance: random.Random
) -> None:
    """Return at the end of the stream, or once its cursor has rightly expired."""
    taken = [broker.places()[0]]
    while True:
        stream = manager.subscribe(NUMBERS, after=str(taken[-1]))
        reading_task = asyncio.create_task(follow(stream, taken, broker))
        if chance.random() < 0.8:
            await pause(chance.randrange(60))
            reading_task.cancel()
        [outcome] = await asyncio.gather(reading_task, return_exceptions=True)
        await stream.aclose()
        if outcome is None:
            return
        if isinstance(outcome, CursorExpired):
            assert taken[-1] not in broker.places(), "Expired without need"
            return
        assert isinstance(outcome, asyncio.CancelledError), repr(outcome)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("seed", range(50))
async def test_in_outages_restarts_and_losses_a_stream_is_complete_or_gets_cursor_expired(
    seed: int,
) -> None:
    chance = random.Random(seed)
    broker = RandomFaults(chance)
    linger = Settings(topic_linger=chance.choice([0, 0.002, 0.05]))
    async with leaving_nothing(TopicManager(broker, settings=linger)) as manager:
        await manager.cursor(NUMBERS)
        subscribers = [
            asyncio.create_task(resume_to_the_end(manager, broker, chance)) for _ in range(6)
        ]
        for number in range(150):
            await manager.publish(NUMBERS, number)
            await pause(chance.randrange(6))
            if chance.random() < 0.3:
                broker.change()
        broker.stop()
        await manager.publish(NUMBERS, THE_END)

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*subscribers)


# lost histories


async def test_a_cursor_older_than_the_history_is_expired() -> None:
    async with leaving_nothing(TopicManager(MemoryBroker(length=3))) as manager:
        cursors = await publish_all(manager, range(10))
        stream = manager.subscribe(NUMBERS, after=cursors[0])

        with pytest.raises(CursorExpired):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@pytest.mark.parametrize("after", ["1-0", "9999999999999-1"])
async def test_a_cursor_of_another_history_is_expired(manager: TopicManager, after: str) -> None:
    async with leaving_nothing(manager):
        with pytest.raises(CursorExpired):
            await manager.subscribe(NUMBERS, after=after).start()


async def test_a_lost_history_expires_live_subscribers_and_serves_new_ones() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        old = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        assert await take(old, 1) == [1]
        waiting = await reading(old)

        broker.lose_everything()
        await publish_all(manager, [2])
        with pytest.raises(CursorExpired):
            await waiting

        new = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [3, 4])
        assert await take(new, 2) == [3, 4]
        for stream in (old, new):
            await stream.aclose()


async def test_a_cursor_of_a_new_history_is_valid_while_others_follow_the_old_one() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        old = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        broker.lose_everything()

        new = manager.subscribe(NUMBERS, after=await manager.cursor(NUMBERS))
        waiting = await reading(new)
        await publish_all(manager, [2])
        assert await waiting == 2
        for stream in (old, new):
            await stream.aclose()


async def test_a_replay_of_a_new_history_continues_live_while_others_follow_the_old_one() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        old = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        broker.lose_everything()
        cursor = await manager.cursor(NUMBERS)
        await broker.unsubscribe(NUMBERS.name)
        await publish_all(manager, [2, 3])
        await broker.subscribe(NUMBERS.name)

        new = manager.subscribe(NUMBERS, after=cursor)
        waiting = asyncio.create_task(take(new, 3))
        await wait_until(lambda: new.subscriber.waiting or waiting.done())
        await publish_all(manager, [4])
        assert await waiting == [2, 3, 4]
        for stream in (old, new):
            await stream.aclose()


async def test_events_published_while_a_subscriber_finds_the_new_history_are_no_gap() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        old = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        broker.lose_everything()
        new = await started(manager.subscribe(NUMBERS, after=await manager.cursor(NUMBERS)))

        broker.hold_one_answer = True
        waiting = asyncio.create_task(take(new, 2))
        await wait_until(lambda: not broker.hold_one_answer)
        cursors = await publish_all(manager, [2, 3])
        live_topic = manager.live_topics.by_name[NUMBERS.name]
        await wait_until(lambda: str(live_topic.buffer.last) == cursors[-1])
        broker.answer.set()
        assert await waiting == [2, 3]
        for stream in (old, new):
            await stream.aclose()


async def test_a_history_that_lost_delivered_events_causes_no_silent_gap() -> None:
    broker = LosingItsData()
    async with leaving_nothing(TopicManager(broker)) as manager:
        behind = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [1])
        assert await take(behind, 1) == [1]
        await publish_all(manager, range(2, live_topic.BUFFER_SIZE + 5))
        while (await manager._broker.head(NUMBERS.name)).seq > 1:
            broker.lose_the_newest(NUMBERS.name)

        with pytest.raises(CursorExpired):
            await take(behind, 1)
        await behind.aclose()


@pytest.mark.usefixtures("small_buffers")
async def test_a_gap_beyond_the_history_expires_the_subscribers_before_it() -> None:
    broker = OutOfReach()
    broker._retention = Retention(10, 3600, {})
    async with leaving_nothing(TopicManager(broker)) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        waiting = await reading(stream)
        broker.deaf = True
        await publish_all(manager, range(20))
        broker.deaf = False
        await publish_all(manager, [20])

        with pytest.raises(CursorExpired):
            await waiting
        await stream.aclose()
