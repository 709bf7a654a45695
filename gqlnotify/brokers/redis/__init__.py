"""Topics in Redis, shared by any number of processes on any number of machines."""

from gqlnotify.brokers.redis.broker import RedisBroker
from gqlnotify.brokers.redis.publisher import Message, Sender
from gqlnotify.brokers.redis.url import SCHEMES
from gqlnotify.settings import Settings

__all__ = ["SCHEMES", "Message", "RedisBroker", "Sender", "from_settings"]


def from_settings(settings: Settings) -> RedisBroker:
    """Return the broker that the settings describe.

    Raises:
        ValueError: `broker_url` is not a valid URL of Redis.
    """
    return RedisBroker(
        settings.broker_url,
        length=settings.history_length,
        seconds=settings.history_seconds,
        per_topic=settings.history_per_topic,
        longest_life=settings.longest_life,
        timeout=settings.broker_timeout,
        prefix=settings.broker_prefix,
    )
