"""The router, a drop-in for `strawberry.fastapi.GraphQLRouter`. It connects all other parts."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property, partial
from inspect import signature
from typing import Any

from cross_web import AsyncHTTPRequestAdapter, HTTPException
from fastapi import Request, Response, WebSocket
from fastapi.responses import HTMLResponse
from strawberry import Schema
from strawberry.http import GraphQLRequestData
from strawberry.subscriptions import (
    GRAPHQL_SSE_PROTOCOL,
    GRAPHQL_TRANSPORT_WS_PROTOCOL,
    GRAPHQL_WS_PROTOCOL,
)
from strawberry.types.graphql import OperationType
from strawberry.types.unset import UNSET
from typing_extensions import override

from gqlnotify import execution
from gqlnotify.auth import (
    Authenticate,
    May,
    Viewer,
    find_token,
    may,
    viewing,
)
from gqlnotify.callables import plain_result
from gqlnotify.connections.handshake_queue import HandshakeQueue
from gqlnotify.connections.lifespan import lifespan_of, tell_the_server
from gqlnotify.connections.origin import foreign_origin
from gqlnotify.connections.reservations import Reservations
from gqlnotify.connections.router_state import RouterState
from gqlnotify.connections.session_cookie import begin_session
from gqlnotify.connections.subprotocol import SubprotocolRefusals
from gqlnotify.errors import NotifyError
from gqlnotify.execution.strawberry_adapter import stream_transport
from gqlnotify.http import graphiql, single_connection
from gqlnotify.http.cookie import token_in_cookie
from gqlnotify.http.handler import GraphQLOverHTTP, refusal
from gqlnotify.http.parts import parts_of, takes_parts
from gqlnotify.http.stream_formats import WRAPPERS, ServerSentEvents
from gqlnotify.http.view import Context, RootValue
from gqlnotify.observability import tracing
from gqlnotify.settings import Settings
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.revocation import Revocations
from gqlnotify.websocket.handler import GraphQLTransportWSHandler


class GraphQLRouter(GraphQLOverHTTP[Context, RootValue]):
    """Serves a Strawberry schema over HTTP and `graphql-transport-ws`.

    It has the arguments and hooks of `strawberry.fastapi.GraphQLRouter`, and these arguments:

    Args:
        topics: the topics of the application. They start and close with it. If the router requires
            tokens and you pass none, it makes its own, to learn which tokens are revoked.
        settings: the limits and the key for tokens; by default from the environment.
        authenticate: replaces the check of the token. It gets the token (None if there is none) and
            the connection, and returns a `Principal` or raises `errors.Unauthenticated`.
        may: replaces the decision whether a principal may subscribe or publish to a topic.
        event_context: makes the context for each event of shared subscriptions. It gets the scope
            of the subscriptions and returns the context, an awaitable of it, or a context manager,
            async or not, which is entered before the event is executed and exited afterwards. By
            default the context has only the attribute `scope`.
        console: whether to serve the console, a page and an API for tokens with the right `admin`
            on `console`. Its path, next to that of the router, is `/console` or this text.

    Tokens are required if the settings contain a key, or if you pass `authenticate`. Without
    `subscription_protocols` the only WebSocket subprotocol is `graphql-transport-ws`.

    Raises:
        ValueError: tokens are required, but the legacy subprotocol or another WebSocket handler
            would not check them; the key does not fit the algorithm; an allowed origin is not an
            origin, or is `*` although a cookie may have the token; `auto_resume` is set, but no
            client has a subject or a session; sessions are set, but every client has a subject;
            the console is served although no tokens are required, or its path is not one; or the
            file of persisted operations is invalid, or missing although only persisted operations
            are allowed.
        OSError: the file of persisted operations can't be read.
    """

    graphql_transport_ws_handler_class: Any = GraphQLTransportWSHandler
    temporal_response: Response

    def __init__(
        self,
        schema: Schema,
        *args: Any,
        topics: TopicManager | None = None,
        settings: Settings | None = None,
        authenticate: Authenticate | None = None,
        may: May = may,
        event_context: execution.MakeContext = execution.EventContext,
        console: bool | str = False,
        **kwargs: Any,
    ) -> None:
        settings = settings or Settings()
        arguments = signature(super().__init__).bind_partial(schema, *args, **kwargs)
        for name, value in _defaults(settings).items():
            arguments.arguments.setdefault(name, value)
        if not settings.introspection:
            # GraphiQL does not work without introspection.
            arguments.arguments["graphql_ide"] = None
        super().__init__(*arguments.args, **arguments.kwargs)
        if GRAPHQL_SSE_PROTOCOL in self.protocols:
            _add_methods(self, arguments.arguments.get("path", ""))
        if settings.token_cookie is not None:
            _refuse_any_page(self, settings.token_cookie)
        if self.graphql_ide == "graphiql":
            graphiql.add_files(self, arguments.arguments.get("path", ""))
        make_executions = partial(
            execution.Executions,
            encode=self.encode_json,
            event_context=event_context,
            cache_bytes=settings.outcome_cache_bytes,
            execution_timeout=settings.execution_timeout,
            concurrency=settings.execution_concurrency,
            limits=execution.Limits.from_settings(settings),
            persisted=execution.PersistedOperations.from_settings(settings),
            replay_rate=settings.replay_rate,
            snapshot_reuse=settings.snapshot_reuse,
        )
        requires_tokens = authenticate is not None or settings.names_a_key
        if requires_tokens:
            _refuse_unchecked(self)
            # Revocations are a topic. An application without topics must be able to revoke too.
            topics = topics or TopicManager(settings=settings)
        self._gqlnotify = state = RouterState.of(
            topics,
            settings,
            authenticate,
            may,
            subprotocols=SubprotocolRefusals(),
            reservations=Reservations(settings),
            make_executions=make_executions,
            detachable=type(self).run is GraphQLRouter.run,
            auto_resume=_resumes(settings, requires_tokens=requires_tokens),
        )
        self.lifespan_context = lifespan_of(
            settings,
            topics,
            state.revocations,
            self.lifespan_context,
            auto_resume=state.auto_resume,
        )

        if console:
            _add_console(self, console, topics)

    # Not a property: a subclass may assign an attribute of this name.
    @cached_property
    def revocations(self) -> Revocations | None:
        """Revokes tokens, and knows which are revoked. None if the router requires no tokens."""
        return self._gqlnotify.revocations

    @override
    async def run(self, request: Any, context: Any = UNSET, root_value: Any = UNSET) -> Any:
        """Serve one HTTP request or WebSocket. Over HTTP, a required token is checked first."""
        tell_the_server(self._gqlnotify.settings)
        if self.is_websocket_request(request):
            if self._gqlnotify.authenticate is not None:
                # Checked again: an application can change these attributes after construction.
                _refuse_unchecked(self)
            if not self._check_websocket_origin(request):
                return await self.reject_websocket(request)
            if await self.pick_websocket_subprotocol(request) is None:
                await self._gqlnotify.subprotocols.refuse(request, self.websocket_subprotocols)
                return request
            await HandshakeQueue.of(asyncio.get_running_loop()).turn()
            return await super().run(request, context=context, root_value=root_value)
        response = self.temporal_response
        try:
            viewer = await _http_viewer(self, request)
        except NotifyError as error:
            return refusal(self, request, error)
        # Strawberry keeps it on the router, where another request replaces it during an `await`.
        self.temporal_response = response
        with viewing(viewer):
            try:
                answer = await single_connection.respond(self, request, context, root_value)
            except (HTTPException, NotifyError) as error:
                answer = refusal(self, request, error)
            if answer is not None:
                return answer
            return await super().run(request, context=context, root_value=root_value)

    @override
    async def execute_operation(
        self,
        request: Request,
        request_adapter: AsyncHTTPRequestAdapter,
        request_data: GraphQLRequestData | list[GraphQLRequestData],
        context: Any,
        root_value: Any,
        sub_response: Response,
    ) -> Any:
        """Execute an operation. A stream has cursors and can be resumed, as over WebSocket."""
        if not isinstance(request_data, list):
            transport = stream_transport(self, request_data.protocol)
            if transport is not None:
                allowed = OperationType.from_http(request_adapter.method)
                if not self.allow_queries_via_get and request_adapter.method == "GET":
                    allowed = allowed - {OperationType.QUERY}
                parts = parts_of(
                    self,
                    request,
                    request_data,
                    context=context,
                    root_value=root_value,
                    allowed=transport.allowed_operation_types(allowed),
                    wrap=WRAPPERS.get(type(transport)),
                )
                tells_position = type(transport) is ServerSentEvents and takes_parts(self)
                return parts if tells_position else execution.without_positions(parts)
        with tracing.span("operation", lambda: _span_attributes(request_data)):
            return await super().execute_operation(
                request=request,
                request_adapter=request_adapter,
                request_data=request_data,
                context=context,
                root_value=root_value,
                sub_response=sub_response,
            )

    @override
    async def create_websocket_response(
        self, request: WebSocket, subprotocol: str | None
    ) -> WebSocket:
        """Accept the WebSocket. If the settings say so, give an anonymous browser a session."""
        if not self._gqlnotify.settings.anonymous_sessions:
            return await super().create_websocket_response(request, subprotocol)
        await request.accept(subprotocol, begin_session(request))
        return request

    @override
    def _check_websocket_origin(self, request: Any) -> bool:
        # Strawberry's method logs each refusal, so any page could fill the log.
        origin = foreign_origin(request.headers)
        if origin is None or _allows(self, request, origin):
            return True
        self._gqlnotify.foreign_origins.add(origin)
        return False

    @override
    async def render_graphql_ide(self, request: Request) -> HTMLResponse:
        """Return the page of the IDE. GraphiQL is ours, the others are Strawberry's."""
        changed = type(self).graphql_ide_html is not GraphQLRouter.graphql_ide_html
        if self.graphql_ide != "graphiql" or changed:
            return await super().render_graphql_ide(request)
        return graphiql.page(request)

    @property
    @override
    def graphql_ide_html(self) -> str:
        """Strawberry's page, for a subclass that shows it. It keeps no tokens in the browser."""
        # Its history stores headers too, even with `shouldPersistHeaders: false`.
        careful = "shouldPersistHeaders: false, storage: null"
        return super().graphql_ide_html.replace("shouldPersistHeaders: true", careful)


