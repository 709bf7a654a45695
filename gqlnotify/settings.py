"""Every option, its default and its name in the environment (`GQLNOTIFY_` and the field's name)."""

import logging
import os
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from gqlnotify.event import is_reserved, matches

PREFIX = "GQLNOTIFY_"

logger = logging.getLogger("gqlnotify.settings")

Algorithm = Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an address, can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Bounds(BaseModel, frozen=True, extra="forbid"):
    """How much a topic remembers: so many events, and none longer than so many seconds."""

    length: int = Field(default=1000, gt=0)
    seconds: float = Field(default=3600, gt=0)


CLOCK_SKEW = 30.0
"""How far the clocks of two machines may be apart, in seconds."""

MAX_LIFETIME = 30 * 24 * 3600.0
_HUNDRED_YEARS = 100 * 365 * 24 * 3600.0


def bounds_of_revocations(longest_life: float) -> Bounds:
    """Return how much gqlnotify's own topics remember where tokens live so many seconds at most.

    A revocation outlasts the tokens that it is about. It is dropped from the history a while after
    all processes have forgotten it.
    """
    seconds = min(longest_life + 10 * CLOCK_SKEW, _HUNDRED_YEARS)
    return Bounds(length=500_000, seconds=seconds)


class Retention:
    """The bounds of every topic: those of the first pattern that fits, or the default ones.

    What a pattern's bounds leave out is as in the default. gqlnotify's own topics have a default
    of their own, and only a pattern that names them changes it: `*` is not about them.
    """

    def __init__(
        self,
        length: int,
        seconds: float,
        per_topic: Mapping[str, Bounds],
        *,
        longest_life: float = MAX_LIFETIME,
    ) -> None:
        self._default = Bounds(length=length, seconds=seconds)
        self._reserved = bounds_of_revocations(longest_life)
        self._per_topic = {
            pattern: self._combined(pattern, bounds) for pattern, bounds in per_topic.items()
        }

    def of(self, topic: str) -> Bounds:
        """Return the bounds of `topic`."""
        for pattern, bounds in self._per_topic.items():
            if matches(pattern, topic) and is_reserved(pattern) == is_reserved(topic):
                return bounds
        return self._default_of(topic)

    def _default_of(self, name: str) -> Bounds:
        return self._reserved if is_reserved(name) else self._default

    def _combined(self, pattern: str, bounds: Bounds) -> Bounds:
        given = bounds.model_dump(exclude_unset=True)
        if is_reserved(pattern) and "seconds" in given:
            given["seconds"] = max(given["seconds"], self._reserved.seconds)
        return self._default_of(pattern).model_copy(update=given)


