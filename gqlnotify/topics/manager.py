"""Publishes to topics and creates subscriptions to them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

from gqlnotify import brokers
from gqlnotify.auth import Viewer, authorize, current_viewer, knows_its_viewer
from gqlnotify.backoff import Backoff
from gqlnotify.brokers import Broker
from gqlnotify.brokers.presence import Present
from gqlnotify.callables import require_plain
from gqlnotify.errors import (
    BrokerUnavailable,
    Forbidden,
    NoViewer,
    TopicsClosed,
    Unauthenticated,
    UnknownViewer,
)
from gqlnotify.event import (
    Cursor,
    Event,
    Topic,
    check_event,
    check_topic_name,
    encode,
    refuse_reserved,
)
from gqlnotify.observability import metrics, trace, tracing
from gqlnotify.settings import Settings
from gqlnotify.topics import why
from gqlnotify.topics.live_list import Change, LiveList, Load, Snapshot
from gqlnotify.topics.live_topic import RETRY_SECONDS
from gqlnotify.topics.live_topics import LiveTopics
from gqlnotify.topics.local_member import LocalMember, current_member
from gqlnotify.topics.local_presence import LocalPresence
from gqlnotify.topics.lookup import find_event
from gqlnotify.topics.presence import PresenceStream, encode_state, require_presence
from gqlnotify.topics.resumptions import Resumptions
from gqlnotify.topics.subscription import Subscription
from gqlnotify.topics.survey import Survey
from gqlnotify.topics.topic_budget import TopicBudget

R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger("gqlnotify.topics")


class TopicManager:
    """Publishes to topics and creates subscriptions; one for each application.

    It starts on first use. The plugin's lifespan starts it earlier, so that an unreachable broker
    shows at startup, and closes it at shutdown.
    """

    known: ClassVar["WeakSet[TopicManager]"] = WeakSet()
    """The managers of this process, for tests."""

    def __init__(self, broker: Broker | None = None, *, settings: Settings | None = None) -> None:
        """Use `broker`, or create the one that the settings (or the environment) name.

        Raises:
            TypeError: `broker` is not a `Broker`.
            ValueError: The settings name an unknown broker.
        """
        if not isinstance(broker, Broker | None):
            raise TypeError(
                f"TopicManager takes a Broker, such as MemoryBroker(), and not {type(broker)!r}. "
                'For a URL, pass settings=Settings(broker_url="redis://...") or set '
                "GQLNOTIFY_BROKER_URL"
            )
        self._settings = settings or Settings()
        self._broker = broker or brokers.from_settings(self._settings)
        self.live_topics = LiveTopics(self._broker, linger=self._settings.topic_linger)
        self._budget = TopicBudget(self._settings.new_topics_per_subject)
        self.resumptions = Resumptions(self._broker, self._settings)
        self.survey = Survey(self._broker)
        self.local_presence = self._new_local_presence()
        self.survey.on(why.ASKED, partial(why.answer, self))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()
        self._started = False
        self._closed_in: asyncio.AbstractEventLoop | None = None
        self._holders = 0
        self._guarded = False
        self.known.add(self)

    def guard(self) -> None:
        """Refuse `publish_sync` from threads that have no viewer in their context.

        The router calls this if it requires tokens.
        """
        self._guarded = True

    @property
    def durable(self) -> bool:
        """Whether the topics outlive this process."""
        return self._broker.durable

    @property
    def settings(self) -> Settings:
        """The settings that the manager was made with."""
        return self._settings

    @property
    def is_running(self) -> bool:
        """Whether the manager has started, in an event loop that runs."""
        return self._started and self._loop is not None and self._loop.is_running()

    @property
    def readers(self) -> Mapping[str, int]:
        """How many subscribers each topic has in this process."""
        return {name: len(topic.subscribers) for name, topic in self.live_topics.by_name.items()}

    async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
        """Return the events right after `after`, oldest first, at most `limit` of them.

        The caller decides who may see them.

        Raises:
            CursorExpired: The history no longer contains the event right after `after`.
            BrokerUnavailable: The history can't be read.
        """
        await self.require_open()
        return await self._broker.read(topic, after, limit)

    def exchange_broker(self, broker: Broker) -> Broker:
        """Use `broker` from the next start on, and return the former one. For tests.

        Raises:
            RuntimeError: The manager is running.
        """
        if self.is_running:
            raise RuntimeError("A running TopicManager can't exchange its broker: close it first")
        if self._loop is not None and not self._loop.is_closed():
            self.live_topics.end()
        self.live_topics.reset()
        self.resumptions.reset()
        self.local_presence.reset()
        former, self._broker = self._broker, broker
        self.live_topics.use(broker)
        self.resumptions = Resumptions(broker, self._settings)
        self.survey.use(broker)
        self.local_presence = self._new_local_presence()
        self._loop, self._started, self._closed_in = None, False, None
        return former

    async def start(self) -> None:
        """Connect to the broker, if it is not connected yet. This also reopens a closed manager.

        Raises:
            BrokerUnavailable: It can't be reached within `broker_wait` seconds.
            RuntimeError: The manager runs in another event loop.
        """
        self._settle_in(asyncio.get_running_loop())
        async with self._starting:
            if self._started:
                return
            # Not at the end: a `close` that comes during the start must keep its mark.
            self._closed_in = None
            await self._start_broker()
            trace.ring.limit(self._settings.trace_bytes, self._settings.trace_seconds)
            # A `close` that this has waited for has let go of the event loop.
            self._loop = asyncio.get_running_loop()
            self._started = True
            self.survey.start()
            metrics.watch(self.live_topics)

    @asynccontextmanager
    async def held_open(self) -> AsyncIterator[None]:
        """Start, and close when the last holder leaves. Several routers may share a manager.

        Raises:
            BrokerUnavailable: It can't be reached within `broker_wait` seconds.
            RuntimeError: The manager runs in another event loop.
        """
        self._settle_in(asyncio.get_running_loop())
        # Counted before the start, so that a holder that leaves during it does not close it.
        self._holders += 1
        try:
            await self.start()
            yield
        finally:
            self._holders -= 1
            if self._holders <= 0:
                await self.close()

    async def require_open(self) -> None:
        """Start on first use, but not again after the application has closed the manager.

        Raises:
            BrokerUnavailable: It can't be reached within `broker_wait` seconds.
            TopicsClosed: The manager was closed.
        """
        if self._is_closed():
            raise TopicsClosed
        await self.start()

    def _is_closed(self) -> bool:
        return self._closed_in is asyncio.get_running_loop()

    async def close(self) -> None:
        """End every subscription, then close the broker.

        After that, only publishing works until the next `start`: the application's own shutdown
        may still publish.
        """
        # Before anything waits: what comes during the close must not join or start again.
        self._closed_in = asyncio.get_running_loop()
        self.live_topics.end()
        # A start that is in progress has to finish first, or the broker would stay open.
        async with self._starting:
            # That start has opened the manager again, and subscribers may have joined since.
            self._closed_in = asyncio.get_running_loop()
            self.live_topics.end()
            metrics.unwatch(self.live_topics)
            if self._started:
                await self.resumptions.close()
                await self.survey.close()
                await self.local_presence.close()
            self._started = False
            await self._broker.close()
            # Last: a start that finds no loop does not wait for this close.
            self._loop = None

    async def check(self) -> None:
        """Check that the broker accepts and delivers events. Use this in a readiness probe.

        Raises:
            BrokerUnavailable: The broker does not accept events, or does not deliver them.
            TopicsClosed: The manager was closed.
        """
        await self.require_open()
        await self._broker.check()

    async def publish(
        self, topic: Topic[T] | str, value: T, *, event_id: str | None = None
    ) -> Cursor:
        """Append `value` to `topic` and return the event's cursor.

        `topic` is a `Topic`, which validates the value by its type, or a name, which takes any
        JSON value. Inside an operation, the viewer needs the right to publish to the topic.
        Publishing again under an `event_id` that is still in the history has no effect and returns
        the first cursor.

        Raises:
            BadUserInput: The event is too large, or the name or the id is invalid.
            InternalError: `value` is not of the topic's type, or JSON would change it.
            Forbidden: The viewer lacks the right.
            BrokerUnavailable: Nothing was published, or it is unknown whether it was. With an
                `event_id`, publishing again is safe.
        """
        name, payload = encode(topic, value)
        return await self.publish_bytes(name, payload, event_id=event_id)

    def encode(
        self, topic: Topic[T] | str, value: T, *, event_id: str | None = None
    ) -> tuple[str, bytes]:
        """Check an event as `publish` does, and return the arguments of `publish_bytes`.

        Raises:
            BadUserInput: The event is too large, or the name or the id is invalid.
            InternalError: `value` is not of the topic's type, or JSON would change it.
        """
        name, payload = encode(topic, value)
        check_event(payload, event_id, max_bytes=self._settings.event_max_bytes)
        return name, payload

    async def publish_bytes(
        self, topic: str, payload: bytes, *, event_id: str | None = None
    ) -> Cursor:
        """Publish a payload from `Topic.encode` under the topic's name. See `publish`."""
        check_topic_name(topic)
        check_event(payload, event_id, max_bytes=self._settings.event_max_bytes)
        await self._check_publisher(topic)
        refuse_reserved(topic)
        return await self._append(topic, payload, event_id)

    async def publish_internal(self, topic: Topic[T], value: T) -> Cursor:
        """Publish to a topic of gqlnotify itself. No viewer has a right to it: none is checked.

        Raises:
            BrokerUnavailable: Nothing was published, or it is unknown whether it was.
        """
        return await self._append(*encode(topic, value), None)

    async def _append(self, topic: str, payload: bytes, event_id: str | None) -> Cursor:
        async with self._publishing():
            with tracing.span("publish", lambda: {"messaging.destination.name": topic}):
                cursor = await self._broker.publish(topic, payload, event_id=event_id)
        metrics.events_published.inc()
        if trace.live.on:
            trace.live.step(trace.Kind.PUBLISHED, topic=topic, cursor=cursor)
        return cursor

    async def _check_publisher(self, topic: str) -> None:
        try:
            await authorize("publish", topic)
        except Forbidden as error:
            viewer = current_viewer()
            subject = None if viewer is None else viewer.principal.subject
            trace.note(trace.Kind.NOT_PUBLISHED, subject=subject, topic=topic, code=error.code)
            raise

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

    def publish_sync(
        self,
        topic: Topic[T] | str,
        value: T,
        *,
        event_id: str | None = None,
        timeout: float | None = 30,
        trusted: bool = False,
    ) -> Cursor:
        """Publish from a thread, and wait for at most `timeout` seconds.

        If the thread has the context of an operation, as with `asyncio.to_thread`, the viewer's
        right is checked. If the router requires tokens, a thread without a context is refused,
        because a resolver may have started it. `trusted` marks the thread as the application's
        own. A known viewer's right is checked even then.

        Raises:
            UnknownViewer: The thread has no viewer in its context.
            RuntimeError: Called from the event loop's own thread, or before the manager started.
            TimeoutError: It took too long; the event may or may not have been published.
        """
        if self._guarded and not trusted and not knows_its_viewer():
            raise UnknownViewer
        if self._loop is None:
            raise RuntimeError("The TopicManager has not started; its application is not running")
        if self._loop.is_closed():
            raise RuntimeError("The event loop that the TopicManager ran in is closed")
        if _running_loop() is self._loop:
            raise RuntimeError("publish_sync() would block the event loop: await publish() instead")
        publishing = self.publish(topic, value, event_id=event_id)
        return asyncio.run_coroutine_threadsafe(publishing, self._loop).result(timeout)

    def subscribe(
        self,
        topic: Topic[T],
        *,
        after: Cursor | str | None = None,
        where: Callable[[T], bool] | None = None,
        view: str | None = None,
        scope: Hashable = None,
        per_viewer: bool = False,
    ) -> "Subscription[T]":
        """Return the stream of `topic`, for a subscription resolver to return.

        Args:
            topic: The topic to subscribe to.
            after: The cursor to resume after; without it, the stream begins now.
            where: Deliver only the values for which this is true.
            view: A name that grants this filtered view alone. The viewer then needs the right to
                subscribe to the topic or to `view`.
            scope: What the results depend on besides the event and the operation: a tenant, a
                locale, a role. Only subscriptions of the same scope share an execution, whose
                context is made for that scope.
            per_viewer: Execute each event for each subscriber, with the subscriber's own context.

        Subscriptions with the same document, variables, topic, filter and scope share one
        execution for each event, which has no viewer. Two filters are the same if they have the
        same code and have captured equal immutable values.

        Raises:
            InternalError: `where` is an `async def`, which would let every value through.
        """
        require_plain(where, "where")
        # Captured here: the stream may be iterated in another task or in the application's
        # generator, but the right to check is that of the viewer who asked for it.
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

    def live(
        self,
        topic: Topic[T],
        *,
        load: Load[R],
        key: Callable[[T], Hashable],
        after: Cursor | str | None = None,
        where: Callable[[T], bool] | None = None,
        concerns: Callable[[T], bool] | None = None,
        view: str | None = None,
        scope: Hashable = None,
        per_viewer: bool = False,
    ) -> "LiveList[Snapshot[R] | Change[T]]":
        """Return the stream of a live list, for a subscription resolver to return.

        It yields a `Snapshot` of what `load` returns, and then a `Change` for each event. Where it
        has missed events, it yields another `Snapshot` and goes on. After a cursor that is still
        valid, it yields only the changes.

        Args:
            topic: The topic whose events are the changes. Each has the whole new value of a row.
            load: Returns the rows. It is called after the cursor is known. Those who come at about
                the same time share one call, which has no viewer, unless the list is `per_viewer`.
            key: Returns which row an event changes. A slow subscriber gets only the latest change
                of each key.
            after: The cursor to resume after.
            where: Whether a row belongs to the list after a change. If not, the change says
                `removed`.
            concerns: Deliver only the changes for which this is true. The others are not sent, not
                even as removals.
            view: See `subscribe`.
            scope: See `subscribe`.
            per_viewer: See `subscribe`. `load` then runs for each viewer, in its own context.

        Raises:
            InternalError: `where`, `key` or `concerns` is an `async def`. Or there is a `view` with
                a `where`, but without `concerns`.
        """
        require_plain(where, "where")
        require_plain(concerns, "concerns")
        return LiveList(
            self,
            topic,
            load=load,
            key=key,
            after=after,
            where=where,
            concerns=concerns,
            view=view,
            scope=scope,
            per_viewer=per_viewer,
            viewer=current_viewer(),
        )

    async def cursor(self, topic: Topic[Any]) -> Cursor:
        """Return the topic's current cursor.

        Read the cursor first, then the state that the topic's events change. A subscription
        `after` this cursor then misses no change.

        Raises:
            BrokerUnavailable: The broker can't be reached.
        """
        await self.require_open()
        # A shared execution has no subject whose budget could be charged.
        with suppress(NoViewer):
            self.count_topic(current_viewer(), topic.concrete())
        return await self._broker.head(topic.concrete())

    async def oldest(self, topic: Topic[Any]) -> Cursor:
        """Return the oldest cursor that a subscription can resume after.

        Raises:
            BrokerUnavailable: The broker can't be reached.
        """
        await self.require_open()
        return await self._broker.oldest(topic.concrete())

    async def present(self, topic: Topic[Any]) -> Present:
        """Return who is subscribed to `topic`, in all processes.

        Raises:
            Forbidden: The viewer has no right to see the members.
            InternalError: The topic has no presence.
            TooManyTopics: The subject has asked for too many new topics.
            BrokerUnavailable: The broker can't be reached.
        """
        name = require_presence(topic)
        await authorize("presence", name)
        self.count_topic(current_viewer(), name)
        await self.require_open()
        return await self.local_presence.present(name)

    def presence(self, topic: Topic[Any], *, after: Cursor | str | None = None) -> PresenceStream:
        """Return the stream of who is subscribed to `topic`, for a subscription resolver to return.

        It yields a `Present`, then a `Joined`, `Left` or `Changed` for each change. If it has
        missed changes, it yields a `Present` again. After a cursor that is still valid, it yields
        only the changes. Clients who follow a topic share the work, as with `subscribe`.

        When it starts, the viewer needs the right to see the members.

        Raises:
            InternalError: The topic has no presence.
        """
        return PresenceStream(self, require_presence(topic), after=after, viewer=current_viewer())

    async def set_presence(self, topic: Topic[Any], state: Any) -> None:
        """Set the state of the current subject at `topic`: a JSON value of up to 1 kB.

        It replaces the state that any connection of the subject has set before. This returns
        before the state is saved. If several are set within 0.1 seconds, only the last one is
        announced. It has no effect if the subject is not subscribed to the topic.

        Raises:
            BadUserInput: The state is too large or not a JSON value.
            InternalError: The topic has no presence.
            Unauthenticated: There is no subject: no operation runs, or it has no token and no
                WebSocket.
            TooManyTopics: The subject has asked for too many new topics.
        """
        name, encoded = require_presence(topic), encode_state(state)
        viewer, member = current_viewer(), current_member()
        if member is None and viewer is not None:
            member = LocalMember.of(viewer)
        if member is None:
            raise Unauthenticated(
                "There is no subject whose state could be set. Send a token, or use a WebSocket"
            )
        self.count_topic(viewer, name)
        await self.require_open()
        self.local_presence.set_state(name, member.subject, encoded)

    async def event_at(self, topic: Topic[Any], cursor: Cursor) -> Event | None:
        """Return the event at this cursor; None if the history does not contain it.

        Raises:
            BrokerUnavailable: The broker can't be reached.
        """
        await self.require_open()
        return await find_event(self._broker, topic.concrete(), cursor)

    def _settle_in(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is loop:
            return
        if self._loop is not None and self._loop.is_running():
            # Moving to this loop would cut off the subscribers in the other one.
            raise RuntimeError(
                "The TopicManager runs in another event loop; from here, call publish_sync()"
            )
        self._loop, self._starting, self._started = loop, asyncio.Lock(), False
        # The holders and topics of an event loop that has ended never left.
        self._holders = 0
        self.live_topics.reset()
        self.resumptions.reset()
        self.survey.reset()
        self.local_presence.reset()

    def _new_local_presence(self) -> LocalPresence:
        return LocalPresence(self._broker, self._settings, self.live_topics.by_name.__contains__)

    async def _start_broker(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.broker_wait
        backoff = Backoff(*RETRY_SECONDS)
        while True:
            try:
                return await self._broker.start(self._deliver, self.live_topics.refresh)
            except BrokerUnavailable as error:
                left = deadline - loop.time()
                if left <= 0:
                    raise
                logger.warning(
                    "Waiting for the broker, %.1f s more at most: %s", left, error.reason
                )
            await asyncio.sleep(min(backoff.next(), left))

    def count_topic(self, viewer: Viewer | None, topic: str) -> None:
        """Count the topic against the subject's budget, if it is new to this process.

        Raises:
            TooManyTopics: The subject has asked for too many new topics.
        """
        if viewer is not None:
            self._budget.spend(viewer.principal.subject, topic)

    def _deliver(self, event: Event) -> None:
        live_topic = self.live_topics.by_name.get(event.topic)
        if live_topic is not None:
            live_topic.deliver(event)
        else:
            self.survey.received(event)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
