"""The newest part of one topic's history, in order and without gaps. Pure: no I/O, no clock.

The broker's live path may drop, repeat and reorder events. The buffer accepts an event only if it
is the next one. A later event marks the buffer stale: it has to catch up from the history. A new
epoch also goes through the history, which alone knows where that epoch continues.

                        offer(next)                  offer(later, other epoch)
    fresh ----------------------------> fresh      fresh ----------------------> stale
    stale -- extend(what was missed) --> fresh     stale -- restart(new head) --> fresh, after a gap
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from gqlnotify.event import Cursor, Event


class NotBuffered(Exception):
    """The position is older than the buffer: read the broker's history instead."""


class ReplayBuffer:
    """Up to `size` contiguous events. The last one has the cursor `last`."""

    def __init__(self, last: Cursor, *, size: int) -> None:
        self.last = last
        self.stale = False
        self._size = size
        self._before_first = last
        self._events: deque[Event] = deque()

    def offer(self, event: Event) -> bool:
        """Take `event` from the live path if it is the next one. Return whether it was taken."""
        if self._is_next(event.cursor):
            self._take(event)
            return True
        self.stale = self.stale or self._unseen(event.cursor)
        return False

    def extend(self, events: Iterable[Event]) -> bool:
        """Take the events that follow an earlier position of this buffer in the history.

        Skips events that arrived live in the meantime. The epoch may change. Returns False if the
        events do not fit: the buffer then has to restart.
        """
        for event in events:
            if event.cursor.seq == self.last.seq + 1:
                self._take(event)
            elif not self.reaches_back_to(event.cursor):
                return False
        return True

    def prepend(self, after: Cursor, events: Sequence[Event]) -> None:
        """Take the events between `after` and this buffer, if all of them are here and have room.

        `events` follow `after` in the history, and may go on beyond the start of this buffer.
        """
        missing = self._before_first.seq - after.seq
        if not 0 < missing <= min(len(events), self._size - len(self._events)):
            return
        if events[missing - 1].cursor == self._before_first:
            self._events.extendleft(reversed(events[:missing]))
            self._before_first = after

    def restart(self, head: Cursor) -> None:
        """Continue from `head`, after a gap. From now on, earlier positions are `NotBuffered`."""
        self._events.clear()
        self.last = self._before_first = head

    def reaches_back_to(self, position: Cursor) -> bool:
        """Return whether the buffer knows `position` and holds all events after it."""
        missing = self.last.seq - position.seq
        if not 0 <= missing <= len(self._events):
            return False
        # `seq` has no holes, so only the epoch can differ.
        return position.epoch == self._place(missing).epoch

    def has_all_after(self, position: Cursor) -> bool:
        """Return whether `after` never raises `NotBuffered` for `position`."""
        return self._is_at_end(position) or self.reaches_back_to(position)

    def after(self, position: Cursor) -> Event | None:
        """Return the first event after `position`; None if there is none yet.

        Raises:
            NotBuffered: There is one, but the buffer no longer contains it.
        """
        if self._is_at_end(position):
            return None
        if not self.reaches_back_to(position):
            raise NotBuffered
        return self._events[position.seq - self.last.seq]

    def all_after(self, position: Cursor) -> list[Event]:
        """Return all events after `position`.

        Raises:
            NotBuffered: The buffer no longer contains all of them.
        """
        if self._is_at_end(position):
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

    def _is_next(self, cursor: Cursor) -> bool:
        return cursor.epoch == self.last.epoch and cursor.seq == self.last.seq + 1

    def _is_at_end(self, position: Cursor) -> bool:
        return position.epoch == self.last.epoch and position.seq >= self.last.seq

    def _unseen(self, cursor: Cursor) -> bool:
        return cursor.epoch != self.last.epoch or cursor.seq > self.last.seq
