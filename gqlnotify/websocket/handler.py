"""`graphql-transport-ws` over an ASGI WebSocket: reads messages and executes commands.

The protocol core turns each message into commands. `Session` holds the viewer and the token, and
`Operations` runs the client's operations.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Hashable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

from strawberry import Schema
from strawberry.asgi import ASGIWebSocketAdapter
from strawberry.exceptions import ConnectionRejectionError
from strawberry.types.unset import UnsetType
from typing_extensions import override

from gqlnotify import execution
from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.connections.report import Facts
from gqlnotify.connections.router_state import RouterState, asker_of
from gqlnotify.connections.session_cookie import find_session
from gqlnotify.deadline import Deadline
from gqlnotify.drain import Drain
from gqlnotify.errors import (
    ConnectionClosed,
    Draining,
    Forbidden,
    InternalError,
    KeysUnavailable,
    NotifyError,
    RevocationsUnavailable,
    TooManyAttempts,
    Unauthenticated,
)
from gqlnotify.observability import metrics, trace, tracing
from gqlnotify.protocol import messages
from gqlnotify.protocol.connection import (
    Acknowledge,
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
from gqlnotify.topics.reading import Reading
from gqlnotify.topics.resumption import Resumption
from gqlnotify.websocket.heartbeat import Heartbeat
from gqlnotify.websocket.lifecycle import Lifecycle
from gqlnotify.websocket.operations import Operations
from gqlnotify.websocket.session import closed_by

FORBIDDEN = 4403
# How long a stopping server waits for the last pong of each client.
HAND_OVER_SECONDS = 1.0
INTERNAL_ERROR = 4500
_REFUSALS = (Unauthenticated, KeysUnavailable, RevocationsUnavailable, TooManyAttempts)

logger = logging.getLogger("gqlnotify.transports")


class View(Protocol):
    """The part of the router that the handler uses."""

    schema: Schema
    _gqlnotify: RouterState

    def encode_json(self, data: object) -> str | bytes:
        """Return `data` as JSON."""

    def decode_json(self, data: str | bytes) -> object:
        """Parse JSON."""

    async def on_ws_connect(self, context: Any) -> Any:
        """Call the application's hook. It may refuse, or return the payload of the ack."""


