"""Brokers keep the history of topics and carry events between processes."""

from gqlnotify.brokers.base import Broker, Deliver, OnPossibleGap
from gqlnotify.brokers.memory import MemoryBroker
from gqlnotify.settings import Settings

__all__ = ["Broker", "Deliver", "MemoryBroker", "OnPossibleGap", "from_settings"]


def from_settings(settings: Settings) -> Broker:
    """Return the broker that the scheme of `settings.broker_url` names.

    Raises:
        ValueError: There is no broker for this scheme, or the rest of the URL is wrong.
    """
    scheme = settings.broker_url.partition("://")[0]
    if scheme == "memory":
        return MemoryBroker(
            length=settings.history_length,
            seconds=settings.history_seconds,
            per_topic=settings.history_per_topic,
            longest_life=settings.longest_life,
        )
    # An application with the memory broker does not need redis-py.
    from gqlnotify.brokers import redis  # noqa: PLC0415

    if scheme not in redis.SCHEMES:
        known = ", ".join(f"{each}://" for each in ("memory", *redis.SCHEMES))
        raise ValueError(
            f"GQLNOTIFY_BROKER_URL has the unknown scheme {scheme!r}: use one of {known}"
        )
    return redis.from_settings(settings)
