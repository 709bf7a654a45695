"""GraphQL over HTTP, as its draft specifies it: media types, status codes, and errors as JSON.

Strawberry's views do the work. This module corrects what differs from the draft.
"""

import json
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Hashable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any, cast

from cross_web import AsyncHTTPRequestAdapter, HTTPException, StarletteRequestAdapter
from fastapi import Request, Response
from starlette.datastructures import Address
from strawberry import Schema
from strawberry.exceptions import MissingQueryError
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData, GraphQLRequestProtocol
from strawberry.http.base import BaseRequestProtocol
from strawberry.http.streaming import HTTPStreamTransport
from strawberry.http.types import HTTPMethod
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, MULTIPART_SUBSCRIPTION_PROTOCOL
from strawberry.types import ExecutionResult
from strawberry.types.graphql import OperationType
from strawberry.types.unset import UNSET
from typing_extensions import override

from gqlnotify import execution
from gqlnotify.auth import current_viewer
from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.connections.router_state import RouterState, asker_of
from gqlnotify.errors import (
    BadUserInput,
    ExecutionCancelled,
    InternalError,
    NotifyError,
    Unauthenticated,
)
from gqlnotify.execution.strawberry_adapter import stream_transports
from gqlnotify.http.body import bound_body
from gqlnotify.http.encoded_part import EncodedPart
from gqlnotify.http.negotiation import (
    FORM,
    GRAPHQL_RESPONSE,
    JSON,
    media_type,
    negotiate,
    single_quality,
    stream_quality,
)
from gqlnotify.http.stream import Stream
from gqlnotify.http.stream_formats import MultipartSubscription, ServerSentEvents
from gqlnotify.http.view import Context, RootValue, View
from gqlnotify.observability.metrics import refused
from gqlnotify.protocol.messages import find_document_id, strict_json

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
logger = logging.getLogger("gqlnotify.transports")

_UNSUPPORTED = "Unsupported content type"

# A document that is named by one of these needs no `query`.
_NAMING = ("documentId", "id", "extensions")


@dataclass
class RequestData(GraphQLRequestData):
    """One operation of a request. It may have a document id instead of a query."""

    document_id: str | None = None


