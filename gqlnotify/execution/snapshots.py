"""Loads, executes and encodes the snapshots of live lists, once for all who come back together.

    SharedLoad: once for equal `load` and scope --> Snapshots: once for each shared execution

Others get the same snapshot for a few seconds, as long as this process has all events after it.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar

from gqlnotify.auth import view_as_everybody
from gqlnotify.cancellation import only_own_cancellation, run_within
from gqlnotify.errors import EventUnreadable
from gqlnotify.event import Cursor, Event
from gqlnotify.execution.encoded_result import EncodedResult
from gqlnotify.execution.event_execution import EventExecution
from gqlnotify.execution.results import loses_a_change, loses_a_list
from gqlnotify.observability import metrics
from gqlnotify.topics.live_list import (
    Load,
    Retry,
    Snapshot,
    may_pass,
    pause_after_useless,
    raise_failure,
    snapshot_value,
    take_snapshot,
)
from gqlnotify.topics.projection import Projection
from gqlnotify.topics.subscriber import NOWHERE, Subscriber

REUSE_SECONDS = 5.0

logger = logging.getLogger("gqlnotify.execution")

Encoding = asyncio.Future[EncodedResult]
T = TypeVar("T", EncodedResult, EncodedResult | None)


class Run:
    """One call of `load`, and what was made of its snapshot."""

    def __init__(self, begun_at: Cursor, loading: "asyncio.Future[Snapshot[Any]]") -> None:
        self.loading = loading
        self.begun_at = begun_at
        self._encodings: dict[Hashable, Encoding] = {}
        self._waiting = 0

    def serves(self, subscriber: Subscriber) -> bool:
        """Return whether `subscriber` can continue after this snapshot."""
        if self.begun_at < subscriber.left_at:
            # It may lack changes that the client has seen.
            return False
        if not self.loading.done():
            return subscriber.can_follow(self.begun_at)
        if self.loading.cancelled() or self.loading.exception() is not None:
            return False
        return subscriber.can_follow(self.loading.result().cursor)

    async def loaded(self) -> Snapshot[Any]:
        """Return the snapshot."""
        with self._in_use():
            return await asyncio.shield(self.loading)

    async def encoded(self, key: Hashable, encode: Callable[[], Encoding]) -> EncodedResult:
        """Return what `encode` returns for `key`, which is called once."""
        encoding = self._encodings.get(key)
        if encoding is None:
            encoding = self._encodings[key] = encode()
        with self._in_use():
            return await asyncio.shield(encoding)

    def forget(self, key: Hashable) -> None:
        """Let the next `encoded` with this key encode again."""
        self._encodings.pop(key, None)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Cancel the run after the block, if no one else waits for it."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._cancel()

    def _cancel(self) -> None:
        """Cancel what is not done yet."""
        for key, encoding in list(self._encodings.items()):
            # A task that is cancelled ends later, and must not be joined until then.
            if encoding.cancel():
                self.forget(key)
        self.loading.cancel()


class SharedLoad:
    """Calls `load` for all who need its rows at about the same time.

    Args:
        load: that of a live list.
        timeout: how many seconds a call may take.
        reuse: for how many seconds others get the same rows.
    """

    def __init__(self, load: Load[Any], *, timeout: float, reuse: float) -> None:
        self._load = load
        self._timeout = timeout
        self._reuse = reuse
        self._latest: Run | None = None
        self._wanted = NOWHERE

    def run_for(self, subscriber: Subscriber) -> Run:
        """Return a call whose snapshot `subscriber` can continue after; begin one if needed."""
        if self._latest is None or not self._latest.serves(subscriber):
            self._latest = self._begin(subscriber.newest)
        return self._latest

    async def since(self, cursor: Cursor) -> Snapshot[Any]:
        """Return a snapshot of a call that began at `cursor` or later.

        One such call runs at a time: many events that can't be read share the next one.
        """
        self._wanted = max(self._wanted, cursor)
        while (run := self._latest) and run.begun_at < cursor and not run.loading.done():
            await asyncio.wait([run.loading])
        if run is None or run.begun_at < cursor or run.loading.cancelled():
            run = self._latest = self._begin(self._wanted)
        return await run.loaded()

    def _begin(self, newest: Cursor) -> Run:
        metrics.snapshot_loads.inc()
        # In a clean context: what is shared has no viewer.
        loading = run_within(self._timeout, self._call(newest), raise_failure, Context())
        run = Run(newest, loading)
        # Not longer: the database may also change without an event.
        forget = partial(loading.add_done_callback, partial(self._forget, run))
        asyncio.get_running_loop().call_later(self._reuse, forget)
        return run

    async def _call(self, newest: Cursor) -> Snapshot[Any]:
        view_as_everybody()
        with only_own_cancellation():
            return await take_snapshot(self._load, newest)
        raise AssertionError("`only_own_cancellation` suppresses no error")

    def _forget(self, run: Run, _loading: object) -> None:
        if self._latest is run:
            self._latest = None


class Snapshots:
    """The encoded snapshots of one shared execution.

    Args:
        load: loads the rows. Executions of other documents may share it.
        projection: that of the live list.
        execution: executes the snapshot.
        timeout: how many seconds an execution may take, of a snapshot or of a change.
    """

    def __init__(
        self,
        load: SharedLoad,
        projection: Projection,
        execution: EventExecution,
        *,
        timeout: float,
    ) -> None:
        self._load = load
        self._projection = projection
        self._execution = execution
        self._timeout = timeout
        self._retry = Retry()

    async def take(self, subscriber: Subscriber) -> EncodedResult | None:
        """Return the message with a snapshot, and move `subscriber` to its cursor.

        Returns None if the subscriber was closed before the next attempt.

        If that fails, this returns the error for the client, and the subscriber still lacks a
        snapshot. The next call then waits before it tries again.
        """
        await self._retry.due()
        await pause_after_useless(subscriber)
        if subscriber.closed:
            return None
        run = self._load.run_for(subscriber)
        encoded = await run.encoded(self, partial(self._begin, run))
        if encoded.cursor != NOWHERE and not subscriber.closed:
            subscriber.begin_after(encoded.cursor)
        return encoded

    @property
    def change_seconds(self) -> float:
        """How long a change may take: its execution, two loads, and that of the snapshot."""
        return 4 * self._timeout

    def change(
        self, event: Event
    ) -> EncodedResult | Coroutine[Any, Any, EncodedResult | None] | None:
        """Begin the execution of a change, as `EventExecution.begin` does.

        A snapshot takes its place if the event can't be read, or if an error takes the change from
        the result. Call this in a clean context.
        """
        if not self._projection.reads(event):
            unreadable = EventUnreadable(event.cursor)
            return self._instead_of(event, lambda: self._execution.failed(event, unreadable))
        made = self._execution.begin(event)
        if made is None:
            return None
        if not isinstance(made, EncodedResult):
            return self._unless_lost(event, made)
        return self._instead_of(event, lambda: made) if _is_lost(made, loses_a_change) else made

    async def _unless_lost(
        self, event: Event, making: Coroutine[Any, Any, EncodedResult | None]
    ) -> EncodedResult | None:
        made = await self._in_time(event, making)
        if made is None or not _is_lost(made, loses_a_change):
            return made
        return await self._instead_of(event, lambda: made)

    def _in_time(self, event: Event, making: Coroutine[Any, Any, T]) -> "asyncio.Future[T]":
        """Return the result of `making`, or the error that it took too long."""
        failed: Callable[[Exception], Any] = partial(self._execution.failed_to_end, event)
        return run_within(self._timeout, making, failed, copy_context())

    async def _instead_of(
        self, event: Event, failure: Callable[[], EncodedResult]
    ) -> EncodedResult:
        """Return the message with a snapshot that has the change; that of `failure` without one."""
        view_as_everybody()
        try:
            with only_own_cancellation():
                snapshot = await self._load.since(event.cursor)
                if snapshot.cursor < event.cursor:
                    # `load` knows its own cursor. The changes in between were sent before.
                    return failure()
                value = snapshot_value(self._projection, snapshot)
                encoded = await self._in_time(event, self._execution.execute(event, value))
        except Exception:
            logger.exception("A live list could not be loaded in place of a change")
            return failure()
        return failure() if _is_lost(encoded, loses_a_list) else encoded

    def _begin(self, run: Run) -> Encoding:
        return asyncio.get_running_loop().create_task(self._encoded(run), context=Context())

    async def _encoded(self, run: Run) -> EncodedResult:
        view_as_everybody()
        try:
            snapshot = await asyncio.shield(run.loading)
        except Exception as error:
            return self._failed(error)
        executing = self._execute(snapshot)
        encoded = await run_within(self._timeout, executing, self._failed, copy_context())
        if encoded.cursor == NOWHERE:
            run.forget(self)
        return encoded

    async def _execute(self, snapshot: Snapshot[Any]) -> EncodedResult:
        try:
            with only_own_cancellation():
                value = snapshot_value(self._projection, snapshot)
                encoded = await self._execution.execute(self._event(snapshot.cursor), value)
        except Exception as error:
            return self._failed(error)
        if _is_lost(encoded, loses_a_list):
            self._retry.failed()
            return self._execution.without_cursor(encoded)
        self._retry.succeeded()
        return encoded

    def _failed(self, error: Exception) -> EncodedResult:
        self._retry.failed()
        event = self._event(NOWHERE)
        if not may_pass(error):
            return self._execution.refused(event, error)
        return self._execution.without_cursor(self._execution.failed(event, error))

    def _event(self, cursor: Cursor) -> Event:
        return Event(self._projection.topic.name, cursor, b"")


def _is_lost(encoded: EncodedResult, loses: Callable[[Any, Any], bool]) -> bool:
    if not encoded.errors or encoded.body is None:
        return False
    data = encoded.result().data
    return any(loses(data, error.path) for error in encoded.errors)
