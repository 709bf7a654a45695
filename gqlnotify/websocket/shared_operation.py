"""An operation that gets its results from a shared execution, without a task of its own."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from typing_extensions import override

from gqlnotify.event import Cursor
from gqlnotify.event_loop import Visited
from gqlnotify.execution import Group, Member, Shareable
from gqlnotify.protocol.frames import Batch, Prefix
from gqlnotify.topics.reading import Reader, Reading
from gqlnotify.topics.resumption import Progress
from gqlnotify.topics.subscriber import Subscriber
from gqlnotify.websocket.connection import Connection


class Owner(Visited, Protocol):
    """Runs the operations of one connection. Visited once one of them has got further."""

    __slots__ = ()

    def lagged(self, operation: "SharedOperation", subscriber: Subscriber) -> None:
        """Handle a peer that reads too slowly: rejoin the group with `subscriber`."""

    def has_progress(self) -> None:
        """Handle that an operation has got further. This returns at once."""

    def ended(self, operation: "SharedOperation", errors: Sequence[Mapping[str, Any]]) -> None:
        """Handle the end of the operation, because of `errors` if there are any."""


class SharedOperation(Member):
    """A member of a group, with one id on one connection."""

    __slots__ = (
        *("_connection", "_membership", "_owner", "_prefix", "_writer"),
        *("began", "execution", "group", "id"),
    )

    def __init__(
        self, id_: str, shareable: Shareable, connection: Connection, owner: Owner
    ) -> None:
        self.id = id_
        self.began: Cursor = shareable.subscriber.position
        """The position after which it began."""
        self.execution = shareable.execution
        self._membership = shareable.membership
        self.group: Group | None = None
        self._prefix = Prefix(json.dumps(id_))
        self._connection = connection
        # Each delivery comes by here: one step less.
        self._writer = connection.writer
        self._owner = owner

    @override
    def push(self, batch: Batch) -> bool:
        return self._writer.push(self._prefix, batch)

    @override
    async def send(self, batch: Batch) -> None:
        while not self._writer.push(self._prefix, batch):
            await self._connection.drained()
        self._owner.has_progress()
        await self._connection.drained()

    @override
    def on_round(self) -> Iterable[Visited]:
        return self._owner.on_round()

    def report(self, progress: Progress) -> None:
        """Note in `progress` how far the group has got. This operation may be a little further."""
        if self.group is not None:
            progress.advance(self.group.progress.reached, self.group.progress.sent)

    def settle(self, progress: Progress) -> None:
        """Note in `progress` how far exactly this operation has got."""
        if self.group is not None:
            reached = self.group.reached_by(self)
            progress.advance(reached, reached)

    @property
    def reader(self) -> Reader:
        """For whom it reads."""
        connection, execution = self._connection, self.execution
        return Reader(
            *(connection.subject, connection.id, self.began),
            *(execution.projection, execution.scope),
        )

    @property
    def subject(self) -> str | None:
        """The subject of the viewer; None if there is no viewer."""
        return self._connection.subject

    @property
    def held(self) -> int:
        """How many bytes wait for the client."""
        return self._connection.held

    @property
    def is_over(self) -> bool:
        """Whether the connection has ended."""
        return self._connection.is_over

    def reading(self, acknowledged: Cursor | None) -> Reading | None:
        """Return how far it has got; None if it is not in a group."""
        if self.group is None:
            return None
        reached = self.group.reached_by(self)
        return Reading(self.reader, reached, True, acknowledged, self.id)

    @override
    def lagged(self, subscriber: Subscriber) -> None:
        self.group = None
        self._owner.lagged(self, subscriber)

    @override
    def end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        self.leave_topic()
        self._owner.ended(self, errors)

    def cancel(self) -> None:
        """Leave the group."""
        self.leave_topic()
        if self.group is not None:
            self.group.leave(self)

    def leave_topic(self) -> None:
        """Note that the operation has ended, for the presence of its subject at the topic."""
        if self._membership is not None:
            self._membership.leave()
