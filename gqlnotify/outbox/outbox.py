"""The outbox: adds events to a transaction, and publishes them after its commit."""

import asyncio
import logging
import math
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from contextvars import Context
from typing import Any, Self, TypeAlias, TypeVar
from uuid import uuid4

from pydantic_core import from_json
from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from gqlnotify.backoff import Backoff
from gqlnotify.errors import BadUserInput, NotifyError
from gqlnotify.event import Topic, refuse_reserved
from gqlnotify.observability.prometheus import Gauge
from gqlnotify.outbox import additions
from gqlnotify.outbox.additions import Addition
from gqlnotify.outbox.rows import Backlog, Batch, Busy, Rows, Sessions, StoredEvent
from gqlnotify.topics.manager import TopicManager

T = TypeVar("T")

AnySession: TypeAlias = (
    "Session | AsyncSession | scoped_session[Any] | async_scoped_session[AsyncSession]"
)
_Task: TypeAlias = "asyncio.Task[None]"

_RETRY_SECONDS = (0.1, 1.0)
# How long others wait at most before they take over from a process that has died.
_BUSY_SECONDS = 0.05
_MEASURE_SECONDS = 5.0

logger = logging.getLogger("gqlnotify.outbox")


def _gauge(name: str, meaning: str) -> Gauge:
    # All processes measure the same table, so with several workers the latest value is right.
    return Gauge(f"gqlnotify_outbox_{name}", meaning, multiprocess_mode="livemostrecent")


_waiting_rows = _gauge("rows", "Committed events that are not published yet.")
_refused_rows = _gauge("refused_rows", "Committed events that can't be published.")
_lag_seconds = _gauge(
    "lag_seconds", "Age in seconds of the oldest event that is not published yet."
)


class Lagging(Exception):
    """The oldest event that waits is older than allowed."""


