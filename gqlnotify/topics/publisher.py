"""Publishes from other processes: workers, scripts, Django or Celery."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Self, TypeVar

from gqlnotify.brokers.redis import Message, Sender
from gqlnotify.event import Cursor, Topic, check_event, encode, refuse_reserved
from gqlnotify.settings import Settings

T = TypeVar("T")

Entry = tuple[Topic[Any] | str, Any] | tuple[Topic[Any] | str, Any, str | None]
"""A topic or its name, a value, and optionally an event id."""

# Events that are sent in one pipeline. It bounds the memory for an endless iterable of entries.
_BATCH = 500


class Publisher:
    """Publishes to the topics of a Redis broker. It needs no server and no event loop.

        with Publisher("redis://localhost") as publisher:
            publisher.publish_sync("prices.gold", {"price": 7})

        async with Publisher() as publisher:
            await publisher.publish(TASKS, TaskEvent(...), event_id="42")

    A topic is a `Topic`, which validates the value by its type, or a name, which takes any JSON
    value. Publishing an `event_id` that is still in the history has no effect, so retrying with
    the same one is safe.

    Args:
        url: The broker; by default GQLNOTIFY_BROKER_URL.
        settings: Bounds, limits and prefix, which must be the same as the servers'; by default
            from the environment.

    Raises:
        ValueError: The URL is wrong, or names a broker in another process's memory.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        url = url or settings.broker_url
        if url.startswith("memory:"):
            raise ValueError(
                "memory:// exists only in the server's process: set GQLNOTIFY_BROKER_URL to a Redis"
            )
        self._max_bytes = settings.event_max_bytes
        self._sender = Sender(
            url,
            retention=settings.retention,
            timeout=settings.broker_timeout,
            prefix=settings.broker_prefix,
        )

    async def publish(
        self, topic: Topic[T] | str, value: T, *, event_id: str | None = None
    ) -> Cursor:
        """Append `value` to `topic` and return the event's cursor.

        Raises:
            BadUserInput: The topic or the id is invalid, or the event is too large.
            InternalError: The value is not of the topic's type, or JSON would change it.
            BrokerUnavailable: The event was not published, or the outcome is unknown.
        """
        [cursor] = await self.publish_many([(topic, value, event_id)])
        return cursor

    async def publish_many(self, entries: Iterable[Entry]) -> list[Cursor]:
        """Publish in batches, in the order of `entries`, and return the cursors.

        Raises:
            BadUserInput, InternalError: An entry is invalid; none of its batch was published.
            BrokerUnavailable: Some were not published, or the outcome is unknown.
        """
        cursors: list[Cursor] = []
        for batch in self._batches(entries):
            cursors += await self._sender.send(batch)
        return cursors

    def publish_sync(
        self, topic: Topic[T] | str, value: T, *, event_id: str | None = None
    ) -> Cursor:
        """Publish without an event loop; see `publish`. Threads may share a publisher."""
        [cursor] = self.publish_many_sync([(topic, value, event_id)])
        return cursor

    def publish_many_sync(self, entries: Iterable[Entry]) -> list[Cursor]:
        """Publish many without an event loop; see `publish_many`."""
        cursors: list[Cursor] = []
        for batch in self._batches(entries):
            cursors += self._sender.send_sync(batch)
        return cursors

    async def aclose(self) -> None:
        """Close the connections. The next publish opens new ones."""
        await self._sender.aclose()

    def close(self) -> None:
        """Close the connections that were opened without an event loop."""
        self._sender.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _batches(self, entries: Iterable[Entry]) -> Iterator[list[Message]]:
        messages = (self._message(*entry) for entry in entries)
        while batch := list(islice(messages, _BATCH)):
            yield batch

    def _message(self, topic: Topic[Any] | str, value: Any, event_id: str | None = None) -> Message:
        name, payload = encode(topic, value)
        refuse_reserved(name)
        check_event(payload, event_id, max_bytes=self._max_bytes)
        return Message(name, payload, event_id)
