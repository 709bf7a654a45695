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
    presence_topic,
)
from gqlnotify.errors import BrokerUnavailable
from gqlnotify.settings import Settings
from gqlnotify.topics.local_member import LocalMember
from gqlnotify.topics.local_members import LocalMembers

TTL = 15.0
"""How many seconds the members at a process that was killed are shown at most."""
MAX_MEMBERS = 1000
# A process that misses two beats in a row still counts as alive.
BEAT_SECONDS = 4.0
# Changes within this time are saved together, and of several states of a subject only the last.
SAVE_SECONDS = 0.1
CLOSE_SECONDS = 2.0
TOPICS_AT_ONCE = 500
"""With more topics in one step, a step could take longer than it may, and never get to the last."""
# If a server does not answer, saving, beating, forgetting and the wait after a failure must be over
# before this process counts as dead.
_STEP_SECONDS = 2.0
_RETRY_SECONDS = (0.1, 1.0)
# So that the broker's clock has passed the deadline too.
_MARGIN_SECONDS = 0.05

logger = logging.getLogger("gqlnotify.topics")


class Membership:
    """One subscription that makes its subject present, until it ends or is garbage-collected."""

    __slots__ = ("_member", "_presence", "_topic")

    def __init__(self, presence: "LocalPresence", topic: str, member: LocalMember) -> None:
        self._presence: LocalPresence | None = presence
        self._topic = topic
        self._member = member

    def leave(self) -> None:
        """Note that the subscription has ended. Further calls have no effect."""
        presence, self._presence = self._presence, None
        if presence is not None:
            presence.leave(self._topic, self._member)

    def __del__(self) -> None:
        if self._presence is not None:
            self._presence.was_dropped(self._topic, self._member)


