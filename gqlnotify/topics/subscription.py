"""The stream of a topic's values that a subscription resolver returns.

A `Subscription` reads a topic through a subscriber, checks the viewer's right, and projects each
event to a value.
"""

from collections import deque
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from typing_extensions import override

from gqlnotify.auth import Viewer, check_right, current_viewer
from gqlnotify.callables import require_plain
from gqlnotify.errors import CursorExpired, EventUnreadable, NotifyError
from gqlnotify.event import Cursor, Event, Topic, refuse_reserved
from gqlnotify.observability import logs, trace
from gqlnotify.topics.conflation import Skipped
from gqlnotify.topics.local_member import current_member
from gqlnotify.topics.local_presence import Membership
from gqlnotify.topics.projection import Projection
from gqlnotify.topics.reading import Reader, place_of
from gqlnotify.topics.subscriber import Subscriber

if TYPE_CHECKING:
    from gqlnotify.topics.manager import TopicManager

T = TypeVar("T")
U = TypeVar("U")

# Bounds the errors that pile up while a generator yields nothing for hours.
MAX_NOTED = 100

_noted: ContextVar[deque[EventUnreadable] | None] = ContextVar("unreadable_events", default=None)


def note_unreadable() -> deque[EventUnreadable]:
    """Return a deque that collects the unreadable events of streams iterated in this context.

    It keeps the latest `MAX_NOTED`. The streams themselves yield only readable values.
    """
    noted: deque[EventUnreadable] = deque(maxlen=MAX_NOTED)
    _noted.set(noted)
    return noted


