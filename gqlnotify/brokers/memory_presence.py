"""Presence in this process, for brokers that keep no presence of their own."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from typing_extensions import override

from gqlnotify import clock
from gqlnotify.brokers.presence import (
    Change,
    Changed,
    Joined,
    Left,
    Member,
    Patience,
    Presence,
    PresenceEvent,
    Present,
    Registration,
    encode_event,
)
from gqlnotify.event import Cursor


@dataclass
class _Process:
    """What one process has saved, and until when it may be silent."""

    revision: int
    until: float
    connections: dict[str, int] = field(default_factory=dict)


@dataclass
class Members:
    """The members of one topic. Pure: each method returns the events that it causes."""

    by_subject: dict[str, Member] = field(default_factory=dict)
    _processes: dict[str, _Process] = field(default_factory=dict)
    _leaving: dict[str, float] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to keep."""
        return not self.by_subject and not self._processes

    def has_saved(self, registration: Registration) -> bool:
        """Return whether every change that was confirmed is still there."""
        process = self._processes.get(registration.process)
        return registration.confirmed <= (0 if process is None else process.revision)

    def update(
        self, name: str, revision: int, changes: Sequence[Change], patience: Patience
    ) -> Iterator[PresenceEvent]:
        """Save changes of a process."""
        until = clock.monotonic() + patience.silence
        process = self._processes.setdefault(name, _Process(revision, until))
        process.revision, process.until = revision, until
        for change in changes:
            if change.connections is not None:
                yield from self._set_connections(
                    process, change.subject, change.connections, patience.grace
                )
            if change.state is not None:
                yield from self._set_state(change.subject, json.loads(change.state))

    def beat(self, registration: Registration, patience: Patience) -> Iterator[PresenceEvent]:
        """Note that a process lives, and let those leave whose time is over."""
        now = clock.monotonic()
        process = self._processes.get(registration.process)
        if process is not None and self.has_saved(registration):
            was_silent, process.until = process.until <= now, now + patience.silence
            if was_silent:
                # The others may have been kept from the broker too.
                return
        for name, other in list(self._processes.items()):
            if other.until <= now:
                yield from self.remove(name, 0)
        for subject, until in list(self._leaving.items()):
            if until <= now:
                yield from self._leave(subject)

    def remove(self, name: str, grace: float) -> Iterator[PresenceEvent]:
        """Remove a process."""
        process = self._processes.pop(name, None)
        if process is not None:
            for subject in list(process.connections):
                yield from self._set_connections(process, subject, 0, grace)

    def _set_connections(
        self, process: _Process, subject: str, connections: int, grace: float
    ) -> Iterator[PresenceEvent]:
        added = connections - process.connections.pop(subject, 0)
        if connections:
            process.connections[subject] = connections
        member = self.by_subject.get(subject)
        if member is None:
            if connections:
                yield Joined(self._keep(Member(subject, None, connections, clock.utc_now())))
            return
        self._keep(replace(member, connections=member.connections + added))
        if self.by_subject[subject].connections:
            self._leaving.pop(subject, None)
        elif grace > 0:
            self._leaving[subject] = clock.monotonic() + grace
        else:
            yield from self._leave(subject)

    def _set_state(self, subject: str, state: object) -> Iterator[PresenceEvent]:
        member = self.by_subject.get(subject)
        # Not the values: in Python, 1 equals True.
        if member is not None and json.dumps(member.state) != json.dumps(state):
            yield Changed(self._keep(replace(member, state=state)))

    def _leave(self, subject: str) -> Iterator[PresenceEvent]:
        self._leaving.pop(subject, None)
        yield Left(replace(self.by_subject.pop(subject), connections=0))

    def _keep(self, member: Member) -> Member:
        self.by_subject[member.subject] = member
        return member


class MemoryPresence(Presence):
    """Keeps presence in this process, and publishes its events.

    Args:
        publish: publishes a payload to a topic.
        head: returns the current cursor of a topic.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], Awaitable[Cursor]],
        head: Callable[[str], Awaitable[Cursor]],
    ) -> None:
        self._publish = publish
        self._head = head
        self._members: dict[str, Members] = {}
        # A change and its event are one step, although publishing may wait.
        self._changing = asyncio.Lock()

    @override
    async def update(
        self,
        registration: Registration,
        revision: int,
        changes: Sequence[Change],
        patience: Patience,
    ) -> bool:
        async with self._changing:
            members = self._members.setdefault(registration.presence_topic, Members())
            if not members.has_saved(registration):
                return False
            events = members.update(registration.process, revision, changes, patience)
            await self._announce(registration.presence_topic, events)
            return True

    @override
    async def beat(
        self, registrations: Sequence[Registration], patience: Patience
    ) -> Sequence[bool]:
        async with self._changing:
            return [await self._beat(each, patience) for each in registrations]

    async def _beat(self, registration: Registration, patience: Patience) -> bool:
        members = self._members.get(registration.presence_topic)
        if members is None:
            return registration.confirmed == 0
        has_all = members.has_saved(registration)
        await self._announce(registration.presence_topic, members.beat(registration, patience))
        return has_all

    @override
    async def remove(self, registration: Registration, patience: Patience) -> None:
        async with self._changing:
            members = self._members.get(registration.presence_topic)
            if members is not None:
                events = members.remove(registration.process, patience.grace)
                await self._announce(registration.presence_topic, events)

    @override
    async def present(self, presence_topic: str, limit: int) -> Present:
        async with self._changing:
            members = self._members.get(presence_topic, Members()).by_subject
            first = list(islice(members.values(), limit))
            return Present(first, len(members), await self._head(presence_topic))

    async def _announce(self, name: str, events: Iterator[PresenceEvent]) -> None:
        for event in events:
            await self._publish(name, encode_event(event))
        if self._members[name].is_empty:
            del self._members[name]
