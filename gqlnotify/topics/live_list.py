"""A live list: a snapshot of its rows, then each change, and a new snapshot after a gap.

    start without a cursor ----> lacks a snapshot -- load() --> snapshot, then changes
    start after a valid cursor ------------------------------------------> changes
    cursor expired, or a gap --> lacks a snapshot

A snapshot is read after its cursor, so it has every change up to that cursor. It may have later
ones as well. They come again after it, and folding a change twice has the effect of once, because a
change has the whole new value of its row.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from typing_extensions import override

from gqlnotify.auth import Viewer
from gqlnotify.backoff import Backoff
from gqlnotify.callables import plain_result, require_plain
from gqlnotify.cancellation import Failure, run_within
from gqlnotify.errors import CursorExpired, InternalError, NotifyError
from gqlnotify.event import Cursor, Event, Topic
from gqlnotify.topics.projection import Projection
from gqlnotify.topics.subscriber import Subscriber
from gqlnotify.topics.subscription import Subscription

if TYPE_CHECKING:
    from gqlnotify.topics.manager import TopicManager

R = TypeVar("R")
T = TypeVar("T")

_RETRY_SECONDS = (1.0, 15.0)


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[R]):
    """All rows of a live list.

    Attributes:
        items: The rows, in the order in which `load` returned them.
        cursor: Where the changes continue. The rows have all changes up to this cursor.
    """

    items: list[R]
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """One change of a live list.

    Attributes:
        key: Which row has changed, as `key` returned it.
        value: The published value; None if the row is removed.
        removed: Whether the row does not belong to the list any more, because `where` was false. It
            may have never belonged to it.
    """

    key: Hashable
    value: T | None
    removed: bool = False


Loaded = Iterable[R] | Snapshot[R]
Load = Callable[[], Loaded[R] | Awaitable[Loaded[R]]]
"""Returns the rows of a live list: a function, plain or `async`.

