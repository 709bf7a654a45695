"""Who is present at one topic in this process, and what the broker does not know of it. Pure."""

from collections.abc import Hashable, Iterable
from dataclasses import replace
from itertools import chain
from math import inf
from secrets import token_hex

from gqlnotify.brokers.presence import Change, Registration, presence_topic
from gqlnotify.topics.local_member import LocalMember


class LocalMembers:
    """The subjects of one topic in this process, and what the broker does not know yet. Pure."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.registration = Registration(presence_topic(topic))
        self.former: list[Registration] = []
        """Under these names it has saved what the broker has lost since, at least in part."""
        self.next_beat = -inf
        self.leaving_until = -inf
        """When the grace of the last subject ends who has left this process."""
        self._revision = 0
        self._connections: dict[str, dict[Hashable, int]] = {}
        self._states: dict[str, bytes] = {}
        self._changed: dict[str, None] = {}
        self._changed_states: dict[str, bytes] = {}
        self._begin_again()

    @property
    def has_changed(self) -> bool:
        """Whether there is something to save."""
        return bool(self._changed or self._changed_states or self.former)

    @property
    def is_empty(self) -> bool:
        """Whether it has no subject and everything is saved."""
        return not (self._connections or self.has_changed)

    def join(self, member: LocalMember) -> None:
        """Add a subscription."""
        connections = self._connections.setdefault(member.subject, {})
        if member.connection not in connections:
            self._changed[member.subject] = None
        connections[member.connection] = connections.get(member.connection, 0) + 1

    def leave(self, member: LocalMember) -> None:
        """Remove a subscription."""
        connections = self._connections.get(member.subject, {})
        if member.connection not in connections:
            # It has joined before this object was made.
            return
        connections[member.connection] -= 1
        if connections[member.connection]:
            return
        del connections[member.connection]
        self._changed[member.subject] = None
        if not connections:
            del self._connections[member.subject]
            self._states.pop(member.subject, None)

    def set_state(self, subject: str, state: bytes) -> None:
        """Set the state of a subject, who may be at another process."""
        self._changed_states[subject] = state
        if subject in self._connections:
            self._states[subject] = state

    def take(self) -> list[Change]:
        """Return what to save now. What is not saved must be given back with `not_saved`."""
        subjects, states = self._changed, self._changed_states
        self._changed, self._changed_states = {}, {}
        return [
            Change(
                subject,
                len(self._connections.get(subject, ())) if subject in subjects else None,
                states.get(subject),
            )
            for subject in subjects | dict.fromkeys(states)
        ]

    def next_revision(self) -> int:
        """Return the number of the changes that are saved next."""
        self._revision += 1
        return self._revision

    def saved(self, registration: Registration, revision: int) -> None:
        """Note that the broker has these changes, under the name of `registration`."""
        if self._is_current(registration):
            self.registration = replace(registration, confirmed=revision)

    def not_saved(self, changes: Iterable[Change]) -> None:
        """Take changes back that may not have been saved."""
        for change in changes:
            if change.connections is not None:
                self._changed[change.subject] = None
            if change.state is not None:
                self._changed_states.setdefault(change.subject, change.state)

    def lost(self, registration: Registration) -> None:
        """Note that the broker has lost something that was saved under this name.

        Everything is saved again, under a new name.
        """
        if not self._is_current(registration):
            return
        self.former.append(registration)
        self._begin_again()
        self._changed = dict.fromkeys(chain(self._connections, self._changed))
        self._changed_states = {**self._states, **self._changed_states}

    def _is_current(self, registration: Registration) -> bool:
        # A beat and a save may be under way at the same time.
        return self.registration.process == registration.process

    def _begin_again(self) -> None:
        self._revision = 0
        self.registration = Registration(self.registration.presence_topic, token_hex(8))