class GraphQLTransportWSHandler(Lifecycle):
    """Serves one socket. Its constructor is the one that Strawberry's views call."""

    transport = "graphql-transport-ws"
    internal_error = INTERNAL_ERROR

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
        super().__init__(view._gqlnotify, websocket.ws, view.encode_json)
        self._view = view
        self._router = view._gqlnotify
        settings = self._router.settings
        self._context = context
        self._root_value = root_value
        self._schema = schema
        self._leaving = False
        self._init_timer: Deadline | None = Deadline(
            asyncio.get_running_loop(),
            connection_init_wait_timeout.total_seconds(),
            self._init_timed_out,
        )
        self._protocol = ServerConnection(
            max_operations=max_subscriptions_per_connection,
            message_max_bytes=settings.message_max_bytes,
            decode=view.decode_json,
        )
        self._operations = Operations(
            self._connection,
            self._protocol,
            self._execute,
            self._stream,
            self._budget,
            interval=settings.ack_interval,
        )
        self._heartbeat = Heartbeat(
            interval=settings.ping_interval,
            timeout=settings.ping_timeout,
            ping=self._ping,
            reads=self._connection.reads,
            dead=self._peer_is_dead,
        )

    @override
    def _may_detach(self) -> bool:
        # A subclass that overrides `handle` expects it to return at the connection's end.
        return self._router.detachable and type(self).handle is GraphQLTransportWSHandler.handle

    @override
    def _stop(self) -> None:
        self._heartbeat.stop()
        self._stop_init_timer()
        self._operations.stop_all()

    @override
    def _cut_cycles(self) -> None:
        super()._cut_cycles()
        self._heartbeat.forget_callbacks()
        self._operations.forget_callbacks()

    def _stop_init_timer(self) -> None:
        if self._init_timer is not None:
            self._init_timer.cancel()
            self._init_timer = None

    @override
    def load(self) -> metrics.Load:
        yield from super().load()
        yield from self._operations.load()

    @override
    def readings(self) -> Iterator[Reading]:
        yield from self._operations.readings()

    @override
    def _describe_operations(self) -> list[Facts]:
        return self._operations.describe()

    @override
    def follow(self) -> None:
        self._operations.follow()

    @override
    def _heard(self) -> None:
        self._heartbeat.heard()

    @override
    async def _received(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            await self._execute(self._protocol.receive_binary())
        else:
            await self._execute(self._protocol.receive_text(message))

    async def _execute(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Send(message):
                    await self._connection.send(message)
                case Authenticate(payload):
                    self._stop_init_timer()
                    self._connection.spawn(self._initialise(payload))
                    # One tick, so that a decision without a wait precedes the next message.
                    await asyncio.sleep(0)
                case Renew(payload):
                    await self._renew(payload)
                case Start(operation):
                    self._start(operation)
                case Refuse(id_, error):
                    metrics.refused(error.code)
                    self._note(trace.Kind.FAILED, code=error.code)
                    await self._connection.send(messages.error(id_, [error.formatted()]))
                case Stop(id_):
                    self._operations.stop(id_)
                case Acknowledge(cursors):
                    self._operations.acknowledge(cursors)
                case Close(code, reason, label):
                    metrics.refused(label)
                    await self._connection.close(code, reason)

    def _start(self, operation: Subscribe) -> None:
        # While draining, ignore it: the client retries at another server.
        if not self._leaving:
            self._operations.start(operation, self._resuming_subject())

    def _soon(self, commands: Sequence[Command]) -> None:
        self._connection.spawn(self._execute(commands))

    @override
    async def _fail(self, closed: ConnectionClosed) -> None:
        await self._execute(self._protocol.close(closed))

    def _init_timed_out(self) -> None:
        self._soon(self._protocol.init_timeout())

    def _ping(self) -> None:
        self._soon(self._protocol.ping(self._operations.acknowledgements.cursors()))

    @override
    def _close_soon(self, closed: ConnectionClosed) -> None:
        self._soon(self._protocol.close(closed))

    @override
    def _token_ended(self, closed: ConnectionClosed) -> None:
        # Stop now: with a slow peer, the close frame may take long.
        self._operations.stop_all()
        self._close_soon(closed)

    async def _initialise(self, payload: Json) -> None:
        try:
            with only_own_cancellation(), tracing.span("connection_init"):
                acknowledgement = await self._accept(payload)
            await self._execute(self._protocol.acknowledge(acknowledgement))
        except _REFUSALS as error:
            await self._fail(closed_by(error, error.close_code))
        except Forbidden as error:
            await self._fail(closed_by(error, FORBIDDEN))
        except ConnectionClosed as closed:
            await self._fail(closed)
        except ConnectionRejectionError:
            await self._fail(closed_by(Forbidden("Forbidden"), FORBIDDEN))
        except Exception:
            logger.exception("The decision on a connection_init failed")
            await self._fail(ConnectionClosed("Internal server error", code=INTERNAL_ERROR))

    async def _accept(self, payload: Json) -> Json | None:
        await self._session.begin(payload)
        self._remember(payload)
        acknowledgement = await self._view.on_ws_connect(self._context)
        return None if isinstance(acknowledgement, UnsetType) else acknowledgement

    def _remember(self, payload: Json) -> None:
        if isinstance(self._context, dict):
            self._context["connection_params"] = payload
        elif hasattr(self._context, "connection_params"):
            self._context.connection_params = payload

    async def _renew(self, payload: Json) -> None:
        # Awaited before the next message is read, so that the later of two tokens wins.
        try:
            answer = await self._session.renew(payload)
        except NotifyError as error:
            metrics.refused(error.code)
            answer = {"renewed": False, **error.formatted()}
        except Exception:
            logger.exception("The decision on a renewal failed")
            answer = {"renewed": False, **InternalError("A renewal failed").formatted()}
        await self._execute(self._protocol.renewed(answer))

    def _stream(
        self, operation: Subscribe, resumption: Resumption | None
    ) -> AsyncGenerator[Any, None]:
        return execution.stream(
            self._router.executions(self._view.schema),
            execution.Operation(
                query=operation.query,
                operation_name=operation.operation_name,
                variables=operation.variables,
                extensions=operation.extensions,
                viewer=self._session.viewer,
                document_id=operation.document_id,
                asker=self._asker,
                resumption=resumption,
                present_as=self._session.present_as(),
            ),
            context=self._context,
            root_value=self._root_value,
        )

    def _budget(self) -> execution.ReplayBudget:
        return self._router.executions(self._view.schema).budgets.of(self._session.subject)

    @override
    def _drain(self) -> None:
        self._leaving = True
        self._connection.spawn(self._leave())

    async def _leave(self) -> None:
        """Let queries and mutations finish, then send the client to another server."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(Drain.of(asyncio.get_running_loop()).finish_by):
                await self._operations.finish(self._is_endless)
        await self._operations.hand_over(HAND_OVER_SECONDS)
        await self._fail(Draining("The server is about to stop"))

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

    def _resuming_subject(self) -> str | None:
        """Return whose operations may be resumed without a cursor; None if they may not be."""
        if not self._router.auto_resume:
            return None
        if self._session.viewer is not None:
            return self._session.viewer.principal.subject
        return find_session(self._connection.websocket)

    @property
    def _asker(self) -> Hashable:
        return asker_of(self._session.viewer, self._connection.websocket.client)
