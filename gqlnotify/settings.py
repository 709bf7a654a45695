"""Every option, its default and its name in the environment (`GQLNOTIFY_` and the field's name)."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

Algorithm = Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]


class Settings(BaseSettings):
    """Read from the environment unless given by name. Durations are seconds, sizes bytes."""

    model_config = SettingsConfigDict(
        env_prefix="GQLNOTIFY_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    broker_url: str = Field(default="memory://", description="Where topics live")
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

    event_max_bytes: int = Field(default=128 * 1024, gt=0, description="Size of one encoded event")
    history_length: int = Field(default=1000, gt=0, description="How many events a topic remembers")
    history_seconds: float = Field(
        default=3600, gt=0, description="How long a topic remembers an event"
    )
