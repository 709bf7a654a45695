"""GraphQL subscriptions for FastAPI and Strawberry that lose no event."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gqlnotify import errors
from gqlnotify.auth import Principal, authorize, current_principal
from gqlnotify.brokers import Broker
from gqlnotify.drain import is_draining
from gqlnotify.event import Cursor, Event, Topic, escape_segment, unescape_segment
from gqlnotify.observability import metrics
from gqlnotify.settings import Settings
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.subscription import Subscription

if TYPE_CHECKING:
    from gqlnotify.http.cors import add_cors
    from gqlnotify.plain.router import topic_router
    from gqlnotify.router import GraphQLRouter
    from gqlnotify.topics.publisher import Publisher

__all__ = [
    "Broker",
    "Cursor",
    "Event",
    "GraphQLRouter",
    "Principal",
    "Publisher",
    "Settings",
    "Subscription",
    "Topic",
    "TopicManager",
    "add_cors",
    "authorize",
    "current_principal",
    "errors",
    "escape_segment",
    "is_draining",
    "metrics",
    "topic_router",
    "unescape_segment",
]


# Imported on first use: a process that only publishes needs no FastAPI and no Strawberry.
_ON_DEMAND = {
    "GraphQLRouter": "gqlnotify.router",
    "Publisher": "gqlnotify.topics.publisher",
    "add_cors": "gqlnotify.http.cors",
    "topic_router": "gqlnotify.plain.router",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_DEMAND[name]), name)
