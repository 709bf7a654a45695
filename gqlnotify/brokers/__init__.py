"""Brokers keep the history of topics and carry events between processes."""

from gqlnotify.brokers.base import Broker, Deliver
from gqlnotify.brokers.memory import MemoryBroker
from gqlnotify.settings import Settings

__all__ = ["Broker", "Deliver", "MemoryBroker", "from_settings"]


def from_settings(settings: Settings) -> Broker:
    """Return the broker that the scheme of `settings.broker_url` names.

    Raises:
        ValueError: no broker goes by that scheme.
    """
    scheme = settings.broker_url.partition("://")[0]
    if scheme == "memory":
        return MemoryBroker(length=settings.history_length, seconds=settings.history_seconds)
    raise ValueError(
        f"GQLNOTIFY_BROKER_URL has the scheme {scheme!r}; this version knows memory://"
    )
