"""Finds one event in a history."""

from contextlib import suppress

from gqlnotify.brokers import Broker
from gqlnotify.errors import CursorExpired
from gqlnotify.event import Cursor, Event
from gqlnotify.topics.live_topic import PAGE_SIZE


async def find_event(broker: Broker, topic: str, cursor: Cursor) -> Event | None:
    """Return the event at `cursor`; None if the history does not contain it.

    Raises:
        BrokerUnavailable: The history can't be read.
    """
    if cursor.seq == 0:
        return None
    try:
        page = await broker.read(topic, Cursor(cursor.epoch, cursor.seq - 1), 1)
    except CursorExpired:
        # The event before it is gone, or is of an earlier epoch.
        return await _search(broker, topic, cursor)
    return next((event for event in page if event.cursor == cursor), None)


async def _search(broker: Broker, topic: str, cursor: Cursor) -> Event | None:
    after = await broker.oldest(topic)
    with suppress(CursorExpired):
        while after.seq < cursor.seq:
            page = await broker.read(topic, after, PAGE_SIZE)
            for event in page:
                if event.cursor == cursor:
                    return event
            if not page:
                break
            after = page[-1].cursor
    return None
