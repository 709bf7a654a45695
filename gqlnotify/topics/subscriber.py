"""A position in a topic's history that moves forward event by event.

All subscribers of a topic take events from one shared buffer. A subscriber that is older than the
buffer reads the broker's history instead. So no subscriber has a queue, a slow one costs no memory,
and no event is lost or repeated between replay and live delivery.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gqlnotify.errors import BrokerUnavailable, CursorExpired
from gqlnotify.event import Cursor, Event
from gqlnotify.observability import trace
from gqlnotify.topics.conflation import Skipped, conflate
from gqlnotify.topics.live_topic import LiveTopic
from gqlnotify.topics.reading import Reader, place_of
from gqlnotify.topics.replay_buffer import NotBuffered
from gqlnotify.topics.resumption import Progress

if TYPE_CHECKING:
    from gqlnotify.topics.manager import TopicManager

NOWHERE = Cursor(0, 0)
"""Where a client has got to that has nothing yet."""

KeyOf = Callable[[Event], Hashable | Skipped]
"""Returns the conflation key of an event; see `conflate`."""


class Subscriber:
    """Reads the events of one topic after a position."""

    def __init__(
        self,
        manager: "TopicManager",
        topic: str,
        *,
        on_wake: Callable[[], None] | None = None,
        key_of: KeyOf | None = None,
    ) -> None:
        self.topic = topic
        self.position = Cursor(0, 0)
        self.closed = False
        self.left_out = 0
        """How many events `take_latest` dropped right before the last one that it returned."""
        self.expired: CursorExpired | None = None
        """Why it is at the topic's position instead of its own, until `take_expired`."""
        self.progress: Progress | None = None
        """Set if the client may resume without a cursor, and so does not handle `CursorExpired`.

        `next` notes here that its caller has passed on the previous event.
        """
        self.takes_snapshots = False
        """Whether its client gets a snapshot if it has missed events, or has none yet."""
        self.useless_snapshots = 0
        """How many snapshots in a row were followed by a gap, and not by an event."""
        self.left_at = NOWHERE
        """Where its client may have got to before the last gap: a snapshot must not be older."""
        self.redelivered_until: Cursor | None = None
        """Events up to this cursor may have been sent to the same client before."""
        self.reader: Reader | None = None
        """For whom it reads; None if it reads for a group or for the library itself."""
        self._manager = manager
        self._snapshot_at: Cursor | None = None
        self._live_topic: LiveTopic | None = None
        self._on_wake = on_wake
        self._key_of = key_of
        self._backlog: deque[Event] = deque()
        self._latest: deque[tuple[Event, int]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._patience: asyncio.Timeout | None = None

    def __del__(self) -> None:
        if not self.closed and self._live_topic is not None:
            self._manager.live_topics.was_dropped(self._live_topic)

    @property
    def reached(self) -> Cursor:
        """Up to where every event has been passed on, or is being passed on."""
        return self.position if self.progress is None else self.progress.reached

    @property
    def always_listens(self) -> bool:
        """Whether the topic also wakes it while no task waits for its next event."""
        return self._on_wake is not None

    @property
    def waiting(self) -> bool:
        """Whether a task waits for the next change."""
        return self._waiter is not None

    @property
    def started(self) -> bool:
        """Whether `open` has joined the topic."""
        return self._live_topic is not None

    @property
    def lacks_snapshot(self) -> bool:
        """Whether its client needs a snapshot before it can use further events."""
        return self.takes_snapshots and self.expired is not None and not self.closed

    @property
    def is_at_snapshot(self) -> bool:
        """Whether it has taken no event after a snapshot."""
        return self.position == self._snapshot_at

    @property
    def reached_by_client(self) -> Cursor:
        """Where its client would continue if it came back now."""
        return NOWHERE if self.lacks_snapshot else self.position

    @property
    def newest(self) -> Cursor:
        """The cursor of the topic's last event that this process knows."""
        return self._open_topic.buffer.last

    def can_follow(self, cursor: Cursor) -> bool:
        """Return whether this process has all events after `cursor` at hand."""
        return self._open_topic.buffer.has_all_after(cursor)

    async def open(self, after: Cursor | None = None, *, or_live: bool = False) -> None:
        """Join the topic at `after`, or at its current position.

        Args:
            after: the cursor of the last event that is known.
            or_live: if the history no longer reaches back to `after`, begin at the current
                position, and keep the error as `expired`.

        Raises:
            CursorExpired: the history no longer reaches back to `after`.
            BrokerUnavailable: the broker has never been reached. After a first success, this waits
                for the broker instead.
        """
        try:
            # No deadline at first: `close` sets one to end the wait.
            async with asyncio.timeout(None) as self._patience:
                await self._manager.require_open()
                self._live_topic = await self._manager.live_topics.join(self.topic, self)
        except TimeoutError:
            if self.closed:
                return
            raise
        finally:
            self._patience = None
        self.position = self._live_topic.buffer.last
        if self.closed:
            self._manager.live_topics.leave(self._live_topic, self)
        elif after is not None:
            await self._resume(after, or_live)

    async def rewind(self, after: Cursor, *, redelivered_until: Cursor) -> CursorExpired | None:
        """Go back to `after`, because a client comes back without a cursor.

        Returns the error if the history no longer reaches back to `after`, which may be `NOWHERE`.
        The position then stays the same.
        """
        if after == NOWHERE:
            self.expired = CursorExpired("The client has nothing yet")
        else:
            await self._resume(after, or_live=True)
        if self.expired is not None:
            self._leave_at(redelivered_until)
            return self.expired
        self.redelivered_until = redelivered_until
        self._note_resumed(after)
        return None

    def skip_gap(self, expired: CursorExpired) -> None:
        """Continue at the topic's position, because events before it are lost."""
        self._note_gap(self.position, self._open_topic.buffer.last)
        self.useless_snapshots = self.useless_snapshots + 1 if self.is_at_snapshot else 0
        self._leave_at(self.position)
        self.expired, self.position = expired, self._open_topic.buffer.last
        self._backlog.clear()
        self._latest.clear()

    def _leave_at(self, position: Cursor) -> None:
        # Not later than there are events: the client may have made the cursor up.
        self.left_at = min(position, self.newest)

    def begin_after(self, cursor: Cursor) -> None:
        """Continue after `cursor`, that of a snapshot which the client gets now."""
        self.expired = self.redelivered_until = None
        self.position = self._snapshot_at = cursor
        self._backlog.clear()
        self._latest.clear()
        self.note_sent()

    def take_expired(self) -> CursorExpired | None:
        """Return why it is not at its own position, once: the caller tells its client."""
        expired, self.expired = self.expired, None
        return expired

    def note_sent(self) -> None:
        """Note that the event at the position is being sent to a client."""
        if self.progress is not None:
            self.progress.sent = self.position
        if trace.live.on:
            self._step(trace.Kind.SENT)

    def note_filtered(self) -> None:
        """Note that the event at the position is not for the client."""
        if trace.live.on:
            self._step(trace.Kind.FILTERED)

    def _step(self, kind: trace.Kind) -> None:
        reader = self.reader
        if reader is not None:
            trace.live.step(
                kind,
                topic=self.topic,
                cursor=self.position,
                subject=reader.subject,
                connection=reader.connection,
                text=(kind is trace.Kind.FILTERED and place_of(reader.projection.where)) or "",
            )

    def may_repeat(self, event: Event) -> bool:
        """Return whether `event` may have been sent to the same client before."""
        return self.redelivered_until is not None and event.cursor <= self.redelivered_until

    @property
    def is_past_repeats(self) -> bool:
        """Whether all further events are new for the client."""
        return self.redelivered_until is None or self.position >= self.redelivered_until

    def fork(
        self, position: Cursor | None = None, *, on_wake: Callable[[], None] | None = None
    ) -> "Subscriber":
        """Return a new subscriber of the same topic, at `position` or at the current position.

        The fork of a closed subscriber is closed.
        """
        fork = Subscriber(self._manager, self.topic, on_wake=on_wake, key_of=self._key_of)
        fork.takes_snapshots = self.takes_snapshots
        fork.left_at = self.left_at
        fork._live_topic = live_topic = self._open_topic
        fork.position = live_topic.buffer.last if position is None else position
        fork.closed = self.closed
        if not fork.closed:
            live_topic.add(fork)
        return fork

    def take(self) -> Event | None:
        """Return the next event; None if there is none yet.

        Raises:
            NotBuffered: it is only in the history: call `refill` first.
        """
        if self._backlog:
            event: Event | None = self._backlog.popleft()
        else:
            event = self._open_topic.buffer.after(self.position)
        if event is not None:
            self.position = event.cursor
        return event

    def take_latest(self) -> Event | None:
        """Return the next event, as `take` does, but skip those that a later one replaces.

        This conflates all waiting events at once, and then returns the remaining ones before it
        looks at newer events. If it conflated again for each event, a subscriber that is always
        slow could receive the same key again and again, and never the others.

        Raises:
            NotBuffered: see `take`.
        """
        if self._key_of is None:
            return self.take()
        if not self._latest:
            self._latest.extend(conflate(self._waiting_events(), self._key_of))
            self._backlog.clear()
        if not self._latest:
            return None
        event, self.left_out = self._latest.popleft()
        self.position = event.cursor
        return event

    def _waiting_events(self) -> Sequence[Event]:
        return self._backlog or self._open_topic.buffer.all_after(self.position)

    async def next(self, *, until: Callable[[], bool] | None = None) -> Event | None:
        """Wait for the next event, take the latest, and return it; None once closed.

        It also returns None when `until()` is true, which it calls before each attempt. `wake`
        makes it try again.

        Raises:
            CursorExpired: the history no longer reaches back to the position.
        """
        if self.progress is not None:
            self.progress.reached = self.position
        while not self.closed and not (until is not None and until()):
            try:
                event = self.take_latest()
            except NotBuffered:
                await self.refill()
                continue
            if event is not None:
                return event
            await self.wait()
        return None

    async def refill(self) -> None:
        """Fetch the next events from the history, or wait until the broker is back.

        Raises:
            CursorExpired: the history no longer reaches back to the position.
        """
        live_topic = self._open_topic
        epoch = live_topic.buffer.last.epoch
        if not await self._read():
            return await self.wait()
        if self._backlog or self.position == live_topic.buffer.last:
            return None
        if epoch == self.position.epoch:
            raise CursorExpired(f"The history of {self.topic!r} lost events that were delivered")
        # The history restarted with a new epoch, which the live path has not delivered yet.
        live_topic.refresh()
        return await self.wait()

    async def wait(self) -> None:
        """Wait for the next change. Returns at once if the subscriber is closed."""
        if self.closed:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            with self._open_topic.waking(self):
                await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Wake the waiting task, and call `on_wake`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._on_wake is not None:
            self._on_wake()

    def close(self) -> None:
        """Leave the topic. A pending `next` returns None."""
        if self.closed:
            return
        self.closed = True
        self._note_end()
        self.wake()
        if self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time())
        if self._live_topic is not None:
            self._manager.live_topics.leave(self._live_topic, self)
        # It is a method of the object that keeps this subscriber: a cycle.
        self._on_wake = None

    @property
    def _open_topic(self) -> LiveTopic:
        assert self._live_topic is not None
        return self._live_topic

    def _note_gap(self, after: Cursor, until: Cursor) -> None:
        subject = None if self.reader is None else self.reader.subject
        trace.note(trace.Kind.GAP, subject=subject, topic=self.topic, cursor=after, until=until)

    def _note_resumed(self, after: Cursor) -> None:
        if self.reader is not None:
            self.reader = replace(self.reader, began=after)
            trace.note(
                trace.Kind.RESUMED, subject=self.reader.subject, topic=self.topic, cursor=after
            )

    def _note_end(self) -> None:
        if self.reader is not None:
            trace.note(
                trace.Kind.ENDED,
                subject=self.reader.subject,
                topic=self.topic,
                cursor=self.position,
                connection=self.reader.connection,
            )

    async def _resume(self, after: Cursor, or_live: bool) -> None:
        joined_at, self.expired = self.position, None
        try:
            await self._replay_from(after)
        except CursorExpired as expired:
            if not or_live:
                self.close()
                raise
            # A subscription that only begins notes it itself, with its subject.
            if self.reader is not None:
                self._note_gap(after, joined_at)
            self._leave_at(after)
            self.expired, self.position = expired, joined_at
        except BaseException:
            self.close()
            raise

    async def _replay_from(self, after: Cursor) -> None:
        self.position = after
        self._backlog.clear()
        live_topic = self._open_topic
        if live_topic.buffer.reaches_back_to(after):
            return
        await self._read()
        if self._backlog:
            # The history may hold events that the live path has not delivered yet, or has lost.
            live_topic.deliver(self._backlog[-1])

    async def _read(self) -> bool:
        try:
            self._backlog = await self._open_topic.read(self.position)
            if not self._backlog:
                await self._join_buffer()
        except BrokerUnavailable:
            # Catching up retries until it succeeds, and then wakes all subscribers.
            self._open_topic.refresh()
            return False
        return True

    async def _join_buffer(self) -> None:
        """Move to the buffer's position if both come before the topic's first event.

        A broker may return another cursor each time for a topic without a history. All these
        cursors mean the same position, as long as the history has not restarted in between.
        """
        live_topic = self._open_topic
        place = live_topic.buffer.last
        if place.seq or self.position.seq:
            return
        if self.position > place:
            try:
                await live_topic.read(place)
            except CursorExpired:
                return
        if live_topic.buffer.last == place:
            self.position = place
