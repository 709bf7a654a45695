"""A router that serves topics over plain WebSockets, for clients without GraphQL."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from fastapi import APIRouter, WebSocket
from starlette.requests import HTTPConnection

from gqlnotify.auth import Authenticate, May, Principal, find_token, may, view_as
from gqlnotify.connections.access import Access
from gqlnotify.connections.handshake_queue import HandshakeQueue
from gqlnotify.connections.lifespan import lifespan_of, tell_the_server
from gqlnotify.connections.origin import AllowedOrigins, foreign_origin
from gqlnotify.event import Cursor, Topic
from gqlnotify.observability.logs import hide_query_tokens
from gqlnotify.plain.handshake import Handshake
from gqlnotify.plain.publishing import Publish
from gqlnotify.plain.socket import Service, TopicSocket
from gqlnotify.settings import Settings
from gqlnotify.topics.manager import TopicManager

_POLICY_VIOLATION = 1008


class HasAccess(Protocol):
    """A router of gqlnotify, such as a `GraphQLRouter`."""

    @property
    def _gqlnotify(self) -> Access: ...


class TopicRouter(APIRouter):
    """The router that `topic_router` returns."""

    _gqlnotify: Access

    async def admit(self, connection: HTTPConnection) -> Principal | None:
        """Check the token of an HTTP request; the rest of the request runs as its viewer.

        Use it as a dependency of your own `async def` routes: `Depends(router.admit)`. Then
        `authorize`, `current_principal` and `publish` work in them as in a resolver. Returns None
        if the router requires no tokens.

        Raises:
            NotifyError: the token is refused. Answer with its `http_status` and `formatted()`.
        """
        token = find_token({"authorization": connection.headers.get("authorization")})
        viewer = await self._gqlnotify.admit(token, connection)
        view_as(viewer)
        return None if viewer is None else viewer.principal


def topic_router(
    topics: TopicManager,
    *,
    publish: Publish | None = None,
    graphql: HasAccess | None = None,
    settings: Settings | None = None,
    authenticate: Authenticate | None = None,
    may: May = may,
    presence: Iterable[Topic[Any]] = (),
) -> TopicRouter:
    """Return a router with `/notifications/{topic}` and `/secure/{topic}`, for plain WebSockets.

    A client gets the events of the topic as JSON, each with its cursor, and resumes with
    `?after=<cursor>`. It needs the right to subscribe to the topic. What it sends is published to
    the topic if its token has the right. `/secure/{topic}` always requires a token, also where the
    settings require none.

    Args:
        topics: the topics of the application. They start and close with it.
        publish: publishes what a client sends. By default the event is the JSON object
            `{"author": <subject>, "data": <what the client sent>}`. Pass your own function if your
            topics have types.
        graphql: a `GraphQLRouter` whose settings, hooks and limits apply. The connections of both
            count together.
        settings: without `graphql`, the limits and the key for tokens; by default from the
            environment.
        authenticate: without `graphql`, replaces the check of the token. See `GraphQLRouter`.
        may: without `graphql`, replaces the decision about rights. See `GraphQLRouter`.
        presence: topics with presence, and families of them. A client that connects to one of them
            is present at it. The name in an address does not say whether its topic has presence.

    Raises:
        ValueError: the key does not fit the algorithm, an allowed origin is not an origin, or
            `graphql` was passed together with settings or hooks.
    """
    if graphql is None:
        settings = settings or Settings()
        access = Access.of(topics, settings, authenticate, may)
        revocations = access.revocations
    else:
        _refuse_both(settings=settings, authenticate=authenticate)
        # The other router's lifespan follows the revocations.
        access, revocations = graphql._gqlnotify, None
    hide_query_tokens()
    router = TopicRouter()
    router._gqlnotify = access
    router.lifespan_context = lifespan_of(
        access.settings, topics, revocations, router.lifespan_context
    )
    service = Service(
        topics, access, publish or _publisher(topics), [each for each in presence if each.presence]
    )
    origins = AllowedOrigins(access.settings.allowed_origins)

    async def serve(websocket: WebSocket, topic: str, *, requires_token: bool) -> None:
        tell_the_server(access.settings)
        origin = foreign_origin(websocket.headers)
        if origin is not None and origin not in origins:
            access.foreign_origins.add(origin)
            await websocket.close(_POLICY_VIOLATION)
            return
        handshake = Handshake.of(
            websocket.headers, websocket.query_params, websocket.scope["subprotocols"]
        )
        await HandshakeQueue.of(asyncio.get_running_loop()).turn()
        await websocket.accept(handshake.subprotocol)
        await TopicSocket(
            service, websocket, topic=topic, handshake=handshake, requires_token=requires_token
        ).handle()

    @router.websocket("/notifications/{topic}")
    async def notifications(websocket: WebSocket, topic: str) -> None:
        await serve(websocket, topic, requires_token=False)

    @router.websocket("/secure/{topic}")
    async def secure(websocket: WebSocket, topic: str) -> None:
        await serve(websocket, topic, requires_token=True)

    return router


def _refuse_both(**arguments: Any) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError(f"topic_router takes {' and '.join(given)} from the router in `graphql`")


def _publisher(topics: TopicManager) -> Publish:
    async def publish(topic: str, data: Any, author: str, /) -> Cursor:
        event: Mapping[str, Any] = {"author": author, "data": data}
        return await topics.publish(topic, event)

    return publish
