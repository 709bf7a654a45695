"""The single connection mode of GraphQL over SSE: one stream for all operations of a client.

Browsers open at most six connections to a server over HTTP/1.1, and each stream keeps one.
https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send
from strawberry.http import GraphQLRequestData
from strawberry.http.streaming import SSE_HEARTBEAT_INTERVAL
from strawberry.types import ExecutionResult
from strawberry.types.graphql import OperationType
from typing_extensions import override

from gqlnotify import clock, execution
from gqlnotify.auth import Viewer, current_viewer
from gqlnotify.connections.asgi_adapter import asgi_transport
from gqlnotify.connections.reservations import Reservation, Text
from gqlnotify.connections.taken_events import TakenEvents
from gqlnotify.errors import BadUserInput, InternalError, NotReserved, TokenRevoked
from gqlnotify.execution.strawberry_adapter import stream_transport
from gqlnotify.http.encoded_part import EncodedPart
from gqlnotify.http.handler import Router, bound_to_setting, document_id_of, stream_response
from gqlnotify.http.negotiation import stream_quality
from gqlnotify.http.parts import parts_of
from gqlnotify.http.stream_formats import ServerSentEvents, cursor_of
from gqlnotify.topics.resumption import Resumption

STREAM_HEADER = "x-graphql-event-stream-token"
METHODS = ["PUT", "DELETE"]
"""What the router serves in addition to GET and POST."""

_MAX_ID = 256
# How many times the kernel is asked in each `ack_interval`.
_LOOKS = 5
_PING = ": ping\n\n"
# A proxy takes bytes that the client may not get. nginx gives up after 60 seconds in which its
# client has read nothing, and others are similar.
_PROXY_HEADERS = {"forwarded", "via", "x-forwarded-for", "x-real-ip"}
_PROXY_SECONDS = 120.0

logger = logging.getLogger("gqlnotify.transports")


async def respond(
    router: Router, request: Request, context: Any, root_value: Any
) -> Response | None:
    """Return the response to a request of this mode; None if the request is not of this mode.

    Raises:
        NotReserved: the process has no stream with the request's token for this subject.
        StreamConflict: the stream, or an operation with the same id, is already there.
        TooManyStreams: there are too many reservations.
        TooManyStreamsOfSubject: the subject has too many reservations.
        TooManyOperations: the stream has too many operations.
        BadUserInput: the id of the operation is missing.
        HTTPException: the body is not a request.
    """
    if stream_transport(router, ServerSentEvents.protocol) is None:
        return None
    reservations = router._gqlnotify.reservations
    if request.method == "PUT":
        reserved = reservations.add(_subject())
        return Response(reserved.token, status_code=201, media_type="text/plain")
    token = _token(request)
    if token is None or (request.method == "GET" and not _opens_a_stream(request)):
        return None
    reservation = reservations.find(token, _subject())
    if request.method == "GET":
        return _open(router, request, reservation)
    if request.method == "DELETE":
        reservation.stop(request.query_params.get("operationId", ""))
        return Response()
    bound_to_setting(router, request)
    return await _accept(router, request, reservation, context, root_value)


class OperationEvents(ServerSentEvents):
    """The events of one operation. Their data has its id."""

    def __init__(self, id_: str) -> None:
        super().__init__()
        self._id = id_

    def wrap(self, response: object) -> object:
        """Return the data of the event for `response`."""
        return {"id": self._id, "payload": response}

    @override
    def encode_next(self, response: Any, encode_json: Callable[[object], str]) -> str:
        # No event has an id: it would be that of all operations, and not of this one.
        whole = response if isinstance(response, EncodedPart) else self.wrap(response)
        return self.encode_event("next", encode_json(whole))

    def encode_end(self, encode_json: Callable[[object], str]) -> str:
        """Return the event that ends the operation."""
        return self.encode_event("complete", encode_json({"id": self._id}))


class Accepted(Response):
    """Says that an operation was accepted, and lasts until it has ended.

    Until then FastAPI keeps what the operation needs: its dependencies and its background tasks.
    """

    def __init__(self, operation: "asyncio.Task[None]") -> None:
        super().__init__(status_code=202)
        self._operation = operation

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        background, self.background = self.background, None
        await super().__call__(scope, receive, send)
        await asyncio.wait({self._operation})
        if background is not None:
            await background()


def _subject() -> str | None:
    viewer = current_viewer()
    return None if viewer is None else viewer.principal.subject


def _token(request: Request) -> str | None:
    """Return the token of a reservation. The parameter counts only where nothing else is asked."""
    token = request.headers.get(STREAM_HEADER)
    if token is None and request.method != "POST":
        token = request.query_params.get("token")
    if token is None and request.method == "DELETE":
        raise NotReserved(f"The header {STREAM_HEADER} is missing: it names the reserved stream")
    return token


def _opens_a_stream(request: Request) -> bool:
    accepts = ServerSentEvents().accepts
    is_asked = "query" in request.query_params
    return not is_asked and stream_quality(request.headers.get("accept"), accepts) > 0


def _open(router: Router, request: Request, reservation: Reservation) -> Response:
    reservation.take()
    is_over = partial(_has_ended, current_viewer(), router._gqlnotify.watch)
    taken = TakenEvents(
        asgi_transport(request.receive),
        # A cut soon after a reconnect must not repeat what that one has replayed.
        interval=router._gqlnotify.settings.ack_interval / _LOOKS,
        delay=_PROXY_SECONDS if _PROXY_HEADERS & {*request.headers} else 0,
    )
    texts = reservation.texts(_PING, SSE_HEARTBEAT_INTERVAL, is_over, taken)
    return stream_response(router, request, texts, headers=ServerSentEvents.headers)


def _has_ended(viewer: Viewer | None, watch: execution.Watch) -> bool:
    """Return whether the viewer's token has expired or is revoked."""
    expires_at = None if viewer is None else viewer.principal.expires_at
    try:
        watch(viewer, _nothing)()
    except TokenRevoked:
        return True
    return expires_at is not None and expires_at <= clock.utc_now()