class Subscription(Generic[T]):
    """The stream of a topic's values: an asynchronous iterator for a resolver to return.

    With gqlnotify's own transports, each result carries its cursor, and identical subscriptions
    share each event's execution. With any other transport it is a plain stream.

    Clients get an error for an event that can't be read. Your own `async for` skips such an event,
    because an exception would end the loop. If the loop runs in a subscription's generator, the
    client gets the error before the generator's next result.

    `cursor` is the cursor of the last returned value. `conflated` is the number of events that
    `latest_by` dropped right before that value. `redelivered` says whether the client may have
    received that value on an earlier connection.

    The stream leaves its topic when it is garbage-collected: a `break`, a cancellation or a
    client's disconnect needs no `aclose`.
    """

    def __init__(
        self,
        manager: "TopicManager",
        topic: Topic[Any],
        *,
        after: Cursor | str | None = None,
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
        self.redelivered = False
        self.yields_errors = False
        """Whether the stream yields the errors that it can go on after, for example an
        `EventUnreadable` for an event that can't be read."""
        self.subscriber = self._new_subscriber()
        self._after = after
        self._or_live = False
        self._view = view
        self._viewer = viewer
        # Like the viewer, that of who asked for the stream.
        self._member = current_member() if topic.presence else None
        self.membership: Membership | None = None
        """Set while the stream makes its subject present at the topic."""

    def map(self, select: Callable[[T, Event], U]) -> "Subscription[U]":
        """Return a stream that calls `select` with each value and its event, and yields the result.

        Raises:
            RuntimeError: The stream has already started.
            InternalError: `select` is an `async def`.
        """
        require_plain(select, "map")
        if self.subscriber.started:
            raise RuntimeError("The subscription has started")
        mapped: Any = copy(self)
        mapped.projection = replace(
            self.projection, select=_compose(self.projection.select, select)
        )
        mapped.subscriber = mapped._new_subscriber()
        return mapped  # type: ignore[no-any-return]

    def _new_subscriber(self) -> Subscriber:
        topic = self.projection.topic
        key_of = None if topic.latest_by is None else self.projection.key_of
        return Subscriber(self.manager, topic.concrete(), key_of=key_of)

    def resume(self, after: Cursor | str, *, or_live: bool = False) -> None:
        """Begin after this cursor instead. Call it before the stream starts.

        With `or_live`, a stream whose cursor has expired begins with the next event.
        """
        self._after, self._or_live = after, or_live

    async def start(self, *, or_live: bool = False) -> None:
        """Check the viewer's right and join the topic. The stream misses no event after that.

        Iterating starts the stream too. An explicit start separates a refusal from a later failure.
        With `or_live`, a stream whose cursor has expired begins with the next event.

        Raises:
            Forbidden: The viewer has no right to the topic.
            TooManyTopics: The viewer's subject has asked for too many new topics.
            BadUserInput: `after` is not a cursor, or the topic is one of gqlnotify itself.
            CursorExpired: The history no longer reaches back to `after`.
            BrokerUnavailable: The broker has never been reached. After a first success, this waits
                for the broker instead.
        """
        if self.subscriber.started or self.subscriber.closed:
            return
        # A stream that was created without a viewer, as in a bare thread, is checked where it runs.
        viewer = self._viewer or current_viewer()
        subject = None if viewer is None else viewer.principal.subject
        try:
            await self._join(viewer, or_live=or_live or self._or_live)
        except NotifyError as error:
            trace.note(
                trace.Kind.REFUSED,
                subject=subject,
                topic=self.subscriber.topic,
                code=error.code,
                text=error.message,
            )
            raise
        self._note_begin(subject)

    async def _join(self, viewer: Viewer | None, *, or_live: bool) -> None:
        await self._check_right(viewer)
        self.manager.count_topic(viewer, self.subscriber.topic)
        after = None if self._after is None else Cursor.parse(self._after)
        await self.subscriber.open(after, or_live=or_live)
        if self._member is not None and not self.subscriber.closed:
            self.membership = self.manager.local_presence.join(self.subscriber.topic, self._member)

    async def _check_right(self, viewer: Viewer | None) -> None:
        if viewer is None:
            # A client that needs no token may still choose the topic's name.
            refuse_reserved(self.subscriber.topic)
        views = () if self._view is None else (self._view,)
        await check_right(viewer, "subscribe", self.subscriber.topic, *views)

    def _note_begin(self, subject: str | None) -> None:
        subscriber = self.subscriber
        subscriber.reader = Reader(
            subject, logs.connection_id.get(), subscriber.position, self.projection, self.scope
        )
        trace.note(
            trace.Kind.SUBSCRIBED,
            subject=subject,
            topic=subscriber.topic,
            cursor=subscriber.position,
            text=place_of(self.projection.where) or "",
        )
        if subscriber.expired is not None and self._after is not None:
            trace.note(
                trace.Kind.GAP,
                subject=subject,
                topic=subscriber.topic,
                cursor=str(self._after),
                until=subscriber.position,
            )

    async def aclose(self) -> None:
        """Leave the topic. A pending `__anext__` ends the iteration."""
        self.leave()

    def leave(self) -> None:
        """Do what `aclose` does."""
        self.subscriber.close()
        if self.membership is not None:
            self.membership.leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        await self.start()
        while (event := await self._next_event()) is not None:
            if isinstance(event, CursorExpired):
                self.cursor, self.conflated, self.redelivered = self.subscriber.position, 0, False
                self.subscriber.note_sent()
                return event  # type: ignore[return-value]  # only for a client that goes on
            value: T | Skipped | EventUnreadable = self.projection.apply(event)
            if isinstance(value, EventUnreadable) and not self.yields_errors:
                _note(value)
                continue
            if not isinstance(value, Skipped):
                self.cursor, self.conflated = event.cursor, self.subscriber.left_out
                self.redelivered = self.subscriber.may_repeat(event)
                self.subscriber.note_sent()
                return value  # type: ignore[return-value]  # an error only on request
            self.subscriber.note_filtered()
        raise StopAsyncIteration

    async def _next_event(self) -> Event | CursorExpired | None:
        try:
            return await self.subscriber.next()
        except CursorExpired as expired:
            if self.subscriber.progress is None:
                raise
            self.subscriber.skip_gap(expired)
            self.subscriber.take_expired()
            return CursorExpired.but_goes_on()


class UncheckedSubscription(Subscription[T]):
    """Reads any topic, also those of gqlnotify itself, for the tools of operators.

    They have the address of the broker, so they may read all of it.
    """

    @override
    async def _check_right(self, viewer: Viewer | None) -> None:
        """Check nothing."""


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
