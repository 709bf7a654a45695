"""The topics that this process listens to: who joins and leaves them, and who reads them."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from typing_extensions import override

from gqlnotify.brokers import Broker
from gqlnotify.event import Cursor
from gqlnotify.observability import metrics
from gqlnotify.topics.live_topic import LiveTopic
from gqlnotify.topics.reading import Audience, Reading
from gqlnotify.topics.subscriber import Subscriber


class LiveTopics(metrics.Sampled, Audience):
    """The topics that this process listens to, for one `TopicManager`.

    A topic is here from the first `join` until it has had no subscriber for `linger` seconds.
    """

    def __init__(self, broker: Broker, *, linger: float) -> None:
        self.by_name: dict[str, LiveTopic] = {}
        self._broker = broker
        self._linger = linger
        self._loop: asyncio.AbstractEventLoop | None = None

    def use(self, broker: Broker) -> None:
        """Open further topics at `broker`."""
        self._broker = broker

    async def join(self, topic: str, subscriber: Subscriber) -> LiveTopic:
        """Add `subscriber` to the topic, and return the topic once it is open.

        The broker must have been started.
        """
        self._loop = asyncio.get_running_loop()
        live_topic = self.by_name.get(topic)
        if live_topic is None:
            live_topic = self.by_name[topic] = LiveTopic(topic, self._broker)
        live_topic.add(subscriber)
        try:
            await live_topic.open()
        except BaseException:
            self.leave(live_topic, subscriber)
            raise
        return live_topic

    def leave(self, live_topic: LiveTopic, subscriber: Subscriber) -> None:
        """Undo `join`."""
        live_topic.remove(subscriber)
        self._linger_if_idle(live_topic)

    def was_dropped(self, live_topic: LiveTopic) -> None:
        """Note that a subscriber of `live_topic` was garbage-collected. Any thread may call it."""
        if self._loop is not None:
            # The garbage collector runs even after the loop has closed.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._linger_if_idle, live_topic)

    def refresh(self, topic: str) -> None:
        """Read the history of a topic again, because the broker may have lost live events."""
        live_topic = self.by_name.get(topic)
        if live_topic is not None:
            live_topic.refresh()

    def end(self) -> None:
        """Close every topic with its subscribers."""
        for live_topic in list(self.by_name.values()):
            # First, so that it does not linger without its subscribers.
            live_topic.cancel()
            for subscriber in list(live_topic.subscribers):
                subscriber.close()
        self.by_name.clear()

    def reset(self) -> None:
        """Forget the topics of an event loop that has ended."""
        self.by_name.clear()

    def listened(self) -> dict[str, tuple[int, Cursor]]:
        """Return how many subscribers each topic has, and the newest cursor it has seen."""
        return {
            name: (len(live_topic.subscribers), live_topic.buffer.last)
            for name, live_topic in self.by_name.items()
        }

    @override
    def readings(self) -> Iterator[Reading]:
        for live_topic in self.by_name.values():
            for subscriber in list(live_topic.subscribers):
                if subscriber.reader is not None:
                    yield Reading(subscriber.reader, subscriber.reached)

    @override
    def load(self) -> metrics.Load:
        yield metrics.topics, len(self.by_name)
        subscribers = sum(len(live_topic.subscribers) for live_topic in self.by_name.values())
        yield metrics.subscribers, subscribers

    def _linger_if_idle(self, live_topic: LiveTopic) -> None:
        # A client that lost its connection reconnects soon. The topic stays open for that long, so
        # that its buffer holds the missed events.
        if not live_topic.subscribers:
            live_topic.linger(self._linger, self._forget)

    def _forget(self, live_topic: LiveTopic) -> None:
        if self.by_name.get(live_topic.topic) is live_topic:
            del self.by_name[live_topic.topic]
