"""The members of a group, and a batch on its way to them, slice by slice."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from typing_extensions import override

from gqlnotify.event import Cursor
from gqlnotify.event_loop import Visited
from gqlnotify.execution.pipeline import Collected
from gqlnotify.protocol.frames import Batch
from gqlnotify.topics.subscriber import Subscriber

# How many members get a batch before the event loop does what else is ready.
SLICE_MEMBERS = 128


class Member(Visited, Protocol):
    """An operation that gets the messages of a group.

    The event loop visits it some time after the group has got further.
    """

    __slots__ = ()

    def push(self, batch: Batch) -> bool:
        """Take all of `batch` and return True. Or take nothing and return False to leave."""

    def lagged(self, subscriber: Subscriber) -> None:
        """Handle the removal from the group. It may read with `subscriber`, and join again."""

    async def send(self, batch: Batch) -> None:
        """Take `batch`, and wait until there is room for more."""

    def end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        """Handle the end of the group, because of `errors` if there are any."""


class Members(set[Member]):
    """The members of a group. Only `add` and `discard` may change them."""

    __slots__ = ("_listed",)

    def __init__(self) -> None:
        super().__init__()
        self._listed: Sequence[Member] | None = None

    @override
    def add(self, member: Member) -> None:
        super().add(member)
        self._listed = None

    @override
    def discard(self, member: object) -> None:
        super().discard(member)
        self._listed = None

    def listed(self) -> Sequence[Member]:
        """Return the members as they are now.

        The list stays the same until one joins or leaves. With a new one for each event, every
        collection of garbage in the middle of a fan-out would visit thousands of members.
        """
        if self._listed is None:
            self._listed = tuple(self)
        return self._listed


class FanOut:
    """A batch on its way to the members that the group had when it was collected."""

    __slots__ = ("_members", "_served", "_unserved", "batch", "before", "collected", "is_sliced")

    def __init__(self, collected: Collected, before: Cursor, members: Members) -> None:
        self.collected = collected
        self.before = before
        """The position of the members that are not served yet."""
        self.batch = collected.batch()
        self.is_sliced = False
        self._members = members.listed() if collected.results else ()
        self._served = 0
        self._unserved: set[Member] | None = None

    @property
    def size(self) -> int:
        """The number of members, served or not."""
        return len(self._members)

    @property
    def is_complete(self) -> bool:
        """Whether all members are served."""
        return self._served >= len(self._members)

    def next_slice(self) -> Sequence[Member]:
        """Return the next members. From now on they count as served. Some may have left."""
        begin, self._served = self._served, self._served + SLICE_MEMBERS
        self._unserved = None
        return self._members[begin : self._served]

    def has_served(self, member: Member) -> bool:
        """Return whether `member` has got the batch, or has joined after it."""
        if self._unserved is None:
            # Rarely needed, but thousands may leave between two slices.
            self._unserved = set(self._members[self._served :])
        return member not in self._unserved
