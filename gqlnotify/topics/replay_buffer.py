"""The newest part of one topic's history, in order and without a hole. Pure: no I/O, no clock.

The broker's live path may drop, repeat and reorder. A window takes an event only if it is the very
next one; anything later says that the window is stale and has to be caught up from the history.
That is also how it comes into another epoch: only the history knows what the new one goes on from.

                        offer(next)                  offer(later, other epoch)
    fresh ----------------------------> fresh      fresh ----------------------> stale
    stale -- extend(what was missed) --> fresh     stale -- restart(new head) --> fresh, after a gap
"""

from collections import deque
from collections.abc import Iterable
from itertools import islice

from gqlnotify.event import Cursor, Event


class NotBuffered(Exception):
    """The position is older than the window: read the broker's history instead."""


class ReplayBuffer:
    """Up to `size` contiguous events, the last of which is at `last`."""

    def __init__(self, last: Cursor, *, size: int) -> None:
        self.last = last
        self.stale = False
        self._size = size
        self._before_first = last
        self._events: deque[Event] = deque()

    def offer(self, event: Event) -> bool:
        """Take `event` from the live path if it is the next one; tell whether it was taken."""
        if event.cursor == self.last.next():
            self._take(event)
            return True
        self.stale = self.stale or self._unseen(event.cursor)
        return False

    def extend(self, events: Iterable[Event]) -> bool:
        """Take what the history says comes behind a place that this window has been at.

        What arrived live in the meantime is left out. The epoch may change: the history knows.
        """
        for event in events:
            if event.cursor.seq == self.last.seq + 1:
                self._take(event)
            elif not self.reaches_back_to(event.cursor):
                return False
        return True

    def restart(self, head: Cursor) -> None:
        """Go on from `head`, past a gap. Positions before it are `NotBuffered` from here on."""
        self._events.clear()
        self.last = self._before_first = head

    def reaches_back_to(self, position: Cursor) -> bool:
        """Tell whether the events behind `position` are all here, and it is one of ours."""
        missing = self.last.seq - position.seq
        if not 0 <= missing <= len(self._events):
            return False
        return position == self._place(missing)

    def after(self, position: Cursor) -> Event | None:
        """Return the event right behind `position`; None if it hasn't happened yet.

        Raises:
            NotBuffered: it has happened and the window no longer holds it, or never did.
        """
        if position == self.last or self._is_ahead(position):
            return None
        if not self.reaches_back_to(position):
            raise NotBuffered
        return self._events[position.seq - self.last.seq]

    def all_after(self, position: Cursor) -> list[Event]:
        """Return all events behind `position` that have happened.

        Raises:
            NotBuffered: the window no longer holds them all, or never did.
        """
        if position == self.last or self._is_ahead(position):
            return []
        if not self.reaches_back_to(position):
            raise NotBuffered
        known = len(self._events) - (self.last.seq - position.seq)
        return list(islice(self._events, known, None))

    def _take(self, event: Event) -> None:
        self._events.append(event)
        self.last = event.cursor
        if len(self._events) > self._size:
            self._before_first = self._events.popleft().cursor

    def _place(self, missing: int) -> Cursor:
        if missing == len(self._events):
            return self._before_first
        return self._events[-missing - 1].cursor

    def _is_ahead(self, position: Cursor) -> bool:
        return position.epoch == self.last.epoch and position.seq > self.last.seq

    def _unseen(self, cursor: Cursor) -> bool:
        return cursor.epoch != self.last.epoch or cursor.seq > self.last.seq
