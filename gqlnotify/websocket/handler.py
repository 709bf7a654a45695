"""`graphql-transport-ws` over an ASGI WebSocket: carries out what the protocol core commands."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from strawberry import Schema
from strawberry.asgi import ASGIWebSocketAdapter
from strawberry.exceptions import ConnectionRejectionError
from strawberry.types import ExecutionResult
from strawberry.types.unset import UnsetType

from gqlnotify import execution
from gqlnotify.auth import Viewer, find_token, renewed, view_as
from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.connections.router_state import RouterState, asker_of
from gqlnotify.deadline import Deadline
from gqlnotify.drain import Drain
from gqlnotify.errors import (
    BadUserInput,
    ConnectionClosed,
    Draining,
    ExecutionCancelled,
    Forbidden,
    InternalError,
    KeysUnavailable,
    NotifyError,
    PeerSilent,
    RevocationsUnavailable,
    TokenExpired,
    TokenRevoked,
    TooManyAttempts,
    TooManyMessages,
    TooSlow,
    Unauthenticated,
)
from gqlnotify.observability import metrics, tracing
from gqlnotify.protocol import messages
from gqlnotify.protocol.connection import (
    Authenticate,
    Close,
    Command,
    Refuse,
    Renew,
    Send,
    ServerConnection,
    Start,
    Stop,
)
from gqlnotify.protocol.messages import Json, Subscribe
from gqlnotify.rate import Rate
from gqlnotify.topics.subscriber import Subscriber
from gqlnotify.websocket.connection import Connection
from gqlnotify.websocket.heartbeat import Heartbeat
from gqlnotify.websocket.shared_operation import SharedOperation

FORBIDDEN = 4403
INTERNAL_ERROR = 4500
_REFUSALS = (Unauthenticated, KeysUnavailable, RevocationsUnavailable, TooManyAttempts)

logger = logging.getLogger("gqlnotify.transports")


class View(Protocol):
    """What the handler asks of the router that it serves."""

    schema: Schema
    _gqlnotify: RouterState

    def encode_json(self, data: object) -> str | bytes:
        """Return `data` as JSON."""

    def decode_json(self, data: str | bytes) -> object:
        """Parse JSON."""

    async def on_ws_connect(self, context: Any) -> Any:
        """Let the application have its say; what it returns is the payload of the ack."""


class GraphQLTransportWSHandler:
    """Serves one socket. Its constructor is the one that Strawberry's views call."""

    def __init__(
        self,
        view: View,
        websocket: ASGIWebSocketAdapter,
        context: Any,
        root_value: Any,
        schema: Schema,
        connection_init_wait_timeout: timedelta,
        max_subscriptions_per_connection: int | None = None,
    ) -> None:
        self._view = view
        self._router = view._gqlnotify
        settings = self._router.settings
        self._context = context
        self._root_value = root_value
        self._schema = schema
        self._viewer: Viewer | None = None
        self._unwatch: Callable[[], None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._reading = False
        self._leaving = False
        self._operations: dict[str, asyncio.Task[None] | SharedOperation] = {}
        # What the tasks of operations were asked for.
        self._requests: dict[asyncio.Task[None], Subscribe] = {}
        self._subject: str | None = None
        self._budget: execution.ReplayBudget | None = None
        self._connection = Connection(
            websocket.ws, view.encode_json, settings, on_slow=self._too_slow
        )
        counted = self._connection.limit_frames()
        self._rate = None if counted else Rate(settings.message_rate, settings.message_burst)
        self._init_timer = Deadline(
            asyncio.get_running_loop(),
            connection_init_wait_timeout.total_seconds(),
            lambda: self._soon(self._protocol.init_timeout()),
        )
        self._protocol = ServerConnection(
            max_operations=max_subscriptions_per_connection,
            message_max_bytes=settings.message_max_bytes,
            decode=view.decode_json,
        )
        self._heartbeat = Heartbeat(
            interval=settings.ping_interval,
            timeout=settings.ping_timeout,
            ping=lambda: self._soon(self._protocol.ping()),
            reads=self._connection.reads,
            dead=lambda: self._soon(self._protocol.close(PeerSilent("No pong in time"))),
        )

    async def handle(self) -> None:
        """Serve until either side closes; then leave nothing behind.

        Where the server holds the connection by itself, this returns early.
        """
        self._connection.on_drain(self._drain)
        self._connection.open()
        metrics.watch(self)
        try:
            self._router.connection_limits.enter()
        except ConnectionClosed as full:
            await self._fail(full)
            await self._cleanup()
            return
        if self._may_detach() and self._connection.detach(self._on_message, self._finish):
            return
        self._connection.spawn(self._read(lambda: True))
        try:
            await self._connection.ended()
        finally:
            await self._finish()

    def _may_detach(self) -> bool:
        # A subclass that overrides this waits for its end.
        return self._router.detachable and type(self).handle is GraphQLTransportWSHandler.handle

    async def _finish(self) -> None:
        try:
            await self._cleanup()
        finally:
            # Not sooner: a decision that was still under way may have begun to watch.
            self._stop_watching()
            self._router.connection_limits.leave()
            if self._subject is not None:
                self._router.connection_limits.leave_as(self._subject)

    def load(self) -> metrics.Load:
        """See `metrics.Sampled`."""
        shared = sum(isinstance(each, SharedOperation) for each in self._operations.values())
        yield metrics.connections, 1
        yield metrics.held_bytes, self._connection.held
        yield metrics.shared_operations, shared
        yield metrics.own_operations, len(self._operations) - shared

    async def _cleanup(self) -> None:
        metrics.unwatch(self)
        self._heartbeat.stop()
        self._init_timer.cancel()
        for id_ in list(self._operations):
            self._stop(id_)
        await self._connection.clean_up()

    def _stop(self, id_: str) -> None:
        # It may have ended by itself in this very turn, with the end not yet told.
        running = self._operations.pop(id_, None)
        if running is not None:
            running.cancel()

    def _on_message(self) -> None:
        # Behind its end there is nothing to read, though uvicorn tells of it twice.
        if not self._reading and not self._connection.is_over:
            self._reading = True
            self._connection.spawn(self._read(self._connection.readable))

    async def _read(self, there_is_more: Callable[[], bool]) -> None:
        try:
            # Also while a close frame is under way, which this would cut short by ending.
            while there_is_more():
                await self._connection.room()
                message = await self._connection.receive()
                if message is None:
                    self._connection.end()
                    return
                self._heartbeat.heard()
                await self._execute(self._receive(message))
        except Exception:
            logger.exception("A connection failed")
            await self._fail(ConnectionClosed("Internal server error", code=INTERNAL_ERROR))
            self._connection.end()
        finally:
            self._reading = False

    def _receive(self, message: str | bytes) -> list[Command]:
        if self._rate is not None and not self._rate.allows(asyncio.get_running_loop().time()):
            return self._protocol.close(TooManyMessages("Too many messages"))
        if isinstance(message, bytes):
            return self._protocol.receive_binary()
        return self._protocol.receive_text(message)

    async def _execute(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Send(message):
                    await self._connection.send(message)
                case Authenticate(payload):
                    self._init_timer.cancel()
                    self._connection.spawn(self._initialise(payload))
                    # One turn: a decision that needs no waiting is made before the next message.
                    await asyncio.sleep(0)
                case Renew(payload):
                    await self._renew(payload)
                case Start(operation):
                    self._start(operation)
                case Refuse(id_, error):
                    metrics.refused(error.code)
                    await self._connection.send(messages.error(id_, [error.formatted()]))
                case Stop(id_):
                    self._stop(id_)
                case Close(code, reason, label):
                    metrics.refused(label)
                    await self._connection.close(code, reason)

    def _start(self, operation: Subscribe) -> None:
        if self._leaving:
            # The client, told to come back, asks again elsewhere.
            return
        task = self._connection.spawn(self._run(operation))
        self._operations[operation.id] = task
        self._requests[task] = operation
        task.add_done_callback(self._requests.pop)

    def _drain(self) -> None:
        self._leaving = True
        self._connection.spawn(self._leave())

    async def _leave(self) -> None:
        """Let queries and mutations finish, then send the client to another server."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(Drain.of(asyncio.get_running_loop()).finish_by):
                await self._finite_operations_end()
        await self._fail(Draining("The server is about to stop"))

    async def _finite_operations_end(self) -> None:
        request = list(self._requests.items())
        finite = [task for task, operation in request if not await self._is_endless(operation)]
        if finite:
            await asyncio.wait(finite)

    async def _is_endless(self, request: Subscribe) -> bool:
        name = request.operation_name
        executions = self._router.executions(self._view.schema)
        try:
            query = await execution.find_document(
                executions, request.query, request.document_id, name, self._asker
            )
        except NotifyError:
            return False
        return await execution.is_subscription(executions, query, name, self._asker)

    @property
    def _asker(self) -> Hashable:
        return asker_of(self._viewer, self._connection.websocket.client)

    def _soon(self, commands: Sequence[Command]) -> None:
        self._connection.spawn(self._execute(commands))

    def _too_slow(self) -> None:
        self._soon(self._protocol.close(TooSlow("Nothing was read for too long")))

    async def _fail(self, closed: ConnectionClosed) -> None:
        await self._execute(self._protocol.close(closed))

    async def _initialise(self, payload: Json) -> None:
        try:
            with only_own_cancellation(), tracing.span("connection_init"):
                acknowledgement = await self._accept(payload)
            await self._execute(self._protocol.acknowledge(acknowledgement))
        except _REFUSALS as error:
            await self._fail(_closed(error, error.close_code))
        except Forbidden as error:
            await self._fail(_closed(error, FORBIDDEN))
        except ConnectionClosed as closed:
            await self._fail(closed)
        except ConnectionRejectionError:
            await self._fail(_closed(Forbidden("Forbidden"), FORBIDDEN))
        except Exception:
            logger.exception("The decision on a connection_init failed")
            await self._fail(ConnectionClosed("Internal server error", code=INTERNAL_ERROR))

    async def _renew(self, payload: Json) -> None:
        # The next message waits for it, so that of two tokens the later one counts.
        try:
            answer = await self._renewed(payload)
        except NotifyError as error:
            metrics.refused(error.code)
            answer = {"renewed": False, **error.formatted()}
        except Exception:
            logger.exception("The decision on a renewal failed")
            answer = {"renewed": False, **InternalError("A renewal failed").formatted()}
        await self._execute(self._protocol.renewed(answer))

    async def _renewed(self, payload: Json) -> Json:
        token = find_token(payload)
        fresh = await self._router.admit(token, self._connection.websocket)
        if fresh is None or self._viewer is None:
            # No token is asked for here: a ping like any other.
            return payload
        self._viewer = renewed(self._viewer, fresh)
        self._end_with_the_token()
        self._watch()
        expires_at = fresh.principal.expires_at
        return {"renewed": True, "expiresAt": expires_at and expires_at.isoformat()}

    async def _accept(self, payload: Json) -> Json | None:
        websocket = self._connection.websocket
        token = find_token(payload)
        if token is None:
            token = find_token({"authorization": websocket.headers.get("authorization")})
        self._viewer = await self._router.admit(token, websocket)
        view_as(self._viewer)
        self._enter_as_subject()
        self._end_with_the_token()
        self._watch()
        self._remember(payload)
        acknowledgement = await self._view.on_ws_connect(self._context)
        return None if isinstance(acknowledgement, UnsetType) else acknowledgement

    def _enter_as_subject(self) -> None:
        # Not where the peer has gone meanwhile: it would never leave.
        if self._viewer is not None and not self._connection.is_over:
            self._router.connection_limits.enter_as(self._viewer.principal.subject)
            self._subject = self._viewer.principal.subject

    def _end_with_the_token(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        expires_at = None if self._viewer is None else self._viewer.principal.expires_at
        if expires_at is not None:
            remaining = (expires_at - datetime.now(UTC)).total_seconds()
            self._expiry = self._connection.after(remaining, self._token_expired)

    async def _token_expired(self) -> None:
        await self._fail(_closed(TokenExpired("The token has expired"), TokenExpired.close_code))

    def _watch(self) -> None:
        self._stop_watching()
        self._unwatch = self._router.watch(self._viewer, self._revoked)

    def _stop_watching(self) -> None:
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()

    def _revoked(self) -> None:
        # At once: a peer that reads slowly takes its time until the close frame is out.
        for id_ in list(self._operations):
            self._stop(id_)
        revoked = TokenRevoked("The token was revoked")
        self._soon(self._protocol.close(_closed(revoked, TokenExpired.close_code)))

    def _remember(self, payload: Json) -> None:
        if isinstance(self._context, dict):
            self._context["connection_params"] = payload
        elif hasattr(self._context, "connection_params"):
            self._context.connection_params = payload

    async def _run(self, operation: Subscribe) -> None:
        # Its result would have to wait as well, and be kept meanwhile.
        await self._connection.room()
        await self._conclude(operation.id, partial(self._answer, operation))

    async def _conclude(
        self, id_: str, work: Callable[[], Awaitable[Sequence[Json] | None]]
    ) -> None:
        """Do `work`, and end the operation with the errors that it returns, unless it lives on."""
        try:
            with only_own_cancellation():
                errors = await work()
        except execution.Ended as ended:
            errors = ended.errors
        except NotifyError as error:
            metrics.refused(error.code)
            errors = [error.formatted()]
        except asyncio.CancelledError:
            # A stop forgets the operation before it cancels the task: this one cancelled itself.
            if not self._runs(id_) or self._connection.is_over:
                raise
            errors = [ExecutionCancelled("The operation was cancelled").formatted()]
        except Exception:
            logger.exception("An operation failed")
            errors = [InternalError("An operation failed").formatted()]
        if errors is not None and self._runs(id_):
            del self._operations[id_]
            await self._send_terminal(id_, errors)

    async def _send_terminal(self, id_: str, errors: Sequence[Json]) -> None:
        if not errors:
            await self._execute(self._protocol.complete(id_))
            return
        try:
            await self._execute(self._protocol.error(id_, errors))
        except execution.NOT_JSON:
            logger.exception("An error can't be encoded")
            told = InternalError("An error can't be encoded").formatted()
            await self._connection.send(messages.error(id_, [told]))

    async def _answer(self, operation: Subscribe) -> Sequence[Json] | None:
        """Send the results; return the errors that end them, or None: it has joined a group."""
        end = await self._send_results(operation)
        if not isinstance(end, execution.Shareable):
            return end
        if not self._runs(operation.id):
            # It was stopped, and a resolver has swallowed that.
            end.subscriber.close()
            return []
        member = SharedOperation(operation.id, end.execution, self._connection, self)
        return await self._join(member, end.subscriber)

    async def _send_results(self, operation: Subscribe) -> Sequence[Json] | execution.Shareable:
        results = execution.stream(
            self._router.executions(self._view.schema),
            execution.Operation(
                query=operation.query,
                operation_name=operation.operation_name,
                variables=operation.variables,
                extensions=operation.extensions,
                viewer=self._viewer,
                document_id=operation.document_id,
                asker=self._asker,
            ),
            context=self._context,
            root_value=self._root_value,
        )
        shareable: execution.Shareable | None = None
        try:
            async with aclosing(results):
                async for result in results:
                    if isinstance(result, execution.Shareable):
                        shareable = result
                        break
                    errors = await self._send_result(operation.id, result)
                    if errors:
                        return errors
        except BaseException:
            # An extension may make the end of the results wait, and so be cancelled there.
            if shareable is not None:
                shareable.subscriber.close()
            raise
        return [] if shareable is None else shareable

    async def _send_result(self, id_: str, result: Any) -> Sequence[Json]:
        """Send one result, or return the errors that it ends the operation with."""
        if not isinstance(result, ExecutionResult):
            # A `next` message has no words for the frames of `@defer` and `@stream`.
            return [_NO_INCREMENTAL.formatted()]
        payload = execution.payload_of(result)
        if execution.ends_the_operation(result):
            return list(payload.get("errors", ()))
        # All operations wait for their turn here: only one result at a time goes beyond the bound.
        await self._connection.drained()
        commands = self._protocol.next(id_, payload) if self._runs(id_) else []
        try:
            await self._execute(commands)
        except execution.NOT_JSON:
            logger.exception("A result can't be encoded")
            told = execution.payload_of(execution.unencodable(result))
            await self._execute(self._protocol.next(id_, told))
        if not commands:
            # The peer no longer reads this, and a generator that never waits could not be stopped.
            await asyncio.sleep(0)
        return []

    async def _join(self, member: SharedOperation, subscriber: Subscriber) -> Sequence[Json] | None:
        if self._budget is None:
            budgets = self._router.executions(self._view.schema).budgets
            self._budget = budgets.of(self._subject)
        member.group = await member.execution.join(member, subscriber, self._budget)
        if member.group is None:
            return []
        self._operations[member.id] = member
        return None

    def fell_behind(self, operation: SharedOperation, subscriber: Subscriber) -> None:
        """See `Owner.fell_behind`."""
        joining = self._conclude(operation.id, partial(self._join, operation, subscriber))
        task = self._operations[operation.id] = self._connection.spawn(joining)
        # A task that is cancelled before its first step never gets to close the reader itself.
        task.add_done_callback(lambda _task: subscriber.close())

    def ended(self, operation: SharedOperation, errors: Sequence[Json]) -> None:
        """See `Owner.ended`."""
        if self._operations.get(operation.id) is operation:
            del self._operations[operation.id]
            self._connection.spawn(self._send_terminal(operation.id, errors))

    def _runs(self, id_: str) -> bool:
        # By task and not by id alone: the client may have stopped this operation and given its
        # id to another while this one was still on its way out.
        return self._operations.get(id_) is asyncio.current_task()


_NO_INCREMENTAL = BadUserInput("Incremental delivery is not supported over graphql-transport-ws")


def _closed(error: NotifyError, code: int) -> ConnectionClosed:
    return ConnectionClosed(error.message, code=code, label=error.code)
