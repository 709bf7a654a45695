"""The operations of one socket. Each runs in a task, or as a member of a group."""

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import Any

from strawberry.types import ExecutionResult
from typing_extensions import override

from gqlnotify import execution
from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.connections.report import Facts
from gqlnotify.errors import BadUserInput, ExecutionCancelled, InternalError, NotifyError
from gqlnotify.event import Cursor
from gqlnotify.event_loop import Visited
from gqlnotify.observability import metrics, trace
from gqlnotify.protocol import messages
from gqlnotify.protocol.connection import Command, ServerConnection
from gqlnotify.protocol.messages import Json, Subscribe
from gqlnotify.topics.reading import Reading
from gqlnotify.topics.resumption import Resumption
from gqlnotify.topics.subscriber import Subscriber
from gqlnotify.websocket.acknowledgements import Acknowledgements
from gqlnotify.websocket.connection import Connection
from gqlnotify.websocket.shared_operation import Owner, SharedOperation
from gqlnotify.websocket.traced_operation import TracedOperation, follow

_NO_INCREMENTAL = BadUserInput("Incremental delivery is not supported over graphql-transport-ws")

# How many operations of a connection the console shows, and how much of their documents.
_DESCRIBED = 10
_DOCUMENT = 200

logger = logging.getLogger("gqlnotify.transports")


