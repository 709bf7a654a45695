"""GraphQL subscriptions for FastAPI and Strawberry that lose no event."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gqlnotify import errors
    from gqlnotify.auth import Action, Principal, authorize, current_principal, may
    from gqlnotify.brokers import Broker
    from gqlnotify.brokers.presence import Changed, Joined, Left, Member, Present
    from gqlnotify.drain import is_draining
    from gqlnotify.event import Cursor, Event, Topic, escape_segment, unescape_segment
    from gqlnotify.http.cors import add_cors
    from gqlnotify.observability import metrics
    from gqlnotify.plain.router import topic_router
    from gqlnotify.router import GraphQLRouter
    from gqlnotify.settings import Settings
    from gqlnotify.topics.live_list import Change, LiveList, Snapshot
    from gqlnotify.topics.manager import TopicManager
    from gqlnotify.topics.publisher import Publisher
    from gqlnotify.topics.subscription import Subscription

__all__ = [
    "Action",
    "Broker",
    "Change",
    "Changed",
    "Cursor",
    "Event",
    "GraphQLRouter",
    "Joined",
    "Left",
    "LiveList",
    "Member",
    "Present",
    "Principal",
    "Publisher",
    "Settings",
    "Snapshot",
    "Subscription",
    "Topic",
    "TopicManager",
    "add_cors",
    "authorize",
    "current_principal",
    "errors",
    "escape_segment",
    "is_draining",
    "may",
    "metrics",
    "topic_router",
    "unescape_segment",
]


# Imported on first use: a process that only publishes needs no FastAPI and no Strawberry. And with
# our plugin, pytest imports this file in every project that has gqlnotify installed.
_HOMES = {
    "Action": "gqlnotify.auth",
    "Broker": "gqlnotify.brokers",
    "Change": "gqlnotify.topics.live_list",
    "Changed": "gqlnotify.brokers.presence",
    "Cursor": "gqlnotify.event",
    "Event": "gqlnotify.event",
    "GraphQLRouter": "gqlnotify.router",
    "Joined": "gqlnotify.brokers.presence",
    "Left": "gqlnotify.brokers.presence",
    "LiveList": "gqlnotify.topics.live_list",
    "Member": "gqlnotify.brokers.presence",
    "Present": "gqlnotify.brokers.presence",
    "Principal": "gqlnotify.auth",
    "Publisher": "gqlnotify.topics.publisher",
    "Settings": "gqlnotify.settings",
    "Snapshot": "gqlnotify.topics.live_list",
    "Subscription": "gqlnotify.topics.subscription",
    "Topic": "gqlnotify.event",
    "TopicManager": "gqlnotify.topics.manager",
    "add_cors": "gqlnotify.http.cors",
    "authorize": "gqlnotify.auth",
    "current_principal": "gqlnotify.auth",
    "escape_segment": "gqlnotify.event",
    "is_draining": "gqlnotify.drain",
    "may": "gqlnotify.auth",
    "topic_router": "gqlnotify.plain.router",
    "unescape_segment": "gqlnotify.event",
}
_MODULES = {"errors": "gqlnotify.errors", "metrics": "gqlnotify.observability.metrics"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