class RequestAdapter(StarletteRequestAdapter):
    """A request with the media type in lower case, as Strawberry compares it, and the peer."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.client: Address | None = request.client

    @property
    @override
    def content_type(self) -> str | None:
        """The `Content-Type` header, or None."""
        header = super().content_type
        if header is None:
            return None
        _, semicolon, parameters = header.partition(";")
        return media_type(header) + semicolon + parameters


class GraphQLOverHTTP(View[Context, RootValue]):
    """Strawberry's router, with responses as the draft specifies them."""

    schema: Schema
    _gqlnotify: RouterState
    request_adapter_class: Any = RequestAdapter
    stream_transport_classes_by_protocol = {  # noqa: RUF012 - declared by Strawberry, never changed
        MULTIPART_SUBSCRIPTION_PROTOCOL: MultipartSubscription,
        GRAPHQL_SSE_PROTOCOL: ServerSentEvents,
    }

    @override
    async def run(self, request: Any, context: Any = UNSET, root_value: Any = UNSET) -> Any:
        """Serve one request. Errors have the media type that the client prefers."""
        try:
            if not self.is_websocket_request(request):
                bound_to_setting(self, request)
            return await super().run(request, context=context, root_value=root_value)
        except (HTTPException, NotifyError) as error:
            return refusal(self, request, error)

    @override
    def should_render_graphql_ide(self, request: BaseRequestProtocol) -> bool:
        """Return whether a browser requests the page of the IDE instead of an operation."""
        if any(name in request.query_params for name in _NAMING):
            return False
        return super().should_render_graphql_ide(request)

    @override
    async def execute_single(
        self,
        request: Request,
        request_adapter: AsyncHTTPRequestAdapter,
        sub_response: Response,
        context: Any,
        root_value: Any,
        request_data: GraphQLRequestData,
    ) -> ExecutionResult:
        """Execute one operation.

        A well-formed request gets a response even if it can't be executed: for an unknown
        operation, or a subscription from a transport that does not stream.
        """
        executions = self._gqlnotify.executions(self.schema)
        asker = asker_of(current_viewer(), request.client)
        try:
            query = await execution.find_document(
                executions,
                request_data.query,
                document_id_of(request_data),
                request_data.operation_name,
                asker,
            )
        except NotifyError as error:
            return execution.error_result(error)
        try:
            with only_own_cancellation():
                result = await executions.schema(asker).execute(
                    query,
                    root_value=root_value,
                    variable_values=request_data.variables,
                    context_value=context,
                    operation_name=request_data.operation_name,
                    allowed_operation_types=_allowed(self, request_adapter.method),
                    operation_extensions=request_data.extensions,
                )
                answer: ExecutionResult = execution.without_details(result)
                return answer
        except ExecutionCancelled as error:
            return execution.error_result(error)
        except CannotGetOperationTypeError as error:
            return execution.error_result(BadUserInput(error.as_http_error_reason()))
        except MissingQueryError as error:
            raise HTTPException(400, "No GraphQL query found in the request") from error
        except InvalidOperationTypeError as error:
            if error.operation_type is OperationType.SUBSCRIPTION:
                return execution.error_result(_needs_a_stream(self))
            reason = error.as_http_error_reason(request_adapter.method)
            raise HTTPException(400, reason) from error

    @override
    async def parse_http_body(
        self, request: AsyncHTTPRequestAdapter
    ) -> GraphQLRequestData | list[GraphQLRequestData]:
        """Read the request's parameters.

        Raises:
            HTTPException: one of them is missing or has the wrong type.
        """
        type_ = media_type(request.content_type)
        if request.method != "GET" and type_ != JSON and not _is_upload(self, type_):
            raise HTTPException(400, _UNSUPPORTED)
        try:
            data = await super().parse_http_body(request)
        except AttributeError as error:
            # Strawberry assumes that the JSON is an object, and reads its members.
            raise HTTPException(400, "A GraphQL request is a JSON object") from error
        operations = data if isinstance(data, list) else [data]
        for single in operations:
            if not isinstance(single.operation_name, str | None):
                raise HTTPException(400, "The `operationName` must be a string or null")
        if not all(single.query for single in operations):
            operations = await _with_their_names(self, request, operations)
        accept = request.headers.get("accept")
        if isinstance(data, list):
            for stream in _streams(self):
                if stream_quality(accept, stream.accepts) > single_quality(accept):
                    raise HTTPException(400, stream.batching_error)
            return operations
        # An application's own adapter may not have the peer.
        asker = asker_of(current_viewer(), getattr(request, "client", None))
        protocol = await _protocol_for(self, operations[0], accept, asker)
        return replace(operations[0], protocol=protocol)

    @override
    def parse_json(self, data: str | bytes) -> Any:
        """Parse JSON.

        Raises:
            HTTPException: the text is not JSON, or is nested too deeply. The status is 400.
        """
        try:
            return self.decode_json(data)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, "Unable to parse request body as JSON") from error

    @override
    def decode_json(self, data: str | bytes) -> object:
        """Parse JSON strictly (RFC 8259). Strawberry documents how to override this.

        Raises:
            ValueError: the text is not JSON, or is nested too deeply.
        """
        return strict_json(data)

    @override
    def encode_json(self, data: object) -> str | bytes:
        """Return `data` as JSON. If you override this, refuse NaN and Infinity too.

        Raises:
            TypeError: a value has a type that JSON can't represent.
            ValueError: a number is NaN or Infinity. A browser can't parse these.
        """
        return _ENCODER.encode(data)

    @override
    async def process_result(self, request: Request, result: Any) -> Any:
        """Return the response for a result. What a transport encodes itself is its own response."""
        if isinstance(result, EncodedPart | execution.Position):
            return result
        return await super().process_result(request, result)

    @override
    def encode_json_string(self, data: Any) -> str:
        """Return a part of a stream as JSON, or an error in its place if it can't be encoded."""
        if isinstance(data, EncodedPart):
            return data.text
        try:
            return super().encode_json_string(data)
        except execution.NOT_JSON:
            logger.exception("A result can't be encoded")
            return super().encode_json_string(_unencodable(data))

    @override
    def _get_stream_transport_from_headers(self, headers: Mapping[str, str]) -> None:
        # The choice also depends on the operation, so `parse_http_body` makes it.
        return None

    @override
    async def get_sub_response(self, request: Request) -> Response:
        """Return FastAPI's response for headers and cookies, marked with the media type."""
        response = await super().get_sub_response(request)
        response.media_type = negotiate(request.headers.get("accept"))
        return response

    @override
    def create_response(
        self,
        response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse],
        sub_response: Response,
    ) -> Response:
        """Return the response, in the media type that the client prefers."""
        create = partial(super().create_response, sub_response=sub_response)
        if sub_response.media_type != GRAPHQL_RESPONSE:
            return _encoded_response(self, create, response_data)
        status = execution.status_of(response_data) if isinstance(response_data, dict) else 200
        if isinstance(response_data, dict) and status != 200:
            response_data = {k: v for k, v in response_data.items() if k != "data"}  # type: ignore[assignment]
        response = _encoded_response(self, create, response_data)
        response.headers["content-type"] = f"{GRAPHQL_RESPONSE}; charset=utf-8"
        if status != 200 and not sub_response.status_code:
            response.status_code = status
        return response

    @override
    async def create_streaming_response(
        self,
        request: Request,
        stream: Callable[[], AsyncIterator[str]],
        sub_response: Response,
        headers: Mapping[str, str],
    ) -> Response:
        """Return a response that counts as a connection of the viewer while it streams."""
        if all(headers != transport.headers for transport in _streams(self)):
            # The rest of a result with `@defer`. Its operation is already running, and ends soon.
            return await super().create_streaming_response(request, stream, sub_response, headers)
        return stream_response(
            self,
            request,
            cast("AsyncGenerator[str, None]", stream()),
            headers={**sub_response.headers, **headers},
            status_code=sub_response.status_code or 200,
        )