class LocalPresence:
    """The presence of this process, for one `TopicManager`.

    One task talks to the broker. It saves what has changed, at most every `SAVE_SECONDS`, and beats
    for each topic every `BEAT_SECONDS`. A broker that is away delays no subscription: what has
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
        self._members: dict[str, LocalMembers] = {}
        self._hurry = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: asyncio.Task[None] | None = None

    def join(self, topic: str, member: LocalMember) -> Membership:
        """Make the member present at the topic until the membership is left."""
        self._members_of(topic).join(member)
        self._save_soon()
        return Membership(self, topic, member)

    def leave(self, topic: str, member: LocalMember) -> None:
        """Undo `join`."""
        members = self._members.get(topic)
        if members is not None:
            members.leave(member)
            self._save_soon()

    def was_dropped(self, topic: str, member: LocalMember) -> None:
        """Undo `join` of a membership that was garbage-collected. Any thread may call it."""
        if self._loop is not None:
            # The loop may have closed.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.leave, topic, member)

    def set_state(self, topic: str, subject: str, state: bytes) -> None:
        """Set the state of a subject."""
        self._members_of(topic).set_state(subject, state)
        self._save_soon()

    async def present(self, topic: str) -> Present:
        """Return who is present at the topic, in all processes.

        Raises:
            BrokerUnavailable: The broker can't be asked.
        """
        # First, so that the list has no subject whose time is over.
        members = self._members.get(topic)
        if members is None:
            await self._broker.presence.beat([Registration(presence_topic(topic))], self._patience)
        else:
            await self._beat([members])
        return await self._broker.presence.present(presence_topic(topic), MAX_MEMBERS)

    def follow(self, topic: str) -> None:
        """Let members leave in time while this process listens to the changes of its members."""
        self._members_of(topic)
        self._save_soon()

    async def close(self) -> None:
        """Let the members of this process have their grace, if the broker answers in time."""
        self._stop()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                for members in list(self._members.values()):
                    await self._save(members)
                    await self._broker.presence.remove(members.registration, self._patience)
        except (BrokerUnavailable, TimeoutError) as error:
            logger.warning("The members of this process are removed in %d s: %s", TTL, error)
        self.reset()

    def reset(self) -> None:
        """Stop, and forget everything."""
        self._stop()
        self._members.clear()
        self._hurry = asyncio.Event()

    def _stop(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None

    def _members_of(self, topic: str) -> LocalMembers:
        members = self._members.get(topic)
        if members is None:
            members = self._members[topic] = LocalMembers(topic)
        return members

    def _save_soon(self) -> None:
        self._hurry.set()
        if self._work is None:
            self._loop = asyncio.get_running_loop()
            # Not in the context of the operation that happens to be the first.
            self._work = self._loop.create_task(self._run(), context=Context())

    async def _run(self) -> None:
        backoff = Backoff(*_RETRY_SECONDS)
        while self._members:
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
        if any(members.has_changed for members in self._members.values()):
            return
        next_beat = min(members.next_beat for members in self._members.values())
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
            batch = due()
            for start in range(0, len(batch), TOPICS_AT_ONCE):
                # A server of a cluster that is away must not keep the beats from the others.
                try:
                    async with asyncio.timeout(_STEP_SECONDS):
                        await work(batch[start : start + TOPICS_AT_ONCE])
                except BrokerUnavailable as error:
                    failure = error
                except TimeoutError:
                    failure = BrokerUnavailable("no answer in time")
        if failure is not None:
            raise failure

    def _changed(self) -> list[LocalMembers]:
        return [members for members in self._members.values() if members.has_changed]

    def _beat_next(self) -> list[LocalMembers]:
        now = _now()
        every = list(self._members.values())
        # All in one batch, so that not each topic wakes this process at a time of its own.
        if not any(members.next_beat <= now for members in every):
            return []
        return [members for members in every if members.next_beat <= now + BEAT_SECONDS / 2]

    def _idle(self) -> list[LocalMembers]:
        return [members for members in self._members.values() if self._is_idle(members)]

    async def _save_each(self, batch: Sequence[LocalMembers]) -> None:
        await _all(map(self._save, batch))

    async def _forget_each(self, batch: Sequence[LocalMembers]) -> None:
        await _all(map(self._forget, batch))

    async def _save(self, members: LocalMembers) -> None:
        changes = members.take()
        for start in range(0, len(changes), CHANGES_AT_ONCE):
            # A list of its own: `lost` takes changes back.
            some = changes[start : start + CHANGES_AT_ONCE]
            if not await self._save_some(members, some, rest=changes[start:]):
                return
        for former in list(members.former):
            await self._broker.presence.remove(former, self._patience)
            members.former.remove(former)

    async def _save_some(
        self, members: LocalMembers, changes: Sequence[Change], *, rest: Sequence[Change]
    ) -> bool:
        registration, revision = members.registration, members.next_revision()
        saved = False
        try:
            saved = await self._broker.presence.update(
                registration, revision, changes, self._patience
            )
        finally:
            if not saved:
                members.not_saved(rest)
        if saved:
            members.saved(registration, revision)
            self._plan_beat(members, changes)
        else:
            members.lost(registration)
        return saved

    def _plan_beat(self, members: LocalMembers, changes: Sequence[Change]) -> None:
        if any(change.connections == 0 for change in changes):
            members.leaving_until = _now() + self._patience.grace + _MARGIN_SECONDS
            members.next_beat = min(members.next_beat, members.leaving_until)
        if members.next_beat == -inf:
            # Saving counts as a beat.
            members.next_beat = _now() + BEAT_SECONDS

    async def _beat(self, batch: Sequence[LocalMembers]) -> None:
        registrations = [members.registration for members in batch]
        answers = await self._broker.presence.beat(registrations, self._patience)
        now = _now()
        for members, registration, has_all in zip(batch, registrations, answers, strict=True):
            members.next_beat = now + BEAT_SECONDS
            if now < members.leaving_until:
                members.next_beat = min(members.next_beat, members.leaving_until)
            if not has_all:
                members.lost(registration)

    def _is_idle(self, members: LocalMembers) -> bool:
        return (
            members.is_empty
            and members.leaving_until <= _now()
            and not self._is_followed(members.registration.presence_topic)
        )

    async def _forget(self, members: LocalMembers) -> None:
        await self._broker.presence.remove(members.registration, self._patience)
        if self._is_idle(members):
            self._members.pop(members.topic, None)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Await everything, and raise the first error, if any."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _now() -> float:
    return asyncio.get_running_loop().time()
