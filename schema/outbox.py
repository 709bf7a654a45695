"""From committed events to published ones."""

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

# The same for all processes, so the latest look is right.
_rows = Gauge(
    "gqlnotify_outbox_rows",
    "Committed events that are not yet published.",
    multiprocess_mode="livemostrecent",
)
_lag_seconds = Gauge(
    "gqlnotify_outbox_lag_seconds",
    "How old the oldest event is that is not yet published.",
    multiprocess_mode="livemostrecent",
)


class Lagging(Exception):
    """An event has been waiting for too long to be published."""


class Outbox:
    """Publishes the rows of the outbox in their order, each with the effect of once.

    It drains when woken, and every `sweep_seconds` for what a crash or another process left. Where
    the broker fails it stops at that row, so the order holds, and tries again later.
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
        """Begin to drain, in the background of the running event loop."""
        self._closing.clear()
        self._task = asyncio.create_task(self._run(), name="outbox")

    def wake(self) -> None:
        """Say that something was committed. Returns at once."""
        self._woken.set()

    async def close(self) -> None:
        """Try once more to publish what is left, for at most `close_seconds`, and end."""
        if self._task is None:
            return
        self._closing.set()
        self._woken.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._close_seconds):
                await self._task
        self._task = None

    async def measure(self) -> float:
        """Return how many seconds ago the oldest event was committed that is not published.

        Raises:
            SQLAlchemyError: the database can't be asked.
        """
        rows, lag = math.nan, math.nan
        try:
            rows, oldest = await self._unsent()
            lag = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
        finally:
            _rows.set(rows)
            _lag_seconds.set(lag)
        return lag

    async def check(self) -> None:
        """Return if events get out in time: the outbox's part of readiness.

        Raises:
            Lagging: they don't.
            SQLAlchemyError: the database can't be asked.
        """
        lag = await self.measure()
        if lag > self._max_lag:
            raise Lagging(f"An event has been waiting for {lag:.0f} s")

    async def drain(self) -> None:
        """Publish everything that is in the outbox, the oldest first.

        Raises:
            NotifyError: the broker failed; what it did not take stays in the outbox.
        """
        async with self._database.draining():
            while rows := await self._oldest():
                await self._publish(rows)

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            # Cleared before the drain: a commit that comes during it wakes the next one.
            self._woken.clear()
            if await self._try_to_drain():
                pause = _FIRST_PAUSE
                await _wait(self._woken, self._sweep_seconds)
            else:
                # Not even a commit cuts this short: the broker needs the pause.
                await _wait(self._closing, pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        await self._try_to_drain()

    async def _try_to_drain(self) -> bool:
        try:
            await self.drain()
        except Exception as error:
            # Whatever it is, the events are safe in the database and this task is their only way.
            expected = isinstance(error, (errors.NotifyError, OperationalError))
            logger.warning("The outbox waits to be drained: %s", error, exc_info=not expected)
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
            # Where this does not happen the rows are published again, which changes nothing:
            # the broker knows their ids.
            if sent:
                await self._forget(sent)

    async def _forget(self, sent: Sequence[int]) -> None:
        async with self._database.writing() as session:
            await session.execute(delete(OutboxRow).where(OutboxRow.id.in_(sent)))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