async def _http_viewer(router: GraphQLRouter[Any, Any], request: Request) -> Viewer | None:
    if router.should_render_graphql_ide(router.request_adapter_class(request)):
        return None
    token = find_token({"authorization": request.headers.get("authorization")})
    if token is None:
        token = token_in_cookie(
            request,
            router._gqlnotify.settings.token_cookie,
            partial(_allows, router, request),
        )
    return await router._gqlnotify.admit(token, request)


def _allows(router: GraphQLRouter[Any, Any], connection: Any, origin: str) -> bool:
    allowed = router.is_websocket_origin_allowed(connection, origin)
    return bool(plain_result(allowed, "is_websocket_origin_allowed"))


def _defaults(settings: Settings) -> dict[str, Any]:
    return {
        "context_getter": _no_context,
        "subscription_protocols": (GRAPHQL_TRANSPORT_WS_PROTOCOL,),
        "connection_init_wait_timeout": timedelta(seconds=settings.connection_init_wait),
        "max_subscriptions_per_connection": settings.max_operations,
        "allowed_origins": settings.allowed_origins,
    }


def _resumes(settings: Settings, *, requires_tokens: bool) -> bool:
    if requires_tokens and settings.anonymous_sessions:
        raise ValueError(
            "GQLNOTIFY_ANONYMOUS_SESSIONS has no effect if tokens are required, because every "
            "client has a subject. Leave it out"
        )
    knows_clients = requires_tokens or settings.anonymous_sessions
    if settings.auto_resume and not knows_clients:
        raise ValueError(
            "GQLNOTIFY_AUTO_RESUME needs to know the clients: without a subject, any client could "
            "continue the operations of another. Require tokens, set GQLNOTIFY_ANONYMOUS_SESSIONS, "
            "or leave the setting out"
        )
    return knows_clients and settings.auto_resume is not False