Router = GraphQLOverHTTP[Any, Any]


def stream_response(
    router: Router,
    request: Request,
    content: AsyncGenerator[str, None],
    *,
    headers: Mapping[str, str],
    status_code: int = 200,
) -> Response:
    """Return a response that counts as a connection of the current viewer while it streams."""
    viewer = current_viewer()
    return Stream(
        content,
        status_code=status_code,
        headers=headers,
        topics=router._gqlnotify.topics,
        connection_limits=router._gqlnotify.connection_limits,
        subject=None if viewer is None else viewer.principal.subject,
        refuse=partial(refusal, router, request),
        send_timeout=router._gqlnotify.settings.send_timeout,
    )


def refusal(router: Router, request: Request, error: NotifyError | HTTPException) -> Response:
    """Return the response that refuses a request with `error`, and count it."""
    if isinstance(error, HTTPException):
        return _error_response(router, request, _status(error), [{"message": error.reason}])
    refused(error.code)
    if isinstance(error, InternalError):
        logger.error("A request failed", exc_info=error)
    response = _error_response(router, request, error.http_status, [error.formatted()])
    if "retryAfter" in error.extensions:
        response.headers["retry-after"] = str(error.extensions["retryAfter"])
    return response


def _error_response(
    router: Router, request: Request, status: int, errors: list[dict[str, Any]]
) -> Response:
    body = router.encode_json({"errors": errors})
    media_type = negotiate(request.headers.get("accept"))
    response = Response(body, status_code=status, media_type=media_type)
    if status == Unauthenticated.http_status:
        response.headers["www-authenticate"] = "Bearer"
    if status == 405:
        response.headers["allow"] = "POST"
    return response


def _encoded_response(router: Router, create: Callable[[Any], Response], data: Any) -> Response:
    """Return `create(data)`. Errors replace the parts of `data` that JSON can't represent."""
    try:
        return create(data)
    except execution.NOT_JSON:
        logger.exception("A result can't be encoded")
    if isinstance(data, list):
        told: Any = [each if _is_encodable(router, each) else _unencodable(each) for each in data]
    else:
        told = _unencodable(data)
    return create(told)


def _is_encodable(router: Router, data: object) -> bool:
    try:
        router.encode_json(data)
    except execution.NOT_JSON:
        return False
    return True


