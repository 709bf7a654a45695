"""Streams that clients reserve, to get the results of several operations on one connection.

A reservation lives in the process that made it: no other process can serve it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from secrets import token_urlsafe
from typing import NamedTuple

from gqlnotify.connections.taken_events import TakenEvents
from gqlnotify.errors import (
    NotReserved,
    StreamConflict,
    TooManyOperations,
    TooManyStreams,
    TooManyStreamsOfSubject,
)
from gqlnotify.event import Cursor
from gqlnotify.settings import Settings
from gqlnotify.topics.resumption import Resumption

logger = logging.getLogger("gqlnotify.transports")

_RETRY_AFTER = 5


class Text(NamedTuple):
    """What an operation sends: the text of an event, and its cursor if it has one."""

    text: str
    cursor: Cursor | None = None


class _Operation(NamedTuple):
    task: "asyncio.Task[None]"
    resumption: Resumption | None


class Reservation:
    """One stream, and the operations whose results it carries.

    Args:
        subject: who reserved it, or None if no token is required.
        max_operations: how many operations may run at the same time.
        timeout: seconds after which it ends if the client has not opened the stream.
        on_close: is called when it ends.
    """

    def __init__(
        self,
        subject: str | None,
        *,
        max_operations: int,
        timeout: float,
        on_close: Callable[["Reservation"], None],
    ) -> None:
        self.token = token_urlsafe()
        self.subject = subject
        self._max_operations = max_operations
        self._on_close = on_close
        self._operations: dict[str, _Operation] = {}
        # Room for one text: an operation waits until the peer takes its results.
        self._ready: asyncio.Queue[tuple[Text, Resumption | None]] = asyncio.Queue(maxsize=1)
        self._taken = False
        self._closed = False
        self._timer = asyncio.get_running_loop().call_later(timeout, self.close)

    def take(self) -> None:
        """Take the stream, which only one connection may have.

        Raises:
            StreamConflict: another connection has it.
        """
        if self._taken:
            raise StreamConflict("This stream is open already: reserve another one with PUT")
        self._taken = True

    def start(
        self, id_: str, texts: AsyncGenerator[Text, None], resumption: Resumption | None
    ) -> "asyncio.Task[None]":
        """Run an operation, and return its task. With `resumption` its client may resume it.

        Raises:
            StreamConflict: an operation with this id runs.
            TooManyOperations: `max_operations` run already.
        """
        if id_ in self._operations:
            raise StreamConflict(f"An operation with the id {id_[:50]!r} runs already")
        if len(self._operations) >= self._max_operations:
            raise TooManyOperations(
                f"A stream may carry {self._max_operations} operations; "
                "GQLNOTIFY_MAX_OPERATIONS sets the limit"
            )
        task = asyncio.create_task(self._run(texts, resumption))
        self._operations[id_] = _Operation(task, resumption)
        task.add_done_callback(lambda _: self._operations.pop(id_, None))
        return task

    def stop(self, id_: str) -> None:
        """Stop the operation with this id, if it runs."""
        operation = self._operations.get(id_)
        if operation is not None:
            if operation.resumption is not None:
                operation.resumption.drop()
            operation.task.cancel()

    async def texts(
        self, idle: str, seconds: float, is_over: Callable[[], bool], taken: TakenEvents
    ) -> AsyncGenerator[str, None]:
        """Yield what the operations send, and `idle` after so many seconds without anything.

        Then it also ends, if no operation runs and `is_over()` returns true. It tells `taken` which
        events were sent.
        """
        self._timer.cancel()
        try:
            while not self._closed:
                try:
                    async with asyncio.timeout(seconds):
                        sent, resumption = await self._ready.get()
                except TimeoutError:
                    if not self._operations and is_over():
                        return
                    yield idle
                    continue
                yield sent.text
                if resumption is not None and sent.cursor is not None:
                    taken.wrote(resumption, sent.cursor)
        finally:
            taken.close()
            self.close()

    def close(self) -> None:
        """Stop all operations. Clients may resume some of them."""
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        for task, resumption in self._operations.values():
            if resumption is not None:
                resumption.end()
            task.cancel()
        self._on_close(self)

    async def _run(self, texts: AsyncGenerator[Text, None], resumption: Resumption | None) -> None:
        try:
            async with aclosing(texts):
                async for text in texts:
                    await self._ready.put((text, resumption))
        except Exception:
            logger.exception("An operation failed")
        if resumption is not None:
            # The end may not reach the client either.
            resumption.end()


class Reservations:
    """The reservations of one router in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._by_token: dict[str, Reservation] = {}
        self._of_subject: Counter[str | None] = Counter()

    def add(self, subject: str | None) -> Reservation:
        """Reserve a stream for `subject`.

        Raises:
            TooManyStreams: the process has as many reservations as it may have connections.
            TooManyStreamsOfSubject: the subject has as many as it may have connections.
        """
        settings = self._settings
        if len(self._by_token) >= settings.max_connections:
            raise TooManyStreams("Too many reserved streams", retryAfter=_RETRY_AFTER)
        most = settings.max_connections_per_subject
        if subject is not None and self._of_subject[subject] >= most:
            raise TooManyStreamsOfSubject(
                "Too many reserved streams of this subject", retryAfter=_RETRY_AFTER
            )
        reservation = Reservation(
            subject,
            max_operations=settings.max_operations,
            timeout=settings.handshake_timeout,
            on_close=self._forget,
        )
        self._by_token[reservation.token] = reservation
        self._of_subject[subject] += 1
        return reservation

    def find(self, token: str, subject: str | None) -> Reservation:
        """Return the reservation with this token, if `subject` made it.

        Raises:
            NotReserved: there is none.
        """
        found = self._by_token.get(token)
        if found is None or found.subject != subject:
            raise NotReserved(
                "This process has no reserved stream with this token: it has ended, or another "
                "process has it. Reserve a stream with PUT, and route all requests of a client to "
                "one process, or use the distinct connections mode"
            )
        return found

    def _forget(self, reservation: Reservation) -> None:
        del self._by_token[reservation.token]
        self._of_subject[reservation.subject] -= 1
        if not self._of_subject[reservation.subject]:
            del self._of_subject[reservation.subject]
