"""Who gets the outcomes of a shared execution, as they happen and in the topic's order.

A group reads its topic once, and hands each outcome to all of its members at once: a member is no
task, no queue and no generator, only a name in a set. Who comes with an old cursor, and who can't
take more at the moment, reads the topic for itself, with the same outcomes, until it stands where
the group does.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.errors import InternalError, NotifyError
from gqlnotify.event import Event
from gqlnotify.event_loop import Turn
from gqlnotify.execution.event_execution import Outcome
from gqlnotify.observability import metrics
from gqlnotify.protocol.frames import Batch, Tail
from gqlnotify.topics.replay_buffer import Behind
from gqlnotify.topics.subscriber import Reader

# What is handed over before the members are looked at again.
BATCH_BYTES = 64 * 1024

logger = logging.getLogger("gqlnotify.execution")

OutcomeOf = Callable[[Event, bool], Outcome | asyncio.Future[Outcome | None] | None]
"""What becomes of an event, or the future of it; and whether to keep it for others."""


Marked = Callable[[Outcome, int], Outcome]
"""The outcome that says how many were left out before it."""

Wait = Callable[[], Awaitable[None]]

Replay = Callable[[Event], Awaitable[Outcome | None]]
"""Returns what becomes of an event for one who reads by itself."""


class Ended(Exception):
    """An outcome ended the operation, with these errors."""

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.errors = errors


class Member(Protocol):
    """One operation that gets the messages of a group's outcomes."""

    def push(self, batch: Batch) -> bool:
        """Take all of `batch`; or nothing, and return False: the group goes on without it."""

    def fell_behind(self, reader: Reader) -> None:
        """Note that it is no member any more. It may read on with `reader`, and come back."""

    async def send(self, batch: Batch) -> None:
        """Take `batch`, and wait while no more can be taken."""

    def end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        """Note that nothing will come any more; because of `errors`, where there are some."""


