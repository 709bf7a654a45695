"""Reads the history of one topic. The caller has checked the right to its events."""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from gqlnotify.errors import CursorExpired
from gqlnotify.event import Cursor, Event, Topic
from gqlnotify.topics.manager import TopicManager

MAX_EVENTS = 100
"""How many events are returned at most."""
MAX_SEARCHED = 5000
"""How many events one search reads at most."""
_PAGE = 250
# How many of the newest events tell how large an event is.
_SAMPLE = 50


@dataclass(frozen=True)
class Measured:
    """What a topic's history contains. The bytes are an estimate."""

    oldest: Cursor
    newest: Cursor
    began_at: float | None
    bytes: int

    @property
    def length(self) -> int:
        """How many events it contains."""
        return self.newest.seq - self.oldest.seq


@dataclass(frozen=True)
class Found:
    """Events, how many were searched for them, and where to continue if there may be more."""

    events: list[Event]
    searched: int
    after: Cursor | None


async def measure(topics: TopicManager, name: str) -> Measured:
    """Return how long and how large the history of a topic is."""
    topic: Topic[Any] = Topic(name, Any)
    oldest, newest = await topics.oldest(topic), await topics.cursor(topic)
    first = await _page(topics, name, oldest, 1)
    sample = await newest_events(topics, name, _SAMPLE)
    mean = sum(len(event.payload) for event in sample) / len(sample) if sample else 0
    return Measured(
        oldest=oldest,
        newest=newest,
        began_at=first[0].published_at if first else None,
        bytes=round(mean * (newest.seq - oldest.seq)),
    )


async def newest_events(topics: TopicManager, name: str, count: int) -> list[Event]:
    """Return the newest events, oldest first."""
    topic: Topic[Any] = Topic(name, Any)
    newest = await topics.cursor(topic)
    try:
        return [*await topics.read(name, Cursor(newest.epoch, max(newest.seq - count, 0)), count)]
    except CursorExpired:
        # There are fewer events, or the epoch has changed in between.
        last = deque[Event](maxlen=count)
        async for event in _all(topics, name, await topics.oldest(topic)):
            last.append(event)
        return [*last]


async def search_events(
    topics: TopicManager, name: str, text: str, after: Cursor | None, count: int
) -> Found:
    """Return the first events after `after` whose id or payload contains `text`.

    Raises:
        CursorExpired: the history no longer reaches back to `after`.
    """
    if after is None:
        after = await topics.oldest(Topic(name, Any))
    events, searched, wanted = list[Event](), 0, text.casefold()
    async for event in _all(topics, name, after):
        searched, after = searched + 1, event.cursor
        if wanted in _text(event):
            events.append(event)
        if len(events) == count or searched == MAX_SEARCHED:
            return Found(events, searched, after)
    return Found(events, searched, None)


def _text(event: Event) -> str:
    payload = event.payload.decode(errors="replace")
    return f"{event.id or ''} {payload}".casefold()


async def _all(topics: TopicManager, name: str, after: Cursor) -> AsyncIterator[Event]:
    while page := await topics.read(name, after, _PAGE):
        for event in page:
            yield event
        after = page[-1].cursor


async def _page(topics: TopicManager, name: str, after: Cursor, limit: int) -> list[Event]:
    try:
        return [*await topics.read(name, after, limit)]
    except CursorExpired:
        # It was trimmed in the meantime, or there is none.
        return []
