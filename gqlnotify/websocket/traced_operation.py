"""Shared operations that a trace follows.

While a trace follows an operation, the operation has another class. So the others, which the same
event is delivered to, have neither a further call nor a further branch.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import Any

from typing_extensions import override

from gqlnotify.event import Cursor
from gqlnotify.observability.trace import Kind, live
from gqlnotify.observability.trace_facts import counted
from gqlnotify.observability.trace_live import Followed
from gqlnotify.protocol.frames import Batch
from gqlnotify.topics.subscriber import Subscriber
from gqlnotify.websocket.shared_operation import SharedOperation

_LOOK_SECONDS = 0.05


class TracedOperation(SharedOperation, Followed):
    """Tells each step of a delivery to the traces that follow."""

    __slots__ = ()

    @override
    def push(self, batch: Batch) -> bool:
        has_room = super().push(batch)
        if self.group is not None:
            reached = self.group.reached_by(self)
            if has_room:
                self.tell(Kind.PUSHED, reached, counted(len(batch.bodies), "message"))
                _watch(self, reached)
            else:
                self.tell(Kind.WAITING, reached, "it leaves the group until it has caught up")
        return has_room

    @override
    def lagged(self, subscriber: Subscriber) -> None:
        # Until it has caught up, what the group does is not done for its subject.
        self.execution.followed.pop(self, None)
        super().lagged(subscriber)

    @override
    def end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        self._forget()
        super().end(errors)

    @override
    def cancel(self) -> None:
        self._forget()
        super().cancel()

    def acknowledged(self, cursor: Cursor) -> None:
        """Tell that the client has received everything up to `cursor`."""
        self.tell(Kind.ACKNOWLEDGED, cursor)

    def tell(self, kind: Kind, cursor: Cursor, text: str = "") -> None:
        """Tell one step."""
        reader = self.reader
        live.step(
            kind,
            topic=reader.projection.topic.name,
            cursor=cursor,
            subject=reader.subject,
            connection=reader.connection,
            text=text,
        )

    @override
    def unfollow(self) -> None:
        self._forget()
        plain: SharedOperation = self
        plain.__class__ = SharedOperation

    def _forget(self) -> None:
        live.followed.pop(self, None)
        self.execution.followed.pop(self, None)


def follow(operation: SharedOperation) -> None:
    """Begin to tell each step of `operation` if a trace follows it."""
    subject = operation.subject
    if subject is not None and live.follows(subject, operation.execution.projection.topic.name):
        operation.execution.followed[operation] = subject
        operation.__class__ = TracedOperation
        assert isinstance(operation, TracedOperation)
        live.followed[operation] = subject, operation.execution.projection.topic.name


# Up to where each operation was pushed, and the kernel does not have everything yet.
_unwritten: dict[SharedOperation, Cursor] = {}


def _watch(operation: TracedOperation, reached: Cursor) -> None:
    begins = operation not in _unwritten
    _unwritten[operation] = reached
    if begins:
        # After the write, which waits for the end of the tick.
        asyncio.get_running_loop().call_soon(_look, operation, None, context=Context())


def _look(operation: SharedOperation, told: Cursor | None) -> None:
    """Tell when the kernel has everything. `told` is what was told to wait."""
    reached, held = _unwritten[operation], operation.held
    if not isinstance(operation, TracedOperation) or operation.is_over:
        del _unwritten[operation]
        return
    if held == 0:
        del _unwritten[operation]
        operation.tell(Kind.WRITTEN, reached)
        return
    if told != reached:
        operation.tell(Kind.WAITING, reached, f"{held} bytes are unread")
    loop = asyncio.get_running_loop()
    loop.call_later(_LOOK_SECONDS, _look, operation, reached, context=Context())
