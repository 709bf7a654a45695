"""The router: a drop-in for `strawberry.fastapi.GraphQLRouter`. The one file that wires it all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from inspect import isawaitable, signature
from typing import Any

from cross_web import AsyncHTTPRequestAdapter, HTTPException
from fastapi import Request, Response
from starlette.types import Lifespan
from strawberry import Schema
from strawberry.fastapi import GraphQLRouter as StrawberryRouter
from strawberry.fastapi.context import CustomContext
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_WS_PROTOCOL
from strawberry.types import ExecutionResult
from strawberry.types.graphql import OperationType
from strawberry.types.unset import UNSET
from typing_extensions import TypeVar

from gqlnotify import execution
from gqlnotify.auth import (
    Authenticate,
    May,
    TokenVerifier,
    Viewer,
    current_viewer,
    find_token,
    may,
    viewing,
)
from gqlnotify.errors import BadUserInput, NotifyError, Unauthenticated
from gqlnotify.protocol.messages import strict_json
from gqlnotify.settings import Settings
from gqlnotify.topics import TopicManager
from gqlnotify.transports.graphql_ws import GraphQLTransportWSHandler
from gqlnotify.transports.http import GRAPHQL_RESPONSE, is_request_error, negotiate

Context = TypeVar("Context", default=CustomContext)
RootValue = TypeVar("RootValue", default=None)


class GraphQLRouter(StrawberryRouter[Context, RootValue]):
    """Serves a Strawberry schema over HTTP and `graphql-transport-ws`.

    It takes the arguments and has the hooks of `strawberry.fastapi.GraphQLRouter`, and these:

    Args:
        topics: started and closed with the application.
        settings: the limits and the token key; read from the environment by default.
        authenticate: replaces the check of the token. Given the token (None without one) and the
            connection, it returns a `Principal` or raises `errors.Unauthenticated`.
        may: replaces the decision whether a principal may subscribe or publish to a topic.

    A token is asked for when the settings hold a key or `authenticate` is given. Only
    `graphql-transport-ws` is spoken unless `subscription_protocols` says otherwise.

    Raises:
        ValueError: the legacy protocol is asked for together with tokens, which it can't carry
            safely; or the key does not fit the algorithm.
    """

    graphql_transport_ws_handler_class: Any = GraphQLTransportWSHandler

    def __init__(
        self,
        schema: Schema,
        *args: Any,
        topics: TopicManager | None = None,
        settings: Settings | None = None,
        authenticate: Authenticate | None = None,
        may: May = may,
        **kwargs: Any,
    ) -> None:
        self.schema: Schema
        self.settings = settings or Settings()
        self.topics = topics
        self._authenticate = authenticate or TokenVerifier.from_settings(self.settings)
        self._may = may
        arguments = signature(super().__init__).bind_partial(schema, *args, **kwargs)
        for name, value in self._defaults().items():
            arguments.arguments.setdefault(name, value)
        super().__init__(*arguments.args, **arguments.kwargs)
        self._refuse_legacy_with_tokens()
        if topics is not None:
            self.lifespan_context = _with_topics(topics, self.lifespan_context)

    async def admit(self, token: Any, connection: Any) -> Viewer | None:
        """Return the viewer that `token` makes; None where no token is asked for.

        Raises:
            Unauthenticated: the token will not do.
        """
        if self._authenticate is None:
            return None
        decided = self._authenticate(token, connection)
        return Viewer(await decided if isawaitable(decided) else decided, self._may)

    async def run(self, request: Any, context: Any = UNSET, root_value: Any = UNSET) -> Any:
        """Serve one request; over HTTP, only to those with a token where one is asked for."""
        if self.is_websocket_request(request):
            return await super().run(request, context=context, root_value=root_value)
        try:
            with viewing(await self._http_viewer(request)):
                return await super().run(request, context=context, root_value=root_value)
        except HTTPException as error:
            return self._refuse(request, _status(error), [{"message": error.reason}])
        except NotifyError as error:
            return self._refuse(request, error.http_status, [error.formatted()])

    async def execute_operation(
        self,
        request: Request,
        request_adapter: AsyncHTTPRequestAdapter,
        request_data: GraphQLRequestData | list[GraphQLRequestData],
        context: Any,
        root_value: Any,
        sub_response: Response,
    ) -> Any:
        """Execute; what is streamed carries cursors and can be resumed, as over WebSocket."""
        if not isinstance(request_data, list):
            transport = self._get_stream_transport(request_data.protocol)
            if transport is not None:
                allowed = OperationType.from_http(request_adapter.method)
                operation = execution.Operation(
                    query=request_data.query,
                    operation_name=request_data.operation_name,
                    variables=request_data.variables,
                    extensions=request_data.extensions,
                    viewer=current_viewer(),
                    allowed=frozenset(transport.allowed_operation_types(allowed)),
                )
                return execution.stream(
                    self.schema, operation, context=context, root_value=root_value
                )
        return await super().execute_operation(
            request=request,
            request_adapter=request_adapter,
            request_data=request_data,
            context=context,
            root_value=root_value,
            sub_response=sub_response,
        )

    async def execute_single(self, *args: Any, **kwargs: Any) -> ExecutionResult:
        """Execute; "Unknown operation" is the answer to a well-formed request, not a bad one."""
        try:
            return await super().execute_single(*args, **kwargs)
        except HTTPException as error:
            if isinstance(error.__cause__, CannotGetOperationTypeError):
                return execution.error_result(BadUserInput(error.reason))
            raise

    async def parse_http_body(
        self, request: AsyncHTTPRequestAdapter
    ) -> GraphQLRequestData | list[GraphQLRequestData]:
        """Read the request's parameters, and refuse those of the wrong type."""
        try:
            data = await super().parse_http_body(request)
        except AttributeError as error:
            # Strawberry takes whatever JSON it gets for an object, and asks it for its members.
            raise HTTPException(400, "A GraphQL request is a JSON object") from error
        for single in data if isinstance(data, list) else [data]:
            if not isinstance(single.operation_name, str | None):
                raise HTTPException(400, "The `operationName` must be a string or null")
        return data

    def parse_json(self, data: str | bytes) -> Any:
        """Parse JSON.

        Raises:
            HTTPException: it is none, or nested too deeply; status 400.
        """
        try:
            return self.decode_json(data)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, "Unable to parse request body as JSON") from error

    def decode_json(self, data: str | bytes) -> object:
        """Parse JSON as its RFC has it. See Strawberry's documentation to override it.

        Raises:
            ValueError: it is none, or nested too deeply.
        """
        return strict_json(data)

    async def get_sub_response(self, request: Request) -> Response:
        """Return FastAPI's response for headers and cookies, marked with the media type."""
        response = await super().get_sub_response(request)
        response.media_type = negotiate(request.headers.get("accept"))
        return response

    def create_response(
        self,
        response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse],
        sub_response: Response,
    ) -> Response:
        """Return the answer, in the media type that the client prefers."""
        if sub_response.media_type != GRAPHQL_RESPONSE:
            return super().create_response(response_data, sub_response)
        refused = isinstance(response_data, dict) and is_request_error(response_data)
        if isinstance(response_data, dict) and refused:
            response_data = {k: v for k, v in response_data.items() if k != "data"}  # type: ignore[assignment]
        response = super().create_response(response_data, sub_response)
        response.headers["content-type"] = f"{GRAPHQL_RESPONSE}; charset=utf-8"
        if refused and not sub_response.status_code:
            response.status_code = 400
        return response

    @property
    def graphql_ide_html(self) -> str:
        """The page of the IDE, which must not keep tokens in the browser's storage."""
        # GraphiQL's history holds headers as well, whatever it is told about persisting them.
        careful = "shouldPersistHeaders: false, storage: null"
        return super().graphql_ide_html.replace("shouldPersistHeaders: true", careful)

    async def _http_viewer(self, request: Request) -> Viewer | None:
        if self.should_render_graphql_ide(self.request_adapter_class(request)):
            return None
        header = request.headers.get("authorization")
        return await self.admit(find_token({"authorization": header}), request)

    def _refuse(self, request: Request, status: int, errors: list[dict[str, Any]]) -> Response:
        body = self.encode_json({"errors": errors})
        media_type = negotiate(request.headers.get("accept"))
        response = Response(body, status_code=status, media_type=media_type)
        if status == Unauthenticated.http_status:
            response.headers["www-authenticate"] = "Bearer"
        if status == 405:
            response.headers["allow"] = "POST"
        return response

    def _defaults(self) -> dict[str, Any]:
        return {
            "subscription_protocols": (GRAPHQL_TRANSPORT_WS_PROTOCOL,),
            "connection_init_wait_timeout": timedelta(seconds=self.settings.connection_init_wait),
            "max_subscriptions_per_connection": self.settings.max_operations,
        }

    def _refuse_legacy_with_tokens(self) -> None:
        if self._authenticate is not None and GRAPHQL_WS_PROTOCOL in self.protocols:
            raise ValueError(
                "The legacy subprotocol graphql-ws runs operations without a check of the token; "
                "leave it out of subscription_protocols, or do without tokens"
            )


def _status(error: HTTPException) -> int:
    if isinstance(error.__cause__, InvalidOperationTypeError):
        return 405
    return 415 if error.reason == "Unsupported content type" else int(error.status_code)


def _with_topics(topics: TopicManager, inner: Lifespan[Any]) -> Lifespan[Any]:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        await topics.start()
        try:
            async with inner(app) as state:
                yield state
        finally:
            await topics.close()

    return lifespan
