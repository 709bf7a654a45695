"""A topic's values from one position on: what a subscription resolver returns.

A `Subscription` is a subscriber of a topic, a right that was checked, and a projection of each
event.
"""

from collections import deque
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from typing import Any, Generic, Protocol, Self, TypeVar

from gqlnotify.auth import Viewer, check_right, current_viewer
from gqlnotify.callables import require_plain
from gqlnotify.errors import EventUnreadable
from gqlnotify.event import Cursor, Event, Topic
from gqlnotify.topics.conflation import Skipped
from gqlnotify.topics.projection import Projection
from gqlnotify.topics.subscriber import LiveTopics, Subscriber

T = TypeVar("T")
U = TypeVar("U")

# A generator that yields nothing for hours must not collect errors without end.
MAX_NOTED = 100

_noted: ContextVar[deque[EventUnreadable] | None] = ContextVar("unreadable_events", default=None)


def note_unreadable() -> deque[EventUnreadable]:
    """Return where the streams iterated in this context put the events that they can't read.

    It keeps the latest `MAX_NOTED`. Whoever iterates such a stream gets readable values only.
    """
    noted: deque[EventUnreadable] = deque(maxlen=MAX_NOTED)
    _noted.set(noted)
    return noted


class Topics(LiveTopics, Protocol):
    """What a subscription asks of the manager that made it."""

    def count_topic(self, viewer: Viewer | None, topic: str) -> None:
        """Count the topic among those that the viewer's subject has asked for."""


class Subscription(Generic[T]):
    """A topic's values from one position on: what a subscription resolver returns.

    An asynchronous iterator. Under gqlnotify's own transports each value's result carries its
    cursor, and subscriptions that ask the same share each event's execution; under any other
    transport it is just the stream.

    Clients get an error for an event that can't be read. Your own `async for` goes on with the
    next event, because an exception would end it. If it runs in a subscription's generator, the
    client gets the error before the generator's next result.

    `cursor` is that of the value that was returned last, and `conflated` says how many the topic's
    `latest_by` has left out right before it.

    A stream that is dropped leaves its topic: a `break`, a cancel or a client that goes needs no
    `aclose`.
    """

    def __init__(
        self,
        manager: Topics,
        topic: Topic[Any],
        *,
        after: str | None = None,
        where: Callable[[Any], bool] | None = None,
        view: str | None = None,
        scope: Hashable = None,
        per_viewer: bool = False,
        viewer: Viewer | None = None,
        select: Callable[[Any, Event], T] | None = None,
    ) -> None:
        self.manager = manager
        self.projection = Projection(topic, where, select)
        self.scope = scope
        self.per_viewer = per_viewer
        self.cursor: Cursor | None = None
        self.conflated = 0
        self.yields_unreadable = False
        """Whether an `EventUnreadable` comes in place of an event that can't be read."""
        key_of = None if topic.latest_by is None else self.projection.key_of
        self.subscriber = Subscriber(manager, topic.concrete(), key_of=key_of)
        self._after = after
        self._view = view
        self._viewer = viewer

    def map(self, select: Callable[[T, Event], U]) -> "Subscription[U]":
        """Return the stream of what `select` makes of each value and its event.

        Raises:
            RuntimeError: the stream has started.
            InternalError: `select` is an `async def`.
        """
        require_plain(select, "map")
        if self.subscriber.started:
            raise RuntimeError("The subscription has started")
        return Subscription(
            self.manager,
            self.projection.topic,
            after=self._after,
            where=self.projection.where,
            view=self._view,
            scope=self.scope,
            per_viewer=self.per_viewer,
            viewer=self._viewer,
            select=_compose(self.projection.select, select),
        )

    def resume(self, after: str) -> None:
        """Begin behind this cursor instead; only before the start."""
        self._after = after

    async def start(self) -> None:
        """Check the right and take the position. Whatever is published from here on will come.

        Iterating does it too; starting by hand tells a refusal from a failure later on.

        Raises:
            Forbidden: the viewer has no right to the topic.
            TooManyTopics: the viewer's subject has asked for too many topics that are new here.
            BadUserInput: `after` is no cursor.
            CursorExpired: the history no longer reaches back to `after`.
            BrokerUnavailable: the broker has never been reached; later on, it is waited for.
        """
        if self.subscriber.started or self.subscriber.closed:
            return
        views = () if self._view is None else (self._view,)
        # One that was made for no viewer, as in a bare thread, is checked where it is used.
        viewer = self._viewer or current_viewer()
        await check_right(viewer, "subscribe", self.subscriber.topic, *views)
        self.manager.count_topic(viewer, self.subscriber.topic)
        await self.subscriber.open(None if self._after is None else Cursor.parse(self._after))

    async def aclose(self) -> None:
        """Leave the topic. A pending `__anext__` ends the iteration."""
        self.subscriber.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        await self.start()
        while (event := await self.subscriber.next()) is not None:
            value: T | Skipped | EventUnreadable = self.projection.apply(event)
            if isinstance(value, EventUnreadable) and not self.yields_unreadable:
                _note(value)
                continue
            if not isinstance(value, Skipped):
                self.cursor, self.conflated = event.cursor, self.subscriber.left_out
                return value  # type: ignore[return-value]  # only who asked for it gets the other
        raise StopAsyncIteration


def _note(unreadable: EventUnreadable) -> None:
    noted = _noted.get()
    if noted is not None:
        noted.append(unreadable)


def _compose(
    inner: Callable[[Any, Event], Any] | None, outer: Callable[[Any, Event], U]
) -> Callable[[Any, Event], U]:
    if inner is None:
        return outer
    return lambda value, event: outer(inner(value, event), event)
