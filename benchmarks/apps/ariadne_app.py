"""Ariadne, as its documentation shows it. It runs in an environment of its own."""
# mypy: disable-error-code="import-not-found,untyped-decorator"

from collections.abc import AsyncIterator
from typing import Any

from ariadne import MutationType, ObjectType, QueryType, SubscriptionType, make_executable_schema
from ariadne.asgi import GraphQL
from ariadne.asgi.handlers import GraphQLTransportWSHandler
from ariadne.exceptions import WebSocketConnectionError
from jose import JWTError, jwt

from benchmarks.apps.common import SECRET, Rooms, fields

TYPES = """
type Query { ok: Boolean! }
type Mutation { publish(count: Int!, room: String!): Int! }
type Subscription { events(room: String!, tag: Int): Event! }
type Event { seq: Int!  sentAt: Float!  kind: String!  text: String! }
"""

rooms: Rooms[dict[str, Any]] = Rooms()
query, mutation, subscription = QueryType(), MutationType(), SubscriptionType()
event_type = ObjectType("Event")
event_type.set_alias("sentAt", "sent_at")
query.set_field("ok", lambda *_: True)


@mutation.field("publish")
async def publish(_root: Any, _info: Any, count: int, room: str) -> int:
    """Publish so many events in one go."""
    for _ in range(count):
        rooms.publish(room, fields())
    return count


@subscription.source("events")
async def listen(
    _root: Any,
    _info: Any,
    room: str,
    tag: int | None = None,  # noqa: ARG001
) -> AsyncIterator[dict[str, Any]]:
    """Deliver what is published in the room."""
    async for event in rooms.listen(room):
        yield event


@subscription.field("events")
def events(event: dict[str, Any], _info: Any, room: str, tag: int | None = None) -> dict[str, Any]:  # noqa: ARG001
    """Return the event itself."""
    return event


def check_token(_websocket: Any, params: Any) -> None:
    """Refuse a connection without a good token, where one is asked for."""
    if not SECRET:
        return
    try:
        jwt.decode(str(params["Authorization"])[7:], SECRET, algorithms=["HS256"])
    except (JWTError, KeyError, TypeError) as error:
        raise WebSocketConnectionError from error


graphql = GraphQL(
    make_executable_schema(TYPES, query, mutation, subscription, event_type),
    websocket_handler=GraphQLTransportWSHandler(on_connect=check_token),
)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve GraphQL alone."""
    if scope["type"] in {"http", "websocket"}:
        await graphql(scope, receive, send)
