"""The outbox: publishes the events that were committed to the database."""

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from prometheus_client import Gauge
from sqlalchemy import delete, func, select
from sqlalchemy.exc import OperationalError

from gqlnotify import TopicManager, errors
from schema.database import Database
from schema.models import OutboxRow

_BATCH = 100
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0

logger = logging.getLogger("schema.outbox")

# All processes measure the same table, so with several workers the latest value is right.
_rows = Gauge(
    "gqlnotify_outbox_rows",
    "Committed events that are not published yet.",
    multiprocess_mode="livemostrecent",
)
_lag_seconds = Gauge(
    "gqlnotify_outbox_lag_seconds",
    "Age in seconds of the oldest event that is not published yet.",
    multiprocess_mode="livemostrecent",
)


class Lagging(Exception):
    """The oldest unpublished event is older than allowed."""


class Outbox:
    """Publishes the events of the outbox in their order, each with the effect of once.

    It starts after each commit, and every `sweep_seconds` for events that a crash or another
    process has left. If the broker fails, it stops at that event, to keep the order, and tries
    again later.

    Args:
        database: where the outbox is.
        topics: where its events go.
        sweep_seconds: seconds between two runs if nothing is committed.
        close_seconds: seconds that `close` may take.
        max_lag: age in seconds of an unpublished event from which `check` fails.
    """

    def __init__(
        self,
        database: Database,
        topics: TopicManager,
        *,
        sweep_seconds: float = 1.0,
        close_seconds: float = 5.0,
        max_lag: float = 30.0,
    ) -> None:
        self._database = database
        self._topics = topics
        self._sweep_seconds = sweep_seconds
        self._close_seconds = close_seconds
        self._max_lag = max_lag
        self._woken = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start publishing in a task of the running event loop."""
        self._closing.clear()
        self._task = asyncio.create_task(self._run(), name="outbox")

    def wake(self) -> None:
        """Publish soon. Call it after a commit; it does not wait."""
        self._woken.set()

    async def close(self) -> None:
        """Publish what is left, for at most `close_seconds`, and stop.

        Events that are still left stay in the database, for the next start or another process.
        """
        if self._task is None:
            return
        self._closing.set()
        self._woken.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._close_seconds):
                await self._task
        self._task = None

    async def measure(self) -> float:
        """Return the age in seconds of the oldest unpublished event; 0 if there is none.

        Raises:
            SQLAlchemyError: the database can't be read.
        """
        # NaN if the database fails: the last values would look as if all was well.
        rows, lag = math.nan, math.nan
        try:
            rows, oldest = await self._unsent()
            lag = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
        finally:
            _rows.set(rows)
            _lag_seconds.set(lag)
        return lag

    async def check(self) -> None:
        """Return if events are published in time. Part of the check of readiness.

        Raises:
            Lagging: the oldest event is older than `max_lag`.
            SQLAlchemyError: the database can't be read.
        """
        lag = await self.measure()
        if lag > self._max_lag:
            raise Lagging(f"An event has been waiting for {lag:.0f} s")

    async def drain(self) -> None:
        """Publish all events of the outbox, the oldest first.

        Raises:
            NotifyError: the broker failed. Unpublished events stay in the outbox.
            SQLAlchemyError: the database failed, or another process held the lock for too long.
        """
        # One process at a time: two could publish their events in the wrong order.
        async with self._database.draining():
            while rows := await self._oldest():
                await self._publish(rows)

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            # Before the drain: after it, this would also clear the wake-up of a commit that the
            # drain was too early to see.
            self._woken.clear()
            if await self._try_to_drain():
                pause = _FIRST_PAUSE
                await _wait(self._woken, self._sweep_seconds)
            else:
                # A commit does not end this pause: with many commits a broker that has just come
                # back would get a retry for each.
                await _wait(self._closing, pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        await self._try_to_drain()

    async def _try_to_drain(self) -> bool:
        try:
            await self.drain()
        except Exception as error:
            # All exceptions: the events are safe in the database, and without this task nothing
            # would publish them.
            expected = isinstance(error, (errors.NotifyError, OperationalError))
            logger.warning("The outbox can't be published yet: %s", error, exc_info=not expected)
            return False
        return True

    async def _oldest(self) -> Sequence[OutboxRow]:
        async with self._database.reading() as session:
            found = await session.scalars(select(OutboxRow).order_by(OutboxRow.id).limit(_BATCH))
            return found.all()

    async def _unsent(self) -> tuple[int, datetime | None]:
        async with self._database.reading() as session:
            query = select(func.count(), func.min(OutboxRow.created_at)).select_from(OutboxRow)
            rows, oldest = (await session.execute(query)).one()
        return rows, oldest

    async def _publish(self, rows: Sequence[OutboxRow]) -> None:
        sent: list[int] = []
        try:
            for row in rows:
                await self._topics.publish_bytes(row.topic, row.payload, event_id=row.event_id)
                sent.append(row.id)
        finally:
            # Also after a failure, for the events before it. If the delete fails, or the process
            # ends before it, they are published again. The broker knows their ids and ignores them.
            if sent:
                await self._forget(sent)

    async def _forget(self, sent: Sequence[int]) -> None:
        async with self._database.writing() as session:
            await session.execute(delete(OutboxRow).where(OutboxRow.id.in_(sent)))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
