"""Every option, its default and its name in the environment (`GQLNOTIFY_` and the field's name)."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from gqlnotify.event import matches

Algorithm = Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]


class Bounds(BaseModel, frozen=True, extra="forbid"):
    """How much a topic remembers: so many events, and none longer than so many seconds."""

    length: int = Field(default=1000, gt=0)
    seconds: float = Field(default=3600, gt=0)


class Retention:
    """The bounds of every topic: those of the first pattern that fits, or the default ones.

    What a pattern's bounds leave out is as in the default.
    """

    def __init__(self, length: int, seconds: float, per_topic: Mapping[str, Bounds]) -> None:
        self._default = Bounds(length=length, seconds=seconds)
        self._per_topic = {
            pattern: self._default.model_copy(update=bounds.model_dump(exclude_unset=True))
            for pattern, bounds in per_topic.items()
        }

    def of(self, topic: str) -> Bounds:
        """Return the bounds of `topic`."""
        for pattern, bounds in self._per_topic.items():
            if matches(pattern, topic):
                return bounds
        return self._default


class Settings(BaseSettings):
    """Read from the environment unless given by name. Durations are seconds, sizes bytes."""

    model_config = SettingsConfigDict(
        env_prefix="GQLNOTIFY_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    broker_url: str = Field(default="memory://", description="Where topics live")
    broker_timeout: float = Field(
        default=5, gt=0, description="How long a broker may be silent before it counts as gone"
    )
    broker_wait: float = Field(
        default=10, ge=0, description="How long a start waits for the broker; 0 fails at once"
    )
    broker_prefix: str = Field(
        default="gqlnotify",
        pattern=r"^[A-Za-z0-9_.:-]+$",
        description="The first part of every key and channel in Redis",
    )
    database_url: str = Field(
        default="sqlite:///gqlnotify.db", description="Where the task service keeps its tasks"
    )

    jwt_secret: SecretStr | None = Field(
        default=None, description="HMAC secret, or a PEM public key for RS and ES algorithms"
    )
    jwt_algorithm: Algorithm = Field(
        default="HS256", description="The one algorithm that is accepted"
    )
    jwt_audience: str | None = Field(default=None, description="When set, `aud` must be this")
    jwt_issuer: str | None = Field(default=None, description="When set, `iss` must be this")
    jwt_require_exp: bool = Field(default=True, description="Refuse tokens that never expire")

    connection_init_wait: float = Field(
        default=5, gt=0, description="How long a socket may take to send connection_init"
    )
    ping_interval: float = Field(
        default=20, gt=0, description="How long a client may be silent before it is pinged"
    )
    ping_timeout: float = Field(
        default=20, gt=0, description="How long a pinged client may stay silent"
    )
    max_operations: int = Field(
        default=100, gt=0, description="Operations at once on one connection"
    )
    message_max_bytes: int = Field(
        default=256 * 1024, gt=0, description="Size of one message from a client"
    )

    outcome_cache_bytes: int = Field(
        default=8 * 1024 * 1024,
        ge=0,
        description="Encoded events that are kept for subscribers who come back",
    )
    compress_above: int = Field(
        default=1024,
        ge=0,
        description="Shared messages of this size and more are compressed, once; 0 compresses none",
    )

    event_max_bytes: int = Field(default=128 * 1024, gt=0, description="Size of one encoded event")
    history_length: int = Field(default=1000, gt=0, description="How many events a topic remembers")
    history_seconds: float = Field(
        default=3600, gt=0, description="How long a topic remembers an event"
    )
    history_per_topic: dict[str, Bounds] = Field(
        default={}, description="Other bounds for the topics that fit a pattern, as JSON"
    )
    topic_linger: float = Field(
        default=10, ge=0, description="How long a topic is kept after its last subscriber left"
    )
