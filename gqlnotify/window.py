"""The newest part of one topic's history, in order and without a hole. Pure: no I/O, no clock.

The broker's live path may drop, repeat and reorder. A window takes an event only if it is the very
next one; anything later says that the window is stale and has to be caught up from the history.

                        offer(next)                  offer(later, other epoch)
    fresh ----------------------------> fresh      fresh ----------------------> stale
    stale -- extend(what was missed) --> fresh     stale -- restart(new head) --> fresh, after a gap
"""

from collections import deque
from collections.abc import Iterable

from gqlnotify.event import Cursor, Event


class Behind(Exception):
    """The position is older than the window: read the broker's history instead."""


class Window:
    """Up to `size` contiguous events, the last of which is at `last`."""

    def __init__(self, last: Cursor, *, size: int) -> None:
        self.last = last
        self.stale = False
        self._events: deque[Event] = deque(maxlen=size)

    def offer(self, event: Event) -> bool:
        """Take `event` if it is the next one; tell whether it was taken."""
        if event.cursor == self.last.next():
            self._events.append(event)
            self.last = event.cursor
            return True
        self.stale = self.stale or self._unseen(event.cursor)
        return False

    def extend(self, events: Iterable[Event]) -> None:
        """Take what the history gave, leaving out what arrived live in the meantime."""
        for event in events:
            self.offer(event)

    def restart(self, head: Cursor) -> None:
        """Go on from `head`, past a gap. Positions before it are `Behind` from here on."""
        self._events.clear()
        self.last = head

    def after(self, position: Cursor) -> Event | None:
        """Return the event right behind `position`; None if it hasn't happened yet.

        Raises:
            Behind: it has happened and the window no longer holds it, or never did.
        """
        if position.epoch != self.last.epoch:
            raise Behind
        missing = self.last.seq - position.seq
        if missing <= 0:
            return None
        if missing > len(self._events):
            raise Behind
        return self._events[-missing]

    def _unseen(self, cursor: Cursor) -> bool:
        return cursor.epoch != self.last.epoch or cursor.seq > self.last.seq
