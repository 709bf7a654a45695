"""How a subscription applies `where` and `map` to each event."""

import pytest

from gqlnotify import TopicManager
from tests.streams import (
    NUMBERS,
    publish_all,
    started,
    take,
)

pytestmark = pytest.mark.usefixtures("no_linger")


async def test_a_filter_passes_the_values_for_which_it_is_true(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS, where=lambda number: number % 3 == 0))
    cursors = await publish_all(manager, range(10))

    assert await take(stream, 4) == [0, 3, 6, 9]
    assert str(stream.cursor) == cursors[9]


async def test_a_filter_applies_to_replayed_events(manager: TopicManager) -> None:
    start = await manager.cursor(NUMBERS)
    await publish_all(manager, range(5))

    assert await take(manager.subscribe(NUMBERS, after=start, where=lambda n: n > 2), 2) == [3, 4]


async def test_map_gets_each_value_and_its_event(manager: TopicManager) -> None:
    plain = manager.subscribe(NUMBERS, where=lambda number: number > 1)
    stream = plain.map(lambda number, event: (number * 10, event.cursor.seq))
    stream = stream.map(lambda pair, event: (*pair, event.topic))  # type: ignore[arg-type, return-value]
    await stream.start()
    await publish_all(manager, [1, 2])

    assert await take(stream, 1) == [(20, 2, "numbers")]


async def test_map_keeps_the_cursor_to_start_after(manager: TopicManager) -> None:
    cursors = await publish_all(manager, [1, 2])

    stream = manager.subscribe(NUMBERS, after=cursors[0]).map(lambda number, event: -number)
    assert await take(stream, 1) == [-2]


async def test_a_started_subscription_can_not_be_mapped(manager: TopicManager) -> None:
    stream = await started(manager.subscribe(NUMBERS))

    with pytest.raises(RuntimeError, match="started"):
        stream.map(lambda number, event: number)


async def test_a_failing_filter_affects_only_its_own_subscriber(
    manager: TopicManager,
) -> None:
    broken = await started(manager.subscribe(NUMBERS, where=lambda number: 1 // number > 0))
    sound = await started(manager.subscribe(NUMBERS))
    await publish_all(manager, [0, 1])

    with pytest.raises(ZeroDivisionError):
        await take(broken, 1)
    assert await take(sound, 2) == [0, 1]
    assert await take(broken, 1) == [1]


async def test_an_event_of_another_type_is_skipped(
    manager: TopicManager,
) -> None:
    stream = await started(manager.subscribe(NUMBERS))
    await manager.publish_bytes(NUMBERS.name, b'"from another version"')
    await publish_all(manager, [1])

    assert await take(stream, 1) == [1]
