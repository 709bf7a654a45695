"""Tells the broker which subjects are subscribed in this process, and asks it for all of them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from math import inf
from typing import Any

from gqlnotify.backoff import Backoff
from gqlnotify.brokers import Broker
from gqlnotify.brokers.presence import (
    CHANGES_AT_ONCE,
    Change,
    Patience,
    Present,
    Registration,
    room_of,
)
from gqlnotify.errors import BrokerUnavailable
from gqlnotify.settings import Settings
from gqlnotify.topics.attendee import Attendee
from gqlnotify.topics.local_room import LocalRoom

TTL = 15.0
"""How many seconds the members at a process that was killed are shown at most."""
MAX_MEMBERS = 1000
# A process that misses two beats in a row still counts as alive.
BEAT_SECONDS = 4.0
# Changes within this time are saved together, and of several states of a subject only the last.
SAVE_SECONDS = 0.1
CLOSE_SECONDS = 2.0
ROOMS_AT_ONCE = 500
"""With more rooms in one step, a step could take longer than it may, and never get to the last."""
# If a server does not answer, saving, beating, forgetting and the wait after a failure must be over
# before this process counts as dead.
_STEP_SECONDS = 2.0
_RETRY_SECONDS = (0.1, 1.0)
# So that the broker's clock has passed the deadline too.
_MARGIN_SECONDS = 0.05

logger = logging.getLogger("gqlnotify.topics")


class Attendance:
    """One subscription that makes its subject present, until it ends or is garbage-collected."""

    __slots__ = ("_attendee", "_presence", "_topic")

    def __init__(self, presence: "Attendances", topic: str, attendee: Attendee) -> None:
        self._presence: Attendances | None = presence
        self._topic = topic
        self._attendee = attendee

    def leave(self) -> None:
        """Note that the subscription has ended. Further calls have no effect."""
        presence, self._presence = self._presence, None
        if presence is not None:
            presence.left(self._topic, self._attendee)

    def __del__(self) -> None:
        if self._presence is not None:
            self._presence.was_dropped(self._topic, self._attendee)


class Attendances:
    """The presence of this process, for one `TopicManager`.

    One task talks to the broker. It saves what has changed, at most every `SAVE_SECONDS`, and beats
    for each room every `BEAT_SECONDS`. A broker that is away delays no subscription: what has
    changed is saved when it is back.

    Args:
        broker: keeps who is present.
        settings: say how long a subject may be away without leaving.
        is_followed: returns whether this process listens to a topic.
    """

    def __init__(
        self, broker: Broker, settings: Settings, is_followed: Callable[[str], bool]
    ) -> None:
        self._broker = broker
        self._patience = Patience(settings.presence_grace, TTL - BEAT_SECONDS)
        self._is_followed = is_followed
        self._rooms: dict[str, LocalRoom] = {}
        self._hurry = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Task[None] | None = None

    def attend(self, topic: str, attendee: Attendee) -> Attendance:
        """Make the attendee present at the topic until the attendance is left."""
        self._room(topic).join(attendee)
        self._save_soon()
        return Attendance(self, topic, attendee)

    def left(self, topic: str, attendee: Attendee) -> None:
        """Undo `attend`."""
        room = self._rooms.get(topic)
        if room is not None:
            room.leave(attendee)
            self._save_soon()

    def was_dropped(self, topic: str, attendee: Attendee) -> None:
        """Undo `attend` of an attendance that was garbage-collected. Any thread may call it."""
        if self._loop is not None:
            # The loop may have closed.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.left, topic, attendee)

    def set_state(self, topic: str, subject: str, state: bytes) -> None:
        """Set the state of a subject."""
        self._room(topic).set_state(subject, state)
        self._save_soon()

    async def present(self, topic: str) -> Present:
        """Return who is present at the topic, in all processes.

        Raises:
            BrokerUnavailable: The broker can't be asked.
        """
        # First, so that the list has no subject whose time is over.
        room = self._rooms.get(topic)
        if room is None:
            await self._broker.presence.beat([Registration(room_of(topic))], self._patience)
        else:
            await self._beat([room])
        return await self._broker.presence.present(room_of(topic), MAX_MEMBERS)

    def follow(self, topic: str) -> None:
        """Let members leave in time while this process listens to the topic's room."""
        self._room(topic)
        self._save_soon()

    async def close(self) -> None:
        """Let the members of this process have their grace, if the broker answers in time."""
        self._stop()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                for room in list(self._rooms.values()):
                    await self._save(room)
                    await self._broker.presence.remove(room.registration, self._patience)
        except (BrokerUnavailable, TimeoutError) as error:
            logger.warning("The members of this process are removed in %d s: %s", TTL, error)
        self.reset()

    def reset(self) -> None:
        """Stop, and forget everything."""
        self._stop()
        self._rooms.clear()
        self._hurry = asyncio.Event()

    def _stop(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None

    def _room(self, topic: str) -> LocalRoom:
        room = self._rooms.get(topic)
        if room is None:
            room = self._rooms[topic] = LocalRoom(topic)
        return room

    def _save_soon(self) -> None:
        self._hurry.set()
        if self._work is None:
            self._loop = asyncio.get_running_loop()
            # Not in the context of the operation that happens to be the first.
            self._work = self._loop.create_task(self._run(), context=Context())

    async def _run(self) -> None:
        backoff = Backoff(*_RETRY_SECONDS)
        while self._rooms:
            await self._until_due()
            wait = SAVE_SECONDS
            try:
                await self._save_and_beat()
                backoff.reset()
            except BrokerUnavailable as error:
                logger.warning("It is not saved yet who is present: %s", error.reason)
                wait = backoff.next()
            except Exception:
                logger.exception("It can't be saved who is present")
                wait = backoff.next()
            await asyncio.sleep(wait)
        self._work = None

    async def _until_due(self) -> None:
        if any(room.has_changed for room in self._rooms.values()):
            return
        next_beat = min(room.next_beat for room in self._rooms.values())
        with suppress(TimeoutError):
            async with asyncio.timeout_at(next_beat):
                await self._hurry.wait()

    async def _save_and_beat(self) -> None:
        self._hurry.clear()
        failure: BrokerUnavailable | None = None
        for work, due in (
            (self._save_each, self._changed),
            (self._beat, self._beat_next),
            (self._forget_each, self._idle),
        ):
            rooms = due()
            for start in range(0, len(rooms), ROOMS_AT_ONCE):
                # A server of a cluster that is away must not keep the beats from the others.
                try:
                    async with asyncio.timeout(_STEP_SECONDS):
                        await work(rooms[start : start + ROOMS_AT_ONCE])
                except BrokerUnavailable as error:
                    failure = error
                except TimeoutError:
                    failure = BrokerUnavailable("no answer in time")
        if failure is not None:
            raise failure

    def _changed(self) -> list[LocalRoom]:
        return [room for room in self._rooms.values() if room.has_changed]

    def _beat_next(self) -> list[LocalRoom]:
        now = _now()
        rooms = list(self._rooms.values())
        # All in one batch, so that not each room wakes this process at a time of its own.
        if not any(room.next_beat <= now for room in rooms):
            return []
        return [room for room in rooms if room.next_beat <= now + BEAT_SECONDS / 2]

    def _idle(self) -> list[LocalRoom]:
        return [room for room in self._rooms.values() if self._is_idle(room)]

    async def _save_each(self, rooms: Sequence[LocalRoom]) -> None:
        await _all(map(self._save, rooms))

    async def _forget_each(self, rooms: Sequence[LocalRoom]) -> None:
        await _all(map(self._forget, rooms))

    async def _save(self, room: LocalRoom) -> None:
        changes = room.take()
        for start in range(0, len(changes), CHANGES_AT_ONCE):
            # A list of its own: `lost` takes changes back.
            some = changes[start : start + CHANGES_AT_ONCE]
            if not await self._save_some(room, some, rest=changes[start:]):
                return
        for former in list(room.former):
            await self._broker.presence.remove(former, self._patience)
            room.former.remove(former)

    async def _save_some(
        self, room: LocalRoom, changes: Sequence[Change], *, rest: Sequence[Change]
    ) -> bool:
        registration, revision = room.registration, room.next_revision()
        saved = False
        try:
            saved = await self._broker.presence.update(
                registration, revision, changes, self._patience
            )
        finally:
            if not saved:
                room.not_saved(rest)
        if saved:
            room.saved(registration, revision)
            self._plan_beat(room, changes)
        else:
            room.lost(registration)
        return saved

    def _plan_beat(self, room: LocalRoom, changes: Sequence[Change]) -> None:
        if any(change.connections == 0 for change in changes):
            room.leaving_until = _now() + self._patience.grace + _MARGIN_SECONDS
            room.next_beat = min(room.next_beat, room.leaving_until)
        if room.next_beat == -inf:
            # Saving counts as a beat.
            room.next_beat = _now() + BEAT_SECONDS

    async def _beat(self, rooms: Sequence[LocalRoom]) -> None:
        registrations = [room.registration for room in rooms]
        answers = await self._broker.presence.beat(registrations, self._patience)
        now = _now()
        for room, registration, has_all in zip(rooms, registrations, answers, strict=True):
            room.next_beat = now + BEAT_SECONDS
            if now < room.leaving_until:
                room.next_beat = min(room.next_beat, room.leaving_until)
            if not has_all:
                room.lost(registration)

    def _is_idle(self, room: LocalRoom) -> bool:
        return (
            room.is_empty
            and room.leaving_until <= _now()
            and not self._is_followed(room.registration.room)
        )

    async def _forget(self, room: LocalRoom) -> None:
        await self._broker.presence.remove(room.registration, self._patience)
        if self._is_idle(room):
            self._rooms.pop(room.topic, None)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Await everything, and raise the first error, if any."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _now() -> float:
    return asyncio.get_running_loop().time()