class Operations(Owner, metrics.Sampled):
    """Starts and stops operations, and sends their results.

    Args:
        connection: sends the results.
        protocol: decides which messages may be sent.
        execute: executes the protocol's commands.
        stream: executes an operation.
        budget: returns the subject's replay budget.
        interval: how often a client is asked what it has received at most, in seconds.
    """

    __slots__ = (
        *("_budget", "_connection", "_execute", "_make_budget", "_protocol", "_requests"),
        *("_running", "_stream", "acknowledgements"),
    )

    def __init__(
        self,
        connection: Connection,
        protocol: ServerConnection,
        execute: Callable[[Sequence[Command]], Awaitable[None]],
        stream: Callable[[Subscribe, Resumption | None], AsyncGenerator[Any, None]],
        budget: Callable[[], execution.ReplayBudget],
        interval: float,
    ) -> None:
        self._connection = connection
        self._protocol = protocol
        self._execute = execute
        self._stream = stream
        self._make_budget = budget
        self._budget: execution.ReplayBudget | None = None
        self._running: dict[str, asyncio.Task[None] | SharedOperation] = {}
        self._requests: dict[asyncio.Task[None], Subscribe] = {}
        self.acknowledgements = Acknowledgements(
            connection, protocol, self._running, interval=interval
        )

    @override
    def load(self) -> metrics.Load:
        shared = sum(isinstance(each, SharedOperation) for each in self._running.values())
        yield metrics.shared_operations, shared
        yield metrics.own_operations, len(self._running) - shared

    def describe(self) -> list[Facts]:
        """Return what is known about the first running operations."""
        return [self._describe(*each) for each in islice(self._running.items(), _DESCRIBED)]

    def _describe(self, id_: str, running: "asyncio.Task[None] | SharedOperation") -> Facts:
        resumption = self.acknowledgements.find(id_)
        acknowledged = None if resumption is None else str(resumption.acknowledged)
        return {"id": id_, **self._request_of(running), "acknowledged": acknowledged}

    def _request_of(self, running: "asyncio.Task[None] | SharedOperation") -> Facts:
        if isinstance(running, SharedOperation):
            shared = running.execution
            return {"document": shared.document[:_DOCUMENT], "topic": shared.topic}
        request = self._requests.get(running)
        text = "" if request is None else request.query or request.document_id or ""
        return {"document": text[:_DOCUMENT], "topic": None}

    def start(self, operation: Subscribe, subject: str | None) -> None:
        """Run `operation` in a task. With a subject, its client may resume it without a cursor."""
        resumption = self.acknowledgements.begin(operation, subject)
        task = self._connection.spawn(self._run(operation, resumption))
        self._running[operation.id] = task
        self._requests[task] = operation
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._requests[task]
        if not self._requests:
            # A dict keeps the memory of its entries, and most operations join a group at once.
            self._requests = {}

    def stop(self, id_: str) -> None:
        """Stop the operation with this id, if it still runs."""
        self.acknowledgements.drop(id_)
        self._halt(id_)

    def stop_all(self) -> None:
        """Stop every operation, because the connection ends. Clients may resume some of them."""
        for id_ in list(self._running):
            self._halt(id_)
        self.acknowledgements.end()

    def forget_callbacks(self) -> None:
        """Drop what it calls. Every operation has ended, and none may start any more."""
        del self._execute, self._stream, self._make_budget

    async def hand_over(self, seconds: float) -> None:
        """Stop the operations that may be resumed, and wait until the client has their results.

        This takes at most `seconds` for the answer, and again to save it.
        """
        for id_ in list(self._running):
            if self.acknowledgements.find(id_) is not None:
                self._halt(id_)
        await self.acknowledgements.hand_over(seconds)

    def _halt(self, id_: str) -> None:
        running = self._running.pop(id_, None)
        if isinstance(running, SharedOperation):
            self.acknowledgements.settle(running)
            _note_end(running)
        if running is not None:
            running.cancel()

    def readings(self) -> Iterator[Reading]:
        """Yield how far each member of a group has got."""
        for id_, running in self._running.items():
            if not isinstance(running, SharedOperation):
                continue
            resumption = self.acknowledgements.find(id_)
            acknowledged = None if resumption is None else resumption.acknowledged
            reading = running.reading(acknowledged)
            if reading is not None:
                yield reading

    def follow(self) -> None:
        """Begin to tell each step of the operations that a trace follows."""
        for running in self._running.values():
            if isinstance(running, SharedOperation):
                follow(running)

    def acknowledge(self, cursors: Mapping[str, Cursor]) -> None:
        """Note that the client has received the events up to these cursors."""
        if trace.live.on:
            for id_, cursor in cursors.items():
                running = self._running.get(id_)
                if isinstance(running, TracedOperation):
                    running.acknowledged(cursor)
        self.acknowledgements.acknowledge(cursors)

    @override
    def has_progress(self) -> None:
        self.acknowledgements.look()

    @override
    def on_round(self) -> Iterable[Visited]:
        return self.acknowledgements.on_round()

    async def finish(self, is_endless: Callable[[Subscribe], Awaitable[bool]]) -> None:
        """Wait for the operations that are not endless, that is, queries and mutations."""
        running = list(self._requests.items())
        finite = [task for task, request in running if not await is_endless(request)]
        if finite:
            await asyncio.wait(finite)

    async def _run(self, operation: Subscribe, resumption: Resumption | None) -> None:
        # Wait before the execution: the result would have to wait anyway, and take memory.
        await self._connection.room()
        await self._conclude(operation.id, partial(self._answer, operation, resumption))

    async def _conclude(
        self, id_: str, work: Callable[[], Awaitable[Sequence[Json] | None]]
    ) -> None:
        """Await `work`, and end the operation with the returned errors. None keeps it running."""
        try:
            with only_own_cancellation():
                errors = await work()
        except execution.Ended as ended:
            errors = ended.errors
        except NotifyError as error:
            metrics.refused(error.code)
            errors = [error.formatted()]
        except asyncio.CancelledError:
            # `stop` removes the operation before it cancels the task, so this was another cancel.
            if not self._runs(id_) or self._connection.is_over:
                raise
            errors = [ExecutionCancelled("The operation was cancelled").formatted()]
        except Exception:
            logger.exception("An operation failed")
            errors = [InternalError("An operation failed").formatted()]
        if errors is not None and self._runs(id_):
            del self._running[id_]
            self._note_failure(errors)
            await self._send_terminal(id_, errors)

    def _note_failure(self, errors: Sequence[Json]) -> None:
        if errors:
            # Only the code: an application's message may contain anything.
            code = (errors[0].get("extensions") or {}).get("code")
            trace.note(
                trace.Kind.FAILED,
                subject=self._connection.subject,
                code=code if isinstance(code, str) else None,
            )

    async def _send_terminal(self, id_: str, errors: Sequence[Json]) -> None:
        concluded = self.acknowledgements.conclude(id_)
        try:
            await self._execute(
                self._protocol.error(id_, errors) if errors else self._protocol.complete(id_)
            )
        except execution.NOT_JSON:
            logger.exception("An error can't be encoded")
            told = InternalError("An error can't be encoded").formatted()
            await self._connection.send(messages.error(id_, [told]))
        if concluded is not None:
            self.acknowledgements.told(concluded)

    async def _answer(
        self, operation: Subscribe, resumption: Resumption | None
    ) -> Sequence[Json] | None:
        """Send the results. Return the errors that end them, or None if it has joined a group."""
        end = await self._send_results(operation, resumption)
        if not isinstance(end, execution.Shareable):
            return end
        if not self._runs(operation.id):
            # The operation was stopped, but a resolver has swallowed the cancellation.
            end.leave()
            return []
        member = SharedOperation(operation.id, end, self._connection, self)
        return await self._join(member, end.subscriber)

    async def _send_results(
        self, operation: Subscribe, resumption: Resumption | None
    ) -> Sequence[Json] | execution.Shareable:
        shareable: execution.Shareable | None = None
        try:
            async with aclosing(self._stream(operation, resumption)) as results:
                async for result in results:
                    if isinstance(result, execution.Shareable):
                        shareable = result
                        break
                    if isinstance(result, execution.Position):
                        continue
                    errors = await self._send_result(operation.id, result)
                    if errors:
                        return errors
        except BaseException:
            # Closing the results may run an extension that waits, and can be cancelled there.
            if shareable is not None:
                shareable.leave()
            raise
        return [] if shareable is None else shareable

    async def _send_result(self, id_: str, result: Any) -> Sequence[Json]:
        """Send one result, or return its errors if it ends the operation."""
        if not isinstance(result, ExecutionResult):
            # The protocol has no messages for the incremental results of `@defer` and `@stream`.
            return [_NO_INCREMENTAL.formatted()]
        payload = execution.payload_of(result)
        if execution.ends_the_operation(result):
            return list(payload.get("errors", ()))
        # All operations wait here, so at most one result at a time exceeds the limit.
        await self._connection.drained()
        commands = self._protocol.next(id_, payload) if self._runs(id_) else []
        try:
            await self._execute(commands)
        except execution.NOT_JSON:
            logger.exception("A result can't be encoded")
            told = execution.payload_of(execution.unencodable(result))
            await self._execute(self._protocol.next(id_, told))
        if not commands:
            # The operation has ended. Yield to the loop, or a generator that never waits would
            # never be cancelled.
            await asyncio.sleep(0)
        self.acknowledgements.look()
        return []

    async def _join(self, member: SharedOperation, subscriber: Subscriber) -> Sequence[Json] | None:
        try:
            member.group = await member.execution.join(member, subscriber, self._replay_budget)
        finally:
            if member.group is None:
                member.leave_topic()
        if member.group is None:
            return []
        self._running[member.id] = member
        if trace.live.on:
            follow(member)
        # A cut right after a replay must not repeat all of it.
        self.acknowledgements.ask()
        return None

    def _replay_budget(self) -> execution.ReplayBudget:
        # Most operations replay nothing. A budget in use lasts as long as the connection: a new one
        # for each replay would limit nothing.
        if self._budget is None:
            self._budget = self._make_budget()
        return self._budget

    @override
    def lagged(self, operation: SharedOperation, subscriber: Subscriber) -> None:
        resumption = self.acknowledgements.find(operation.id)
        if resumption is not None and resumption.runs:
            if subscriber.expired is None:
                resumption.progress.advance(subscriber.position, subscriber.position)
            subscriber.progress = resumption.progress
        subscriber.reader = operation.reader
        joining = self._conclude(operation.id, partial(self._join, operation, subscriber))
        task = self._running[operation.id] = self._connection.spawn(joining)
        # A task that is cancelled before its first step never closes the subscriber itself.
        task.add_done_callback(lambda _task: subscriber.close())

    @override
    def ended(self, operation: SharedOperation, errors: Sequence[Json]) -> None:
        if self._running.get(operation.id) is operation:
            del self._running[operation.id]
            self._note_failure(errors)
            self._connection.spawn(self._send_terminal(operation.id, errors))

    def _runs(self, id_: str) -> bool:
        # Compare the task, not only the id: the client may have stopped this operation and used
        # its id again before this task ended.
        return self._running.get(id_) is asyncio.current_task()


def _note_end(operation: SharedOperation) -> None:
    reading = operation.reading(None)
    if reading is not None:
        reader = reading.reader
        trace.note(
            trace.Kind.ENDED,
            subject=reader.subject,
            topic=reader.projection.topic.name,
            cursor=reading.reached,
            connection=reader.connection,
        )
