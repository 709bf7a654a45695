"""Publishing, starting and closing a `TopicManager`."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gqlnotify import Cursor, Event, Settings, Topic, TopicManager
from gqlnotify.auth import viewing
from gqlnotify.brokers import Deliver, MemoryBroker, OnPossibleGap
from gqlnotify.errors import (
    BadUserInput,
    BrokerUnavailable,
    CursorExpired,
    Forbidden,
    InternalError,
    TopicsClosed,
)
from tests.bad_brokers import (
    AnsweringLate,
    LosingItsData,
    OutOfReach,
    pause,
)
from tests.streams import (
    NUMBERS,
    ended,
    leaving_nothing,
    publish_all,
    reading,
    started,
    take,
    viewer,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_linger")

ROOMS = Topic("rooms.<room>", int)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


async def test_publishing_without_the_right_is_forbidden(manager: TopicManager) -> None:
    with viewing(viewer(subscribe=["*"], publish=["other"])), pytest.raises(Forbidden):
        await manager.publish(NUMBERS, 1)
    with viewing(viewer(publish=["numbers"])):
        assert (await manager.publish(NUMBERS, 1)).seq == 1


# publishing


async def test_publishing_again_with_the_same_event_id_has_no_effect(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    first = await manager.publish(NUMBERS, 1, event_id="a")

    assert await manager.publish(NUMBERS, 1, event_id="a") == first
    await manager.publish(NUMBERS, 2)
    assert await take(stream, 2) == [1, 2]


async def test_a_value_of_the_wrong_type_is_not_published(manager: TopicManager) -> None:
    with pytest.raises(InternalError, match="int"):
        await manager.publish(Topic[Any]("numbers", int), "one")

    assert (await manager.publish(NUMBERS, 1)).seq == 1


async def test_the_size_of_an_event_is_limited() -> None:
    manager = TopicManager(MemoryBroker(), settings=Settings(event_max_bytes=10))
    text = Topic("text", str)

    await manager.publish(text, "12345678")
    with pytest.raises(BadUserInput, match="10 bytes"):
        await manager.publish(text, "123456789")


@pytest.mark.parametrize("event_id", ["", "x" * 401])
async def test_an_event_id_that_is_empty_or_too_long_is_refused(
    manager: TopicManager, event_id: str
) -> None:
    with pytest.raises(BadUserInput, match="event id"):
        await manager.publish(NUMBERS, 1, event_id=event_id)
    await manager.publish(NUMBERS, 1, event_id="x" * 400)


@pytest.mark.parametrize("name", ["", "a b", "a.", "x" * 201])
async def test_an_invalid_topic_name_is_refused(manager: TopicManager, name: str) -> None:
    with pytest.raises(BadUserInput):
        await manager.publish_bytes(name, b"1")


@pytest.mark.parametrize(
    "topic", ["gqlnotify.survey.requests", Topic("<app>.presence", int)(app="gqlnotify")]
)
async def test_a_topic_of_gqlnotify_itself_is_closed_even_without_tokens(
    manager: TopicManager, topic: Topic[int] | str
) -> None:
    with pytest.raises(BadUserInput, match="not for applications"):
        await manager.publish(topic, 1)
    if isinstance(topic, Topic):
        with pytest.raises(BadUserInput, match="not for applications"):
            await manager.subscribe(topic).start()


async def test_topics_with_different_parameters_are_different_topics(manager: TopicManager) -> None:
    first, second = [await started(manager.subscribe(ROOMS(room=n))) for n in (1, 2)]
    await manager.publish(ROOMS(room=2), 22)
    await manager.publish(ROOMS(room=1), 11)

    assert (await take(first, 1), await take(second, 1)) == ([11], [22])


async def test_a_topic_without_its_parameters_can_be_neither_published_nor_read(
    manager: TopicManager,
) -> None:
    with pytest.raises(BadUserInput, match="room"):
        await manager.publish(ROOMS, 1)
    with pytest.raises(BadUserInput, match="room"):
        manager.subscribe(ROOMS)
    with pytest.raises(BadUserInput, match="room"):
        await manager.cursor(ROOMS)


# publishing from a thread


async def test_a_thread_publishes_and_gets_the_cursor(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    cursor = await asyncio.to_thread(manager.publish_sync, NUMBERS, 7, event_id="a")

    assert await take(stream, 1) == [7]
    assert stream.cursor == cursor
    assert await asyncio.to_thread(manager.publish_sync, NUMBERS, 7, event_id="a") == cursor


async def test_a_thread_is_refused_like_any_other_publisher(manager: TopicManager) -> None:
    await manager.start()
    with pytest.raises(InternalError):
        await asyncio.to_thread(manager.publish_sync, NUMBERS, "one")  # type: ignore[arg-type]
    with viewing(viewer()), pytest.raises(Forbidden):
        await asyncio.to_thread(manager.publish_sync, NUMBERS, 1)


async def test_a_thread_with_its_own_event_loop_can_publish(manager: TopicManager) -> None:
    await manager.start()

    async def elsewhere() -> Cursor:
        return manager.publish_sync(NUMBERS, 1)

    assert (await asyncio.to_thread(asyncio.run, elsewhere())).seq == 1


async def test_another_event_loop_gets_an_error_that_names_publish_sync(
    manager: TopicManager,
) -> None:
    stream = await started(manager.subscribe(NUMBERS))

    def elsewhere() -> None:
        asyncio.run(manager.publish(NUMBERS, 1))

    with pytest.raises(RuntimeError, match="publish_sync"):
        await asyncio.to_thread(elsewhere)
    await publish_all(manager, [2])
    assert await take(stream, 1) == [2]
    await stream.aclose()


async def test_publish_sync_in_the_thread_of_the_loop_is_refused(manager: TopicManager) -> None:
    await manager.start()

    with pytest.raises(RuntimeError, match="await"):
        manager.publish_sync(NUMBERS, 1)


async def test_publish_sync_needs_a_manager_that_is_started(
    manager: TopicManager,
) -> None:
    with pytest.raises(RuntimeError, match="started"):
        await asyncio.to_thread(manager.publish_sync, NUMBERS, 1)
    await manager.start()
    await manager.close()
    with pytest.raises(RuntimeError, match="started"):
        await asyncio.to_thread(manager.publish_sync, NUMBERS, 1)


def test_publish_sync_fails_after_the_event_loop_closed() -> None:
    manager = TopicManager(MemoryBroker())
    asyncio.run(manager.start())

    with pytest.raises(RuntimeError, match="closed"):
        manager.publish_sync(NUMBERS, 1)
    gc.collect()


async def test_publish_sync_waits_no_longer_than_its_timeout() -> None:
    broker = AnsweringLate("start")
    manager = TopicManager(broker)
    starting = asyncio.create_task(manager.start())
    await wait_until(lambda: broker.held)

    with pytest.raises(TimeoutError):
        await asyncio.to_thread(manager.publish_sync, NUMBERS, 1, timeout=0.01)
    broker.answer.set()
    await starting
    await manager.close()


async def test_many_threads_at_once_publish_each_event_once(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    threads = [threading.Thread(target=manager.publish_sync, args=(NUMBERS, n)) for n in range(20)]
    for thread in threads:
        thread.start()

    assert sorted(await take(stream, 20)) == list(range(20))
    for thread in threads:
        await asyncio.to_thread(thread.join)


# start and close


async def test_concurrent_starts_start_the_broker_once() -> None:
    broker = AnsweringLate("start")
    manager = TopicManager(broker)
    starts = [asyncio.create_task(manager.start()) for _ in range(5)]
    await wait_until(lambda: broker.held)
    broker.answer.set()
    await asyncio.gather(*starts)
    await manager.start()

    assert broker.held == 1
    await manager.close()


async def test_a_start_without_a_broker_fails_at_once_and_can_be_retried() -> None:
    broker = OutOfReach("start")
    async with leaving_nothing(TopicManager(broker)) as manager:
        with pytest.raises(BrokerUnavailable):
            await manager.start()
        with pytest.raises(BrokerUnavailable):
            await manager.publish(NUMBERS, 1)
        broker.down.clear()
        assert (await manager.publish(NUMBERS, 1)).seq == 1


@pytest.mark.usefixtures("small_buffers")
async def test_a_start_waits_for_the_broker_and_logs_each_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = OutOfReach("start")
    manager = TopicManager(broker, settings=Settings(broker_wait=3600))
    publishing = asyncio.create_task(manager.publish(NUMBERS, 1))
    await wait_until(lambda: broker.failed > 2)
    assert not publishing.done()
    broker.down.clear()

    assert (await publishing).seq == 1
    assert len(warnings_in(caplog)) == broker.failed
    assert all("No start" in line for line in warnings_in(caplog))
    await manager.close()


@pytest.mark.usefixtures("small_buffers")
async def test_a_start_waits_no_longer_than_broker_wait(caplog: pytest.LogCaptureFixture) -> None:
    broker = OutOfReach("start")
    manager = TopicManager(broker, settings=Settings(broker_wait=0.05))
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(BrokerUnavailable, match="No start"):
        await manager.start()

    longest_delay = 0.002
    assert loop.time() - began >= 0.05 - longest_delay
    assert broker.failed > 2
    assert len(warnings_in(caplog)) == broker.failed - 1


@pytest.mark.usefixtures("small_buffers")
async def test_a_waiting_start_can_be_cancelled_and_retried() -> None:
    broker = OutOfReach("start")
    tasks = asyncio.all_tasks()
    manager = TopicManager(broker, settings=Settings(broker_wait=3600))
    starting = asyncio.create_task(manager.start())
    await wait_until(lambda: broker.failed > 1)
    starting.cancel()
    await ended(starting)
    assert asyncio.all_tasks() <= tasks

    broker.down.clear()
    await manager.start()
    await manager.close()


async def test_close_during_the_start_leaves_no_connection_open() -> None:
    class Connecting(AnsweringLate):
        connected = False

        async def start(self, deliver: Deliver, on_possible_gap: OnPossibleGap) -> None:
            await super().start(deliver, on_possible_gap)
            self.connected = True

        async def close(self) -> None:
            await super().close()
            self.connected = False

    broker = Connecting("start")
    manager = TopicManager(broker)
    starting = asyncio.create_task(manager.start())
    await wait_until(lambda: broker.held)
    closing = asyncio.create_task(manager.close())
    await pause(3)
    broker.answer.set()
    await asyncio.wait([starting, closing])

    assert not broker.connected


async def test_check_fails_while_the_broker_can_not_be_reached() -> None:
    broker = OutOfReach()
    manager = TopicManager(broker)
    await manager.check()
    broker.down = {"check"}
    with pytest.raises(BrokerUnavailable, match="No check"):
        await manager.check()
    broker.down.clear()
    await manager.check()

    assert broker.calls["start"] == 1
    await manager.close()


async def test_check_fails_if_the_broker_can_not_be_started() -> None:
    manager = TopicManager(OutOfReach("start"))

    with pytest.raises(BrokerUnavailable, match="No start"):
        await manager.check()


async def test_cursor_fails_without_a_broker() -> None:
    manager = TopicManager(OutOfReach("head"))

    with pytest.raises(BrokerUnavailable):
        await manager.cursor(NUMBERS)


async def test_close_ends_every_subscription(manager: TopicManager) -> None:
    streams = [
        await started(manager.subscribe(topic)) for topic in (NUMBERS, NUMBERS, ROOMS(room=1))
    ]
    waiting = [await reading(stream) for stream in streams]
    await manager.close()

    for read in waiting:
        with pytest.raises(StopAsyncIteration):
            await read
    assert not manager.live_topics.by_name


async def test_close_ends_a_subscription_whose_topic_is_opening() -> None:
    broker = AnsweringLate("head")
    manager = TopicManager(broker)
    stream = manager.subscribe(NUMBERS)
    waiting = asyncio.create_task(anext(stream))
    await wait_until(lambda: broker.held)
    await manager.close()
    broker.answer.set()

    with pytest.raises(StopAsyncIteration):
        await waiting
    assert not manager.live_topics.by_name


async def test_a_topic_whose_head_arrives_at_close_begins_nothing_more() -> None:
    broker = AnsweringLate("head")
    manager = TopicManager(broker)
    waiting = asyncio.create_task(anext(manager.subscribe(NUMBERS)))
    await wait_until(lambda: broker.held)
    # The topic has to read the history, because the head may not include this event.
    await publish_all(manager, [1])
    broker.answer.set()
    await manager.close()

    with pytest.raises(StopAsyncIteration):
        await waiting
    assert not broker.calls["read"]


async def closed_while_starting(
    broker: AnsweringLate, manager: TopicManager
) -> "list[asyncio.Task[None]]":
    """Return the start, which waits for the broker, and the close, which waits for the start."""
    starting = asyncio.create_task(manager.start())
    await wait_until(lambda: broker.held)
    closing = asyncio.create_task(manager.close())
    await pause(1)
    return [starting, closing]


async def test_a_subscription_that_comes_during_close_does_not_start_the_broker_again() -> None:
    broker = AnsweringLate("start")
    manager = TopicManager(broker)
    both = await closed_while_starting(broker, manager)
    late = asyncio.create_task(manager.subscribe(NUMBERS).start())
    await pause(1)
    broker.answer.set()

    with pytest.raises(TopicsClosed):
        await late
    await asyncio.wait(both)
    assert not manager.is_running
    assert broker.calls["start"] == 1


async def test_what_comes_between_a_start_and_its_close_does_not_reopen_the_manager() -> None:
    broker = AnsweringLate("start")
    manager = TopicManager(broker)
    both = await closed_while_starting(broker, manager)
    broker.answer.set()
    late = [asyncio.create_task(pause_and_open(manager, turns)) for turns in range(5)]

    await asyncio.wait([*both, *late])
    assert all(isinstance(each.exception(), TopicsClosed) for each in late)
    assert not manager.is_running


async def pause_and_open(manager: TopicManager, turns: int) -> None:
    await pause(turns)
    await manager.require_open()


@pytest.mark.usefixtures("small_buffers")
async def test_close_stops_catching_up() -> None:
    broker = OutOfReach()
    manager = TopicManager(broker)
    tasks = asyncio.all_tasks()
    stream = await started(manager.subscribe(NUMBERS))
    broker.down = {"read"}
    broker.on_possible_gap(NUMBERS.name)
    await wait_until(lambda: broker.failed)
    await manager.close()

    await wait_until(lambda: asyncio.all_tasks() <= tasks)
    assert [number async for number in stream] == []


async def test_a_topic_that_was_opening_at_close_does_not_disturb_the_next_start() -> None:
    broker = LosingItsData()
    manager = TopicManager(broker, settings=Settings(topic_linger=0.001))
    tasks = asyncio.all_tasks()
    broker.hold_one_answer = True
    old = asyncio.create_task(manager.subscribe(NUMBERS).__anext__())
    await wait_until(lambda: manager._started and not broker.hold_one_answer)
    await manager.close()
    await manager.start()
    new = await started(manager.subscribe(NUMBERS))
    broker.answer.set()
    await ended(old)
    await wait_until(lambda: asyncio.all_tasks() <= tasks)

    await publish_all(manager, [1])
    assert await take(new, 1) == [1]
    await manager.close()


async def test_a_start_during_the_close_waits_for_its_end_and_reopens_the_manager() -> None:
    class ClosingLate(OutOfReach):
        def __init__(self) -> None:
            super().__init__()
            self.closing, self.may_close = asyncio.Event(), asyncio.Event()

        async def close(self) -> None:
            self.closing.set()
            await self.may_close.wait()
            await super().close()

    broker = ClosingLate()
    manager = TopicManager(broker)
    await manager.start()
    closing = asyncio.create_task(manager.close())
    await broker.closing.wait()
    starting = asyncio.create_task(manager.start())
    await pause(3)
    assert broker.calls["start"] == 1
    broker.may_close.set()
    await asyncio.gather(closing, starting)

    assert manager.is_running
    await publish_all(manager, [1])
    assert broker.calls["start"] == 2
    await manager.close()


async def test_a_closed_manager_can_start_again(manager: TopicManager) -> None:
    await manager.start()
    await manager.close()
    await manager.start()
    stream = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, [1])

    assert await take(stream, 1) == [1]


def test_a_manager_works_in_a_new_event_loop() -> None:
    manager = TopicManager(MemoryBroker())

    async def run_once(number: int) -> None:
        stream = await started(manager.subscribe(NUMBERS))
        await publish_all(manager, [number])
        assert await take(stream, 1) == [number]

    for number in range(3):
        asyncio.run(run_once(number))


def test_an_event_loop_finds_no_events_of_an_earlier_loop() -> None:
    manager = TopicManager(MemoryBroker())

    async def run_once(number: int) -> str:
        stream = await started(manager.subscribe(NUMBERS))
        cursor = await manager.publish(NUMBERS, number, event_id="the same in each life")
        assert await take(stream, 1) == [number]
        return str(cursor)

    async def resume(after: str) -> None:
        with pytest.raises(CursorExpired):
            await started(manager.subscribe(NUMBERS, after=after))

    first, second = asyncio.run(run_once(1)), asyncio.run(run_once(2))
    for cursor in (first, second):
        asyncio.run(resume(cursor))


# the shutdown of an application


async def test_a_closed_manager_can_publish_and_leaves_no_task(redis_url: str) -> None:
    manager = TopicManager(settings=Settings(broker_url=redis_url))
    cursor = await manager.cursor(NUMBERS)
    await manager.close()
    tasks = asyncio.all_tasks()

    await asyncio.gather(*(manager.publish(NUMBERS, number) for number in (1, 2)))
    await wait_until(lambda: asyncio.all_tasks() <= tasks)

    await manager.start()
    assert sorted(await take(manager.subscribe(NUMBERS, after=cursor), 2)) == [1, 2]
    await manager.close()


async def test_the_last_user_of_a_shared_manager_closes_it(manager: TopicManager) -> None:
    async with manager.held_open():
        async with manager.held_open():
            stream = await started(manager.subscribe(NUMBERS))
        await manager.publish(NUMBERS, 1)
        assert await take(stream, 1) == [1]

    with pytest.raises(TopicsClosed):
        await manager.cursor(NUMBERS)


async def test_a_closed_manager_does_not_restart_by_itself(manager: TopicManager) -> None:
    await manager.publish(NUMBERS, 1)
    await manager.close()
    tasks = asyncio.all_tasks()
    asks: list[Callable[[], Awaitable[Any]]] = [
        *(manager.check, lambda: manager.cursor(NUMBERS), lambda: manager.oldest(NUMBERS)),
        manager.subscribe(NUMBERS).start,
    ]
    for ask in asks:
        with pytest.raises(TopicsClosed):
            await ask()
    await manager.publish(NUMBERS, 2)

    assert not manager._started
    assert asyncio.all_tasks() <= tasks


def test_the_settings_choose_the_broker() -> None:
    assert isinstance(TopicManager()._broker, MemoryBroker)
    with pytest.raises(ValueError, match="nowhere"):
        TopicManager(settings=Settings(broker_url="nowhere://"))


async def test_late_deliveries_of_a_topic_without_subscribers_are_dropped() -> None:
    deliver: list[Callable[[Event], None]] = []

    class Remembering(MemoryBroker):
        async def start(self, deliver_: Deliver, on_possible_gap: OnPossibleGap) -> None:
            deliver.append(deliver_)
            await super().start(deliver_, on_possible_gap)

    async with leaving_nothing(TopicManager(Remembering())) as manager:
        stream = await started(manager.subscribe(NUMBERS))
        await stream.aclose()
        await wait_until(lambda: not manager.live_topics.by_name)
        deliver[0](Event("numbers", Cursor(1, 1), b"1"))
        assert not manager.live_topics.by_name


@pytest.mark.parametrize("broker", ["memory://", Settings(), MemoryBroker])
def test_an_argument_that_is_no_broker_is_refused_with_what_to_pass(broker: Any) -> None:
    with pytest.raises(TypeError, match=r"Settings\(broker_url="):
        TopicManager(broker)
