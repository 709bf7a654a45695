"""Publishes to topics, and hands out subscriptions to them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, overload

from gqlnotify import brokers
from gqlnotify.auth import Viewer, authorize, current_viewer, knows_its_viewer
from gqlnotify.backoff import Backoff
from gqlnotify.brokers import Broker
from gqlnotify.callables import require_plain
from gqlnotify.errors import (
    BrokerUnavailable,
    NoViewer,
    TopicsClosed,
    UnknownViewer,
)
from gqlnotify.event import Cursor, Event, Topic, check_event, check_topic_name, encode
from gqlnotify.observability import metrics, tracing
from gqlnotify.settings import Settings
from gqlnotify.topics.live_topic import RETRY_SECONDS, LiveTopic
from gqlnotify.topics.subscriber import Subscriber
from gqlnotify.topics.subscription import Subscription
from gqlnotify.topics.topic_budget import TopicBudget

T = TypeVar("T")
U = TypeVar("U")

logger = logging.getLogger("gqlnotify.topics")


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


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