async def _with_their_names(
    router: Router, request: AsyncHTTPRequestAdapter, operations: Sequence[GraphQLRequestData]
) -> list[GraphQLRequestData]:
    # Strawberry ignores document ids.
    parameters: Any = {}
    if request.method == "GET":
        parameters = dict(request.query_params)
    elif media_type(request.content_type) == JSON:
        parameters = router.parse_json(await request.get_body())
    several = parameters if isinstance(parameters, list) else [parameters] * len(operations)
    return [_named(single, own) for single, own in zip(operations, several, strict=True)]


def _unencodable(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the error sent in place of a response, or a part, that is not valid JSON."""
    if "payload" in response:
        return {**response, "payload": _unencodable(response["payload"])}
    result = ExecutionResult(response.get("data"), None, response.get("extensions"))
    told = execution.payload_of(execution.unencodable(result))
    return {**told, "hasNext": response["hasNext"]} if "hasNext" in response else told


def document_id_of(request_data: GraphQLRequestData) -> str | None:
    """Return the document id of a request, or None."""
    return request_data.document_id if isinstance(request_data, RequestData) else None


def _named(single: GraphQLRequestData, parameters: dict[str, Any]) -> RequestData:
    name = find_document_id({**parameters, "extensions": single.extensions})
    return RequestData(**vars(single), document_id=name)


def _status(error: HTTPException) -> int:
    if isinstance(error.__cause__, InvalidOperationTypeError):
        return 405
    return 415 if error.reason == _UNSUPPORTED else int(error.status_code)


def _allowed(router: Router, method: HTTPMethod) -> set[OperationType]:
    # Strawberry lets subscriptions through, and graphql-core executes them like a query.
    allowed = OperationType.from_http(method) - {OperationType.SUBSCRIPTION}
    by_get = router.allow_queries_via_get or method != "GET"
    return allowed if by_get else allowed - {OperationType.QUERY}


def _needs_a_stream(router: Router) -> BadUserInput:
    """Return the error for a subscription by a client that accepts no stream."""
    streams = (transport.headers["Content-Type"] for transport in _streams(router))
    ways = [f"over WebSocket with {name}" for name in router.websocket_subprotocols]
    ways += [f"over HTTP with Accept: {stream}" for stream in streams]
    offered = ", or ".join(ways) if ways else "over no transport, as none is turned on"
    return BadUserInput(f"Subscriptions are served as streams: {offered}")


def _streams(router: Router) -> Collection[HTTPStreamTransport]:
    return stream_transports(router)


async def _protocol_for(
    router: Router, data: GraphQLRequestData, accept: str | None, asker: Hashable
) -> GraphQLRequestProtocol:
    """Return the protocol of the response: a stream for a subscription, JSON for all others.

    A client that accepts only a stream gets one if it can carry queries and mutations.
    """
    streams = [(stream_quality(accept, each.accepts), each) for each in _streams(router)]
    quality, stream = max(streams, key=itemgetter(0), default=(0.0, None))
    if stream is None or quality <= 0:
        return "http"
    executions = router._gqlnotify.executions(router.schema)
    query = executions.persisted.peek(data.query, document_id_of(data))
    if await execution.is_subscription(executions, query, data.operation_name, asker):
        return stream.protocol
    takes_all = OperationType.QUERY in stream.allowed_operation_types(set(OperationType))
    return stream.protocol if takes_all and quality > single_quality(accept) else "http"


def _is_upload(router: Router, media_type: str) -> bool:
    return router.multipart_uploads_enabled and media_type == FORM


def bound_to_setting(router: Router, request: Request) -> None:
    """Limit the request's body to what the settings allow.

    Raises:
        BodyTooBig: the `Content-Length` header announces more.
    """
    settings = router._gqlnotify.settings
    if _is_upload(router, media_type(request.headers.get("content-type"))):
        bound_body(request, settings.upload_max_bytes, "GQLNOTIFY_UPLOAD_MAX_BYTES")
    else:
        bound_body(request, settings.body_max_bytes, "GQLNOTIFY_BODY_MAX_BYTES")