It may return a `Snapshot` instead, if it knows a cursor that is as old as the rows or older.
"""


class LiveList(Subscription[T]):
    """The stream of a live list: a `Snapshot`, then a `Change` for each event. See `Subscription`.

    It yields another `Snapshot` instead of raising `CursorExpired`, and in place of a change that
    can't be read. If `load` raises an error, so does `anext`; the next `anext` loads again.
    """

    def __init__(
        self,
        manager: "TopicManager",
        topic: Topic[Any],
        *,
        load: Load[Any],
        key: Callable[[Any], Hashable],
        after: Cursor | str | None = None,
        where: Callable[[Any], bool] | None = None,
        concerns: Callable[[Any], bool] | None = None,
        view: str | None = None,
        scope: Hashable = None,
        per_viewer: bool = False,
        viewer: Viewer | None = None,
    ) -> None:
        require_plain(key, "key")
        if view is not None and where is not None and concerns is None:
            raise InternalError(
                "live: a change that `where` drops is sent as a removal, with its key. A viewer of "
                f"the view {view!r} may not see all keys: say with `concerns` which changes are in "
                "the view"
            )
        select: Any = partial(_as_change, key, where)
        super().__init__(
            manager,
            # A slow subscriber needs only the latest change of each row.
            replace(topic, latest_by=key),
            after=after,
            where=concerns,
            view=view,
            scope=scope,
            per_viewer=per_viewer,
            viewer=viewer,
            select=select,
        )
        self.load = load
        self.load_seconds: float | None = None
        """How long a call of `load` may take."""
        self._retry = Retry()

    @override
    def _new_subscriber(self) -> Subscriber:
        subscriber = super()._new_subscriber()
        subscriber.takes_snapshots = True
        return subscriber

    @override
    async def start(self, *, or_live: bool = False) -> None:
        """Check the viewer's right and join the topic. See `Subscription.start`.

        This never raises `CursorExpired`: the stream begins with a snapshot instead.
        """
        has_started = self.subscriber.started
        await super().start(or_live=True)
        if not has_started and self.subscriber.started and self._after is None:
            self.subscriber.expired = CursorExpired("There was no snapshot yet")

    @override
    async def __anext__(self) -> T:
        await self.start()
        while not self.subscriber.lacks_snapshot:
            try:
                return await super().__anext__()
            except CursorExpired as expired:
                self.subscriber.skip_gap(expired)
        return await self._next_snapshot()

    @override
    async def _next_event(self) -> Event | None:
        event = await self.subscriber.next()
        if event is not None and not self.projection.reads(event):
            raise CursorExpired("A change can't be read, so the list has to be loaded again")
        return event

    async def _next_snapshot(self) -> T:
        await self._retry.due()
        await pause_after_useless(self.subscriber)
        if self.subscriber.closed:
            raise StopAsyncIteration
        try:
            snapshot = await self._snapshot()
        except Exception as error:
            if not self.yields_errors or not may_pass(error):
                raise
            self._retry.failed()
            self.cursor = None
            return _as_internal(error)  # type: ignore[return-value]  # only on request
        self._retry.succeeded()
        self.subscriber.begin_after(snapshot.cursor)
        self.cursor, self.conflated, self.redelivered = snapshot.cursor, 0, False
        value: T = snapshot_value(self.projection, snapshot)
        return value

    def load_again(self) -> None:
        """Load the list again after a pause, because its client did not get the last value."""
        if not self.subscriber.lacks_snapshot:
            self.subscriber.skip_gap(CursorExpired("The client did not get the last value"))
            self._retry.failed()
            self.cursor = None

    async def _snapshot(self) -> Snapshot[Any]:
        taking = take_snapshot(self.load, self.subscriber.newest)
        if self.load_seconds is None:
            return await taking
        return await run_within(self.load_seconds, taking, raise_failure, copy_context())


async def take_snapshot(load: Load[R], newest: Cursor) -> Snapshot[R]:
    """Return what `load` returns, as a snapshot after `newest`, the topic's position before that.

    Raises:
        InternalError: `load` returned something that is neither rows nor a snapshot.
    """
    loaded = load()
    if isawaitable(loaded):
        loaded = await loaded
    if isinstance(loaded, Snapshot):
        return loaded
    if not isinstance(loaded, Iterable) or isinstance(loaded, str | Mapping):
        raise InternalError(
            f"load of a live list must return its rows, for example as a list, and this is a "
            f"{type(loaded).__name__}"
        )
    return Snapshot(list(loaded), newest)


async def pause_after_useless(subscriber: Subscriber) -> None:
    """Wait, longer each time, if the last snapshots of `subscriber` were useless.

    This happens if `load` returns a cursor that has expired. The first such snapshot causes no
    pause, because many changes may have come while it was loaded.
    """
    shortest, longest = _RETRY_SECONDS
    if subscriber.useless_snapshots > 1:
        await asyncio.sleep(min(shortest * subscriber.useless_snapshots, longest))


def raise_failure(failure: Failure) -> NoReturn:
    """Raise `failure`, which ended a call of `load`."""
    raise failure


def snapshot_value(projection: Projection, snapshot: Snapshot[Any]) -> Any:
    """Return what a live list with this projection yields for `snapshot`."""
    assert projection.select is not None
    event = Event(projection.topic.name, snapshot.cursor, b"")
    return plain_result(projection.select(snapshot, event), "map")


def may_pass(error: Exception) -> bool:
    """Return whether `load` may succeed later: the error is not the client's fault."""
    return not isinstance(error, NotifyError) or error.http_status >= 500


def _as_internal(error: Exception) -> NotifyError:
    """Return an error that tells a client nothing about what went wrong in `load`."""
    if isinstance(error, NotifyError):
        return error
    failure = InternalError(f"A live list could not be loaded: {error!r}")
    failure.__cause__ = error
    return failure


class Retry:
    """Waits between attempts that fail."""

    def __init__(self) -> None:
        self._backoff = Backoff(*_RETRY_SECONDS)
        self._due_at = 0.0

    def failed(self) -> None:
        """Put off the next attempt, longer after each failure."""
        self._due_at = asyncio.get_running_loop().time() + self._backoff.next()

    def succeeded(self) -> None:
        """Do not put off the next attempt."""
        self._due_at = 0.0
        self._backoff.reset()

    async def due(self) -> None:
        """Wait until the next attempt may begin."""
        seconds = self._due_at - asyncio.get_running_loop().time()
        if seconds > 0:
            await asyncio.sleep(seconds)


def _as_change(
    key: Callable[[Any], Hashable], where: Callable[[Any], bool] | None, value: Any, _event: Event
) -> Snapshot[Any] | Change[Any]:
    """Return the change for a published value. A snapshot passes as it is."""
    if isinstance(value, Snapshot):
        return value
    changed = plain_result(key(value), "key")
    if where is None or plain_result(where(value), "where"):
        return Change(changed, value)
    return Change(changed, None, removed=True)