def _refuse_unchecked(router: GraphQLRouter[Any, Any]) -> None:
    if GRAPHQL_WS_PROTOCOL in router.websocket_subprotocols:
        raise ValueError(
            "The legacy subprotocol graphql-ws runs operations without a check of the token. "
            "Remove it from subscription_protocols, or do not require tokens"
        )
    handler = router.graphql_transport_ws_handler_class
    if GraphQLTransportWSHandler not in getattr(handler, "__mro__", ()):
        raise ValueError(
            f"The graphql_transport_ws_handler_class {handler!r} runs operations without a check "
            f"of the token. Derive it from {GraphQLTransportWSHandler.__module__}."
            f"{GraphQLTransportWSHandler.__name__}, or do not require tokens"
        )


def _add_methods(router: GraphQLRouter[Any, Any], path: str) -> None:
    """Serve the methods of the single connection mode of GraphQL over SSE."""

    async def serve(request: Request, response: Response) -> Any:
        router.temporal_response = response
        return await router.run(request, context=None, root_value=None)

    router.add_api_route(
        path, serve, methods=single_connection.METHODS, include_in_schema=False, response_model=None
    )


def _add_console(
    router: GraphQLRouter[Any, Any], console: bool | str, topics: TopicManager | None
) -> None:
    # Its schema takes a tenth of a second to build, which other applications need not wait for.
    from gqlnotify.console.mount import console_router, path_of  # noqa: PLC0415

    state = router._gqlnotify
    path = path_of(console, state)
    assert topics is not None
    assert state.authenticate is not None
    router.include_router(
        console_router(
            topics,
            settings=state.settings,
            authenticate=state.authenticate,
            may=state.may,
            make_router=GraphQLRouter,
        ),
        prefix=path,
    )


def _refuse_any_page(router: GraphQLRouter[Any, Any], cookie: str) -> None:
    if "*" in router.allowed_origins:
        raise ValueError(
            "With * in GQLNOTIFY_ALLOWED_ORIGINS, every page could use the token that a visitor "
            f"has in the cookie {cookie!r}. Name the origins, or unset GQLNOTIFY_TOKEN_COOKIE"
        )


def _span_attributes(data: GraphQLRequestData | list[GraphQLRequestData]) -> Mapping[str, str]:
    return {} if isinstance(data, list) else tracing.operation(data.query, data.operation_name)


async def _no_context() -> None:
    # Strawberry's default is a plain function, and FastAPI would run it in a thread for each
    # connection.
    return None