class Outbox:
    """Stores events in the application's database, and publishes them once they are committed.

        OUTBOX = outbox_table(Base.metadata)
        outbox = Outbox(topics, sessions, OUTBOX)

        async with sessions.begin() as session:
            session.add(order)
            outbox.add(session, ORDERS, OrderPlaced(...))

    An event is published if and only if its transaction commits, and with the effect of once. Any
    number of processes can share an outbox. One of them publishes at a time. Of two transactions,
    the one that depended on the other is published later. A process publishes while it is in
    `async with outbox:`, so an application enters it in its lifespan. A process that only adds
    events need not.

    Args:
        topics: Where the events go.
        sessions: Makes the sessions that read and delete events. An `async_sessionmaker`, or a
            `sessionmaker`, which is used in threads.
        table: What `outbox_table` returned.
        poll_seconds: How often to look for events that this process has not committed itself.
        close_seconds: How long the end of `async with` may take to publish what is left.
        max_lag: Age in seconds of a waiting event from which `check` fails.
    """

    def __init__(
        self,
        topics: TopicManager,
        sessions: Sessions,
        table: Table,
        *,
        poll_seconds: float = 1.0,
        close_seconds: float = 5.0,
        max_lag: float = 30.0,
    ) -> None:
        self._topics = topics
        self._rows = Rows(sessions, table)
        self._table = table
        self._poll_seconds = poll_seconds
        self._close_seconds = close_seconds
        self._max_lag = max_lag
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._closing = asyncio.Event()
        self._exit = AsyncExitStack()

    def add(
        self,
        session: AnySession,
        topic: Topic[T] | str,
        value: T,
        *,
        event_id: str | None = None,
    ) -> None:
        """Publish `value` to `topic` if the current transaction of `session` commits.

        The commit inserts the event, as its last step; a rollback, also one to a savepoint, drops
        it. This does not check the right of a viewer to publish: `authorize("publish", ...)` does.

        Args:
            session: An `AsyncSession` or a `Session`, or a scoped one.
            topic: A `Topic`, which validates the value by its type, or a name.
            value: The value. It is encoded now, so later changes to it have no effect.
            event_id: The broker ignores an event whose id is still in the history. By default a
                random one.

        Raises:
            BadUserInput: The event is too large, or the name or the id is invalid.
            InternalError: `value` is not of the topic's type, or JSON would change it.
        """
        event_id = str(uuid4()) if event_id is None else event_id
        name, payload = self._topics.encode(topic, value, event_id=event_id)
        refuse_reserved(name)
        row = {"event_id": event_id, "topic": name, "payload": payload.decode()}
        additions.add(_plain(session), Addition(self._table, row, self.wake))

    def wake(self) -> None:
        """Publish soon. Any thread may call it, after a commit that did not use `add`."""
        loop = self._loop
        # The loop may end at any time if this is another thread.
        with suppress(RuntimeError):
            if loop is not None:
                loop.call_soon_threadsafe(self._woken.set)

    async def __aenter__(self) -> Self:
        """Start to publish, in a task of the running event loop.

        Raises:
            BrokerUnavailable: The broker can't be reached within `broker_wait` seconds.
            RuntimeError: It publishes already.
            ValueError: The table is neither in PostgreSQL nor in SQLite.
        """
        if self._loop is not None and self._loop.is_running():
            raise RuntimeError("This outbox publishes already: enter it in one lifespan only")
        await self._rows.require_known_database()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._topics.held_open())
            self._woken, self._closing = asyncio.Event(), asyncio.Event()
            self._loop = asyncio.get_running_loop()
            publishing = _start(self._run(), "outbox")
            measuring = _start(self._measure_regularly(), "outbox metrics")
            stack.push_async_callback(self._stop, publishing, measuring)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Publish what is left, for at most `close_seconds`, and stop.

        Events that are still left stay in the database, for the next start or another process.
        """
        await self._exit.aclose()

    async def measure(self) -> Backlog:
        """Count the events in the outbox. This also sets its metrics.

        Raises:
            SQLAlchemyError: The database can't be read.
        """
        # NaN if the database fails: the last values would look as if all was well.
        waiting = refused = lag = math.nan
        try:
            found = await self._rows.backlog()
            waiting, refused, lag = found.waiting, found.refused, found.lag
        finally:
            _waiting_rows.set(waiting)
            _refused_rows.set(refused)
            _lag_seconds.set(lag)
        return found

    async def check(self) -> None:
        """Check that events are published in time. Use this in a readiness probe.

        Raises:
            Lagging: The oldest event that waits is older than `max_lag`.
            SQLAlchemyError: The database can't be read.
        """
        lag = (await self.measure()).lag
        if lag > self._max_lag:
            raise Lagging(f"An event has been waiting for {lag:.0f} s")

    async def drain(self) -> None:
        """Publish all events of the outbox, the oldest first. This waits for another process.

        Raises:
            NotifyError: The broker failed. Unpublished events stay in the outbox.
            SQLAlchemyError: The database failed.
        """
        while True:
            try:
                if not await self._publish_batch():
                    return
            except Busy:
                await asyncio.sleep(_BUSY_SECONDS)

    async def _run(self) -> None:
        backoff = Backoff(*_RETRY_SECONDS)
        while not self._closing.is_set():
            # Before the drain: after it, this would also clear the wake-up of a commit that the
            # drain was too early to see.
            self._woken.clear()
            if await self._try_to_drain():
                backoff.reset()
                await _wait(self._woken, self._poll_seconds)
            else:
                # A commit does not end this pause: with many commits a broker that has just come
                # back would get a retry for each.
                await _wait(self._closing, backoff.next())
        await self._try_to_drain()

    async def _try_to_drain(self) -> bool:
        try:
            await self.drain()
        except Exception as error:
            # All exceptions: the events are safe in the database, and without this task nothing
            # would publish them.
            expected = isinstance(error, NotifyError | DBAPIError | OSError)
            logger.warning("The outbox can't be published yet: %s", error, exc_info=not expected)
            return False
        return True

    async def _publish_batch(self) -> bool:
        """Publish some events, and return whether there were any."""
        async with self._rows.batch() as batch:
            for event in batch.events:
                await self._publish(event, batch)
            return bool(batch.events)

    async def _publish(self, event: StoredEvent, batch: Batch) -> None:
        payload = event.payload.encode()
        try:
            refuse_reserved(event.topic)
            _refuse_other_than_json(payload)
            await self._topics.publish_bytes(event.topic, payload, event_id=event.event_id)
        except BadUserInput as error:
            # Trying again would not help, and all later events would wait.
            logger.error(  # noqa: TRY400  # the reason says it all
                "Event %.400r of the outbox, in row %d, can't be published and is set aside: %s",
                event.event_id,
                event.id,
                error.reason,
            )
            batch.refused[event.id] = error.reason
        else:
            batch.published.append(event.id)

    async def _measure_regularly(self) -> None:
        while not self._closing.is_set():
            try:
                await self.measure()
            except Exception as error:
                logger.warning("The outbox can't be measured: %s", error)
            await _wait(self._closing, _MEASURE_SECONDS)

    async def _stop(self, *working: _Task) -> None:
        self._loop = None
        self._closing.set()
        self._woken.set()
        # A query that is cancelled goes on in the thread of its driver, and may outlive the loop.
        await asyncio.wait(working, timeout=self._close_seconds)
        for task in working:
            task.cancel()
        await asyncio.wait(working)


def _start(work: Coroutine[Any, Any, None], name: str) -> "_Task":
    # Without the viewer of an operation, if one starts it: it publishes for all.
    return asyncio.create_task(work, name=name, context=Context())


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _plain(session: AnySession) -> Session:
    if isinstance(session, scoped_session | async_scoped_session):
        session = session()
    return session.sync_session if isinstance(session, AsyncSession) else session


def _refuse_other_than_json(payload: bytes) -> None:
    try:
        from_json(payload, allow_inf_nan=False)
    except ValueError as error:
        raise BadUserInput(f"The payload is not JSON: {error}") from None