class Group:
    """The members that stand at one position, and the reader that moves on with all of them.

    It begins where the topic of `reader` stands now, and calls `on_end` with itself at its end.
    """

    def __init__(
        self,
        outcome_of: OutcomeOf,
        marked: Marked,
        reader: Reader,
        on_end: Callable[["Group"], None],
    ) -> None:
        self.ended = False
        self._outcome_of = outcome_of
        self._marked = marked
        self._on_end = on_end
        self._reader = reader.fork(on_wake=self._wake)
        self._position = self._reached = self._reader.position
        self._members: set[Member] = set()
        self._comers: set[Reader] = set()
        self._tails: list[Tail] = []
        self._held = 0
        self._published_at: list[float] = []
        loop = asyncio.get_running_loop()
        self._turn, self._handover = Turn.of(loop), metrics.Handover.of(loop)
        self._moving = False
        self._task: asyncio.Task[None] | None = None
        metrics.watch(self)

    def __len__(self) -> int:
        return len(self._members)

    def load(self) -> metrics.Load:
        """See `metrics.Living`."""
        yield metrics.groups, 1

    async def bring(self, member: Member, reader: Reader, replay: Replay) -> bool:
        """Give `member` what `reader` reads until it stands where the group does; then it is in.

        Return False where the group or the reader has ended instead. `replay` makes the outcomes.

        Raises:
            Ended: an outcome ended the operation.
            CursorExpired: the history no longer reaches back to the reader's position.
        """
        self._comers.add(reader)
        messages = size = 0
        try:
            while not self.ended and not reader.closed:
                if reader.position == self._position:
                    self._members.add(member)
                    return True
                outcome = await self._next_of(reader, replay)
                if outcome is not None:
                    tail = _tail_of(outcome)
                    await member.send(outcome.batch)
                    messages, size = messages + 1, size + len(tail.data)
            return False
        finally:
            metrics.delivered(messages, size)
            self._comers.discard(reader)
            self._end_if_idle()

    def leave(self, member: Member) -> None:
        """Do without `member` from now on."""
        self._members.discard(member)
        self._end_if_idle()

    async def _next_of(self, reader: Reader, replay: Replay) -> Outcome | None:
        """Return the outcome of what comes next; None where there is reason to look again."""
        try:
            event = reader.take_latest()
        except Behind:
            await reader.refill()
            return None
        if event is None:
            # The group may be on its way to where this reader already is, and wakes it there.
            await reader.wait()
            return None
        outcome = await replay(event)
        return None if outcome is None else self._marked(outcome, reader.left_out)

    def _wake(self) -> None:
        if self._moving or self.ended:
            return
        self._moving = True
        # Not in the publisher's turn, whose next events leave together with this one; and not in
        # its context, which has the publisher for its viewer.
        self._turn.add(self)

    def take_turn(self) -> None:
        """Hand over what has happened; in a task only if something has to be waited for."""
        try:
            with only_own_cancellation():
                waiting = self._advance()
        except Exception as error:
            self._fail(error)
        else:
            if waiting is not None:
                self._task = asyncio.create_task(self._wait(waiting))

    async def _wait(self, waiting: Wait | None) -> None:
        try:
            with only_own_cancellation():
                while waiting is not None:
                    await waiting()
                    waiting = self._advance()
        except Exception as error:
            self._fail(error)
        finally:
            self._task = None

    def _fail(self, error: Exception) -> None:
        if isinstance(error, Ended):
            self._flush()
            self._end(error.errors)
        elif isinstance(error, NotifyError):
            self._end([error.formatted()])
        else:
            logger.error("A group of subscriptions failed", exc_info=error)
            self._end([InternalError("A group of subscriptions failed").formatted()])

    def _advance(self) -> Wait | None:
        """Take what has happened. Return how to wait before going on; None at the end."""
        while not self._reader.closed:
            try:
                event = self._reader.take()
            except Behind:
                self._flush()
                return self._reader.refill
            if event is None:
                break
            outcome = self._outcome_of(event, False)
            if isinstance(outcome, asyncio.Future):
                # What is there already does not wait for what takes its time.
                self._flush()
                return partial(self._take_later, event, outcome)
            self._take(event, outcome)
            if self._held >= BATCH_BYTES:
                self._flush()
                # Connections write in between, and tell whether they can take more.
                return partial(asyncio.sleep, 0)
        self._flush()
        self._moving = False
        if self._reader.closed:
            self._end([])
        return None

    async def _take_later(self, event: Event, outcome: asyncio.Future[Outcome | None]) -> None:
        self._take(event, await asyncio.shield(outcome))

    def _take(self, event: Event, outcome: Outcome | None) -> None:
        self._reached = event.cursor
        if outcome is not None:
            tail = _tail_of(outcome)
            self._tails.append(tail)
            self._held += len(tail.data)
            if event.published_at is not None:
                self._published_at.append(event.published_at)

    def _flush(self) -> None:
        """Hand over what is there. Afterwards all of them stand at the same new position."""
        before, self._position = self._position, self._reached
        tails, self._tails = self._tails, []
        if tails:
            batch = Batch(tails)
            for member in [m for m in self._members if not m.push(batch)]:
                self._members.discard(member)
                member.fell_behind(self._reader.fork(before))
            self._count(len(tails))
        for comer in self._comers:
            comer.wake()

    def _count(self, events: int) -> None:
        size, self._held = self._held, 0
        published_at, self._published_at = self._published_at, []
        if self._members:
            self._handover.add(len(self._members), events, size, published_at)

    def _end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        self.ended = True
        metrics.unwatch(self)
        members, self._members = self._members, set()
        for member in members:
            member.end(errors)
        for comer in self._comers:
            comer.wake()
        self._reader.close()
        self._on_end(self)

    def _end_if_idle(self) -> None:
        if self._members or self._comers or self.ended:
            return
        self._end([])
        if self._task is not None:
            self._task.cancel()


def _tail_of(outcome: Outcome) -> Tail:
    if outcome.tail is None:
        raise Ended([error.formatted for error in outcome.errors])
    return outcome.tail
