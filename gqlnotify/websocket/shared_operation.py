"""An operation that gets the outcomes of a shared execution: no task, no queue, no generator."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gqlnotify.execution import Group, SharedExecution
from gqlnotify.protocol.frames import Batch, Prefix
from gqlnotify.topics.subscriber import Subscriber
from gqlnotify.websocket.connection import Connection


class Owner(Protocol):
    """Who runs the operations of one connection."""

    def fell_behind(self, operation: "SharedOperation", subscriber: Subscriber) -> None:
        """Note that the peer reads too slowly; bring the operation back with `subscriber`."""

    def ended(self, operation: "SharedOperation", errors: Sequence[Mapping[str, Any]]) -> None:
        """Note that the operation is over; because of `errors`, where there are some."""


class SharedOperation:
    """A member of a group, on one connection under one id."""

    __slots__ = ("_connection", "_owner", "_prefix", "execution", "group", "id")

    def __init__(
        self, id_: str, execution: SharedExecution, connection: Connection, owner: Owner
    ) -> None:
        self.id = id_
        self.execution = execution
        self.group: Group | None = None
        self._prefix = Prefix(json.dumps(id_))
        self._connection = connection
        self._owner = owner

    def push(self, batch: Batch) -> bool:
        """See `Member.push`."""
        return self._connection.writer.push(self._prefix, batch)

    async def send(self, batch: Batch) -> None:
        """See `Member.send`."""
        while not self._connection.writer.push(self._prefix, batch):
            await self._connection.drained()
        await self._connection.drained()

    def fell_behind(self, subscriber: Subscriber) -> None:
        """See `Member.fell_behind`."""
        self.group = None
        self._owner.fell_behind(self, subscriber)

    def end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        """See `Member.end`."""
        self._owner.ended(self, errors)

    def cancel(self) -> None:
        """Send nothing any more."""
        if self.group is not None:
            self.group.leave(self)