class Settings(BaseSettings):
    """Read from the environment unless given by name. Durations are seconds, sizes bytes.

    Variables that begin as ours do and are no settings are named in a warning.

    Raises:
        ValueError: a value is not what it should be, or an argument is no setting.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    broker_url: str = Field(default="memory://", repr=False, description="Where topics live")
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
        default="sqlite:///gqlnotify.db",
        repr=False,
        description="Where the task service keeps its tasks",
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
    jwt_leeway: float = Field(
        default=10,
        ge=0,
        le=300,
        description="How far `nbf` and `iat` may be ahead of the server's clock",
    )
    jwt_max_lifetime: float = Field(
        default=MAX_LIFETIME,
        gt=0,
        description="How long a token may live, and how long a revocation is remembered",
    )
    jwks_url: str | None = Field(
        default=None, description="Where the public keys are, by `kid`, instead of a secret"
    )
    jwks_cache: float = Field(default=300, gt=0, description="How long fetched keys are good")
    jwks_timeout: float = Field(default=5, gt=0, description="How long fetching them may take")
    max_failed_authentications: int = Field(
        default=20, gt=0, description="Bad tokens from one address a minute, before it has to wait"
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="Pages of other origins that may open a socket, as JSON; `*` for any",
    )

    max_connections: int = Field(default=10_000, gt=0, description="Sockets at once in a process")
    max_connections_per_subject: int = Field(
        default=100, gt=0, description="Sockets at once of one subject in a process"
    )
    new_topics_per_subject: int = Field(
        default=500,
        gt=0,
        description="Topics that a process does not know yet and one subject may ask for at once, "
        "and as many again in an hour",
    )
    handshake_timeout: float = Field(
        default=10, gt=0, description="How long a connection may take to send its first request"
    )
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
        default=64 * 1024, gt=0, description="Size of one message from a client"
    )
    body_max_bytes: int = Field(
        default=1024 * 1024, gt=0, description="Size of the body of one request over HTTP"
    )
    upload_max_bytes: int = Field(
        default=10 * 1024 * 1024,
        gt=0,
        description="Size of the body of one multipart request with uploads, where those are on",
    )
    message_rate: float = Field(
        default=100, gt=0, description="Messages a second that a connection may send for long"
    )
    message_burst: int = Field(
        default=1000, gt=0, description="Messages that a connection may send at once"
    )
    outgoing_max_bytes: int = Field(
        default=1024 * 1024,
        gt=0,
        description="What may wait for a peer before nothing more is begun",
    )
    send_timeout: float = Field(
        default=30, gt=0, description="How long a peer may read nothing of what waits for it"
    )

    query_max_tokens: int = Field(default=5000, gt=0, description="Tokens of one document")
    query_max_depth: int = Field(default=50, gt=0, description="How deep fields may be nested")
    query_max_aliases: int = Field(default=500, gt=0, description="Aliases in one operation")
    query_max_complexity: int = Field(
        default=2500,
        gt=0,
        description="Fields, spreads and uses of variables of a document, fragments written out",
    )
    extensions_max_bytes: int = Field(
        default=8 * 1024, gt=0, description="Size of an operation's `extensions`, as JSON"
    )
    introspection: bool = Field(default=True, description="Answer questions about the schema")
    persisted_operations: Path | None = Field(
        default=None, description="A file of documents that clients can name by their hash"
    )
    only_persisted: bool = Field(default=False, description="Refuse every other document")

    execution_timeout: float = Field(
        default=30, gt=0, description="How long the resolvers of one event may take"
    )
    execution_concurrency: int = Field(
        default=64,
        gt=0,
        description="Events of one group of subscriptions whose resolvers run at the same time",
    )
    replay_rate: float = Field(
        default=1000,
        gt=0,
        description="Events a second that are executed for those of one subject who catch up",
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

    drain_window: float = Field(
        default=5, ge=0, description="Over how long a stopping server closes its sockets"
    )
    outbox_max_lag: float = Field(
        default=30, gt=0, description="How old an unsent event makes the task service not ready"
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="How `gqlnotify serve` writes its log"
    )

    @property
    def names_a_key(self) -> bool:
        """Whether there is something to check tokens with."""
        return self.jwt_secret is not None or self.jwks_url is not None

    @property
    def longest_life(self) -> float:
        """How long a token may live, in seconds; infinity where it need not expire."""
        return self.jwt_max_lifetime if self.jwt_require_exp else inf

    @field_validator("history_per_topic")
    @classmethod
    def _remembers_revocations(
        cls, per_topic: dict[str, Bounds], info: ValidationInfo
    ) -> dict[str, Bounds]:
        # Where either is wrong itself, that is what is told.
        longest = info.data.get("jwt_max_lifetime", 0) if info.data.get("jwt_require_exp") else inf
        for pattern, bounds in per_topic.items():
            if is_reserved(pattern) and "seconds" in bounds.model_fields_set:
                _require_memory(pattern, bounds.seconds, longest)
        return per_topic

    @property
    def retention(self) -> Retention:
        """How much each topic remembers."""
        return Retention(
            self.history_length,
            self.history_seconds,
            self.history_per_topic,
            longest_life=self.longest_life,
        )

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Say which arguments and variables are no settings; pydantic ignores both in silence."""
        if settings_cls.model_config.get("extra") == "ignore":
            _refuse_unknown(init_settings(), settings_cls)
        for name, nearest in unknown_variables(settings_cls).items():
            warn_once(logger, f"{name} is not a setting and has no effect{did_you_mean(nearest)}")
        return init_settings, env_settings, dotenv_settings, file_secret_settings


def _require_memory(pattern: str, seconds: float, longest: float) -> None:
    if seconds < min(longest, _HUNDRED_YEARS):
        life = (
            "without end, as GQLNOTIFY_JWT_REQUIRE_EXP is off" if longest == inf else f"{longest} s"
        )
        raise ValueError(
            f"{pattern!r} is remembered for {seconds} s and a token may live {life}, so a revoked "
            'token would be good again. Leave "seconds" out, or shorten GQLNOTIFY_JWT_MAX_LIFETIME'
        )


def unknown_variables(settings: type[BaseSettings] = Settings) -> dict[str, str | None]:
    """Return each variable `GQLNOTIFY_*` that is not a setting, with the setting nearest to it."""
    known = [PREFIX + name.upper() for name in settings.model_fields]
    found = [name for name in os.environ if name.upper().startswith(PREFIX)]
    return {
        name: _nearest(name.upper().removeprefix(PREFIX), known)
        for name in sorted(found)
        if name.upper() not in known
    }


def _refuse_unknown(arguments: Mapping[str, object], settings: type[BaseSettings]) -> None:
    fields = settings.model_fields
    known = {*fields, *(field.validation_alias for field in fields.values())}
    for name in arguments:
        if name not in known:
            nearest = _nearest(name, list(fields))
            raise ValueError(f"{name!r} is not a setting{did_you_mean(nearest)}")


def _nearest(name: str, known: list[str]) -> str | None:
    # The prefix, which all have, would make any two names look similar.
    short = {each.removeprefix(PREFIX): each for each in known}
    return next((short[near] for near in get_close_matches(name, short, n=1)), None)


def did_you_mean(nearest: str | None) -> str:
    """Return what to append to the name of something unknown."""
    return "" if nearest is None else f"; did you mean {nearest}?"


@cache
def warn_once(log: logging.Logger, text: str) -> None:
    """Log a warning, once in this process."""
    log.warning(text)
