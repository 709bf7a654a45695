"""From the broker to the subscribers: order, history-to-live handover, gaps.

A `Subscription` is a reader of a topic, a right that was checked, and what is made of each event.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Self, TypeVar, overload

from gqlnotify import brokers
from gqlnotify.auth import Viewer, authorize, check_right, current_viewer, knows_its_viewer
from gqlnotify.backoff import Backoff
from gqlnotify.brokers import Broker
from gqlnotify.callables import plain_result, require_plain
from gqlnotify.errors import (
    BrokerUnavailable,
    EventUnreadable,
    NoViewer,
    TopicsClosed,
    UnknownViewer,
)
from gqlnotify.event import Cursor, Event, Topic, check_event, check_topic_name, encode
from gqlnotify.observability import metrics, tracing
from gqlnotify.settings import Settings
from gqlnotify.topics.conflation import SKIPPED, Skipped
from gqlnotify.topics.live_topic import RETRY_SECONDS, LiveTopic
from gqlnotify.topics.subscriber import Subscriber
from gqlnotify.topics.topic_budget import TopicBudget

T = TypeVar("T")
U = TypeVar("U")

logger = logging.getLogger("gqlnotify.topics")

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


@dataclass(frozen=True, slots=True)
class Projection:
    """What is made of each event: its value, filtered, and made into something else."""

    topic: Topic[Any]
    where: Callable[[Any], bool] | None = None
    select: Callable[[Any, Event], Any] | None = None

    def apply(self, event: Event) -> Any:
        """Return what is made of `event`; `SKIPPED` where it is left out.

        An event that can't be read makes an `EventUnreadable`, returned and not raised: executing
        it gives an error for this one event, as for any exception in place of a value.
        """
        try:
            value = self.topic.decode(event.payload)
        except ValueError as error:
            _report_unreadable(event.topic, event.cursor, str(error))
            return EventUnreadable(event.cursor)
        if not self._lets_through(value):
            return SKIPPED
        return value if self.select is None else plain_result(self.select(value, event), "map")

    def _lets_through(self, value: Any) -> bool:
        return self.where is None or bool(plain_result(self.where(value), "where"))

    def key_of(self, event: Event) -> Hashable | Skipped:
        """Return the key that the topic gives to `event`; `SKIPPED` where it is left out.

        What is left out makes nothing old news: whoever lags ends up where all others are.
        """
        assert self.topic.latest_by is not None
        try:
            value = self.topic.decode(event.payload)
            if not self._lets_through(value):
                return SKIPPED
        except Exception:
            # It comes, and is told of when it is its turn.
            return None
        key: Hashable = plain_result(self.topic.latest_by(value), "latest_by")
        return key


@lru_cache(maxsize=1024)
def _report_unreadable(topic: str, cursor: Cursor, why: str) -> None:
    """Log and count an event once, however many subscriptions meet it."""
    metrics.unreadable_events.inc()
    logger.error("The event of %r at %s can't be read: %s", topic, cursor, why)


class TopicManager:
    """Publishes to topics and hands out subscriptions; one for each application.

    It starts by itself on first use. The plugin's lifespan starts it early, so that a broker out
    of reach is seen at once, and closes it at the end.
    """

    def __init__(self, broker: Broker | None = None, *, settings: Settings | None = None) -> None:
        """Take `broker`, or make the one that the settings (or the environment) name.

        Raises:
            TypeError: `broker` is not a `Broker`.
            ValueError: the settings name no broker that is known.
        """
        if not isinstance(broker, Broker | None):
            raise TypeError(
                f"TopicManager takes a Broker, such as MemoryBroker(), and not {type(broker)!r}. "
                'For a URL, pass settings=Settings(broker_url="redis://...") or set '
                "GQLNOTIFY_BROKER_URL"
            )
        self._settings = settings or Settings()
        self._broker = broker or brokers.from_settings(self._settings)
        self._live_topics: dict[str, LiveTopic] = {}
        self._budget = TopicBudget(self._settings.new_topics_per_subject)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()
        self._started = False
        self._closed_in: asyncio.AbstractEventLoop | None = None
        self._holders = 0
        self._guarded = False

    def guard(self) -> None:
        """Refuse to publish from threads that do not know for whom they run.

        The router calls this where tokens are asked for.
        """
        self._guarded = True

    @property
    def durable(self) -> bool:
        """Whether the topics outlive this process."""
        return self._broker.durable

    async def start(self) -> None:
        """Connect to the broker, unless that is done. A closed manager is opened again.

        Raises:
            BrokerUnavailable: it can't be reached within `broker_wait` seconds.
            RuntimeError: the manager runs in another event loop.
        """
        self._settle_in(asyncio.get_running_loop())
        async with self._starting:
            if self._started:
                return
            await self._start_broker()
            self._started, self._closed_in = True, None
            metrics.watch(self)

    @asynccontextmanager
    async def held_open(self) -> AsyncIterator[None]:
        """Start, and close when the last holder leaves: several routers may share a manager.

        Raises:
            BrokerUnavailable: it can't be reached within `broker_wait` seconds.
            RuntimeError: the manager runs in another event loop.
        """
        self._settle_in(asyncio.get_running_loop())
        # Counted before the start: another holder that leaves meanwhile must not close it.
        self._holders += 1
        try:
            await self.start()
            yield
        finally:
            self._holders -= 1
            if self._holders <= 0:
                await self.close()

    async def _require_open(self) -> None:
        """Start on first use, but not again after the application has closed the manager."""
        if self._is_closed():
            raise TopicsClosed
        await self.start()

    def _is_closed(self) -> bool:
        return self._closed_in is asyncio.get_running_loop()

    async def close(self) -> None:
        """End every subscription, then close the broker.

        Afterwards only publishing works, for the application's own shutdown, until `start`.
        """
        metrics.unwatch(self)
        for live_topic in list(self._live_topics.values()):
            for subscriber in list(live_topic.members):
                subscriber.close()
            live_topic.cancel()
        self._live_topics.clear()
        async with self._starting:
            self._loop, self._started = None, False
            self._closed_in = asyncio.get_running_loop()
            await self._broker.close()

    async def check(self) -> None:
        """Return if events can be published and are delivered: the broker's part of readiness.

        Raises:
            BrokerUnavailable: they can't, or aren't.
            TopicsClosed: the manager was closed.
        """
        await self._require_open()
        await self._broker.check()

    @overload
    async def publish(
        self, topic: Topic[T], value: T, *, event_id: str | None = None
    ) -> Cursor: ...
    @overload
    async def publish(self, topic: str, value: Any, *, event_id: str | None = None) -> Cursor: ...
    async def publish(
        self, topic: Topic[Any] | str, value: Any, *, event_id: str | None = None
    ) -> Cursor:
        """Append `value` to `topic` and return where it stands.

        A topic is a `Topic`, whose type then checks the value, or a name, and the value is whatever
        JSON can hold. Inside an operation the viewer needs the right to publish there. Publishing
        again under an `event_id` that the history still remembers has no effect and returns the
        first cursor.

        Raises:
            BadUserInput: the event is too large, or the name or the id won't do.
            InternalError: `value` is not of the topic's type, or would not arrive as it is.
            Forbidden: the viewer lacks the right.
            BrokerUnavailable: nothing was published.
        """
        name, payload = encode(topic, value)
        return await self.publish_bytes(name, payload, event_id=event_id)

    async def publish_bytes(
        self, topic: str, payload: bytes, *, event_id: str | None = None
    ) -> Cursor:
        """Publish what `Topic.encode` made, under the topic's name. See `publish`."""
        check_topic_name(topic)
        check_event(payload, event_id, max_bytes=self._settings.event_max_bytes)
        await authorize("publish", topic)
        async with self._publishing():
            with tracing.span("publish", lambda: {"messaging.destination.name": topic}):
                cursor = await self._broker.publish(topic, payload, event_id=event_id)
        metrics.events_published.inc()
        return cursor

    @asynccontextmanager
    async def _publishing(self) -> AsyncIterator[None]:
        if not self._is_closed():
            await self.start()
            yield
            return
        # FastAPI ends the router's lifespan before the application's, which may still publish.
        async with self._starting:
            await self._start_broker()
            try:
                yield
            finally:
                await self._broker.close()

    @overload
    def publish_sync(
        self,
        topic: Topic[T],
        value: T,
        *,
        event_id: str | None = None,
        timeout: float | None = 30,
        trusted: bool = False,
    ) -> Cursor: ...
    @overload
    def publish_sync(
        self,
        topic: str,
        value: Any,
        *,
        event_id: str | None = None,
        timeout: float | None = 30,
        trusted: bool = False,
    ) -> Cursor: ...
    def publish_sync(
        self,
        topic: Topic[Any] | str,
        value: Any,
        *,
        event_id: str | None = None,
        timeout: float | None = 30,
        trusted: bool = False,
    ) -> Cursor:
        """Publish from a thread and wait for it, `timeout` seconds at the most.

        The viewer's right is checked in threads that have the context of an operation, as those of
        `asyncio.to_thread` do. Where tokens are asked for, a thread without any context is refused,
        because a resolver may have started it. `trusted` says that it is the application's own; a
        viewer that is known is checked in any case.

        Raises:
            UnknownViewer: the thread does not know for whom it runs.
            RuntimeError: called from the event loop's own thread, or before the manager started.
            TimeoutError: it took too long; whether the event was published is not known.
        """
        if self._guarded and not trusted and not knows_its_viewer():
            raise UnknownViewer
        if self._loop is None:
            raise RuntimeError("The TopicManager has not started; its application is not running")
        if self._loop.is_closed():
            raise RuntimeError("The event loop that the TopicManager ran in is closed")
        if _running_loop() is self._loop:
            raise RuntimeError("Here the event loop is at hand: await publish() instead")
        publishing = self.publish(topic, value, event_id=event_id)
        return asyncio.run_coroutine_threadsafe(publishing, self._loop).result(timeout)

    def subscribe(
        self,
        topic: Topic[T],
        *,
        after: str | None = None,
        where: Callable[[T], bool] | None = None,
        view: str | None = None,
        scope: Hashable = None,
        per_viewer: bool = False,
    ) -> "Subscription[T]":
        """Return the stream of `topic`, to be returned by a subscription resolver.

        Args:
            topic: what to read.
            after: the cursor to resume behind; without it the stream begins now.
            where: only values for which this is true.
            view: a name under which this filtered view can be granted by itself: the viewer then
                needs the right to subscribe to the topic or to `view`.
            scope: what the results depend on beside the event and the operation: a tenant, a
                locale, a role. Only subscriptions of one scope share an execution, and its
                context is made for that scope.
            per_viewer: execute each event for each subscriber, with the subscriber's own context.

        Subscriptions with the same document, variables, topic, filter and scope share one
        execution for each event, which has no viewer. Two filters are the same when their code is,
        and the immutable values that they have captured.

        Raises:
            InternalError: `where` is an `async def`, which would let everything through.
        """
        require_plain(where, "where")
        # The viewer who asks for the stream must have the right to it, wherever it is iterated: in
        # an operation's task, in Strawberry's, in an application's generator.
        return Subscription(
            self,
            topic,
            after=after,
            where=where,
            view=view,
            scope=scope,
            per_viewer=per_viewer,
            viewer=current_viewer(),
        )

    async def cursor(self, topic: Topic[Any]) -> str:
        """Return the topic's present cursor.

        Read it before you read the state that the topic's events are about: then subscribing
        `after` it misses nothing.

        Raises:
            BrokerUnavailable: the broker can't be asked.
        """
        await self._require_open()
        with suppress(NoViewer):
            self.count_topic(current_viewer(), topic.concrete())
        return str(await self._broker.head(topic.concrete()))

    async def oldest(self, topic: Topic[Any]) -> Cursor:
        """Return the cursor behind which is all that the topic still remembers.

        Raises:
            BrokerUnavailable: the broker can't be asked.
        """
        await self._require_open()
        return await self._broker.oldest(topic.concrete())

    def load(self) -> metrics.Load:
        """See `metrics.Sampled`."""
        yield metrics.topics, len(self._live_topics)
        yield (
            metrics.subscribers,
            sum(len(live_topic.members) for live_topic in self._live_topics.values()),
        )

    def _settle_in(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is loop:
            return
        if self._loop is not None and self._loop.is_running():
            # Moving here would leave those who listen over there without their events.
            raise RuntimeError(
                "The TopicManager runs in another event loop; from here, call publish_sync()"
            )
        self._loop, self._starting, self._started = loop, asyncio.Lock(), False
        # Those of an event loop that has ended never left.
        self._holders = 0
        self._live_topics.clear()

    async def _start_broker(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.broker_wait
        backoff = Backoff(*RETRY_SECONDS)
        while True:
            try:
                return await self._broker.start(self._deliver, self._on_possible_gap)
            except BrokerUnavailable as error:
                left = deadline - loop.time()
                if left <= 0:
                    raise
                logger.warning(
                    "Waiting for the broker, %.1f s more at most: %s", left, error.reason
                )
            await asyncio.sleep(min(backoff.next(), left))

    def count_topic(self, viewer: Viewer | None, topic: str) -> None:
        """Count the topic among those that the viewer's subject has asked for, if it is new here.

        Raises:
            TooManyTopics: there were too many.
        """
        if viewer is not None:
            self._budget.spend(viewer.principal.subject, topic)

    async def join(self, topic: str, subscriber: Subscriber) -> LiveTopic:
        """See `subscriber.LiveTopics`."""
        await self._require_open()
        live_topic = self._live_topics.get(topic)
        if live_topic is None:
            live_topic = self._live_topics[topic] = LiveTopic(topic, self._broker)
        live_topic.add(subscriber)
        try:
            await live_topic.open()
        except BaseException:
            self.leave(live_topic, subscriber)
            raise
        return live_topic

    def leave(self, live_topic: LiveTopic, subscriber: Subscriber) -> None:
        """See `subscriber.LiveTopics`."""
        live_topic.remove(subscriber)
        self._linger_if_idle(live_topic)

    def left(self, live_topic: LiveTopic) -> None:
        """See `subscriber.LiveTopics`."""
        loop = self._loop
        if loop is None:
            return
        # The garbage collector runs in any thread, also after the loop has closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._linger_if_idle, live_topic)

    def _linger_if_idle(self, live_topic: LiveTopic) -> None:
        # A client that lost its connection comes back soon: the topic stays open that long, and
        # its window has what the client missed.
        if not live_topic.members:
            live_topic.linger(self._settings.topic_linger, self._forget)

    def _forget(self, live_topic: LiveTopic) -> None:
        if self._live_topics.get(live_topic.topic) is live_topic:
            del self._live_topics[live_topic.topic]

    def _on_possible_gap(self, topic: str) -> None:
        live_topic = self._live_topics.get(topic)
        if live_topic is not None:
            live_topic.refresh()

    def _deliver(self, event: Event) -> None:
        live_topic = self._live_topics.get(event.topic)
        if live_topic is not None:
            live_topic.deliver(event)


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
        manager: TopicManager,
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


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
