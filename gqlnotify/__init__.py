"""GraphQL subscriptions for FastAPI and Strawberry that lose no event."""

from gqlnotify import errors
from gqlnotify.auth import Principal, authorize, current_principal
from gqlnotify.brokers import Broker
from gqlnotify.event import Cursor, Event, Topic
from gqlnotify.plugin import GraphQLRouter
from gqlnotify.settings import Settings
from gqlnotify.topics import Subscription, TopicManager

__all__ = [
    "Broker",
    "Cursor",
    "Event",
    "GraphQLRouter",
    "Principal",
    "Settings",
    "Subscription",
    "Topic",
    "TopicManager",
    "authorize",
    "current_principal",
    "errors",
]