def _nothing() -> None:
    pass


async def _accept(
    router: Router, request: Request, reservation: Reservation, context: Any, root_value: Any
) -> Response:
    data = await router.parse_http_body(router.request_adapter_class(request))
    if isinstance(data, list):
        raise BadUserInput("A reserved stream takes one operation in a request, not a batch")
    id_ = _take_id(data)
    events, resumption = OperationEvents(id_), _resumption(router, id_, data)
    parts = parts_of(
        router,
        request,
        data,
        context=context,
        root_value=root_value,
        allowed=OperationType.from_http("POST"),
        wrap=events.wrap,
        resumption=resumption,
    )
    texts = _texts(router, request, execution.without_positions(parts), events)
    return Accepted(reservation.start(id_, texts, resumption))


def _resumption(router: Router, id_: str, data: GraphQLRequestData) -> Resumption | None:
    """Return what lets the client resume an operation although it sends no cursor, if it may.

    graphql-sse keeps the id of an operation when it reconnects, but it acknowledges nothing. So the
    events that its kernel has taken count as received.
    """
    viewer = current_viewer()
    if viewer is None or not router._gqlnotify.auto_resume:
        return None
    identity = (data.query, document_id_of(data), data.operation_name, data.variables or {})
    return Resumption.of(viewer.principal.subject, id_, identity, _announce_nothing)


def _announce_nothing(_resumption: Resumption) -> None:
    pass


def _take_id(data: GraphQLRequestData) -> str:
    """Remove the id of an operation from its extensions, and return it.

    With it, no two operations would share an execution.
    """
    extensions = dict(data.extensions or {})
    id_ = extensions.pop("operationId", None)
    if not isinstance(id_, str) or not 0 < len(id_) <= _MAX_ID:
        raise BadUserInput(
            f"extensions.operationId must name the operation, with 1 to {_MAX_ID} characters"
        )
    data.extensions = extensions
    return id_


async def _texts(
    router: Router,
    request: Request,
    parts: AsyncGenerator[Any, None],
    events: OperationEvents,
) -> AsyncGenerator[Text, None]:
    encode = router.encode_json_string
    try:
        async with aclosing(parts):
            async for part in parts:
                response = await router.process_result(request, _single(part))
                yield Text(events.encode_next(response, encode), cursor_of(response))
    except Exception:
        logger.exception("An operation failed")
        yield Text(events.encode_next(_failed(), encode))
    yield Text(events.encode_end(encode))


def _single(part: Any) -> Any:
    if isinstance(part, ExecutionResult | EncodedPart):
        return part
    return execution.error_result(
        BadUserInput("Incremental delivery is not supported on a reserved stream")
    )


def _failed() -> Any:
    failed = execution.error_result(InternalError("An operation failed"))
    return execution.payload_of(failed)
