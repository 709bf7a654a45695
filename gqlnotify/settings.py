"""The settings. Each field is also an environment variable: `GQLNOTIFY_` and its name."""

import logging
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import AliasChoices, BaseModel, Field, SecretStr, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from gqlnotify.event import PRESENCE_TOPICS, RESERVED, is_reserved, matches

PREFIX = "GQLNOTIFY_"

logger = logging.getLogger("gqlnotify.settings")

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
Algorithm = Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`, a name or an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Bounds(BaseModel, frozen=True, extra="forbid"):
    """How many events a topic keeps, and for how many seconds."""

    length: int = Field(default=1000, gt=0)
    seconds: float = Field(default=3600, gt=0)


CLOCK_SKEW = 30.0
"""The largest difference between the clocks of two machines, in seconds."""

MAX_LIFETIME = 30 * 24 * 3600.0
_HUNDRED_YEARS = 100 * 365 * 24 * 3600.0


SURVEYS = f"{RESERVED}survey."
"""The topics through which processes ask each other begin with this."""
HELLOS = f"{SURVEYS}hellos"
"""The topic that tells which processes exist."""
# The histories of the other ones are not read.
_SURVEYS = Bounds(length=1, seconds=1)
_HELLOS = Bounds(length=10_000, seconds=60)


def bounds_of_revocations(longest_life: float) -> Bounds:
    """Return the limits of gqlnotify's own topics.

    A revocation must live longer than the tokens that it revokes. It stays in the history a little
    longer than in the memory of any process.

    Args:
        longest_life: the longest lifetime of a token, in seconds; may be infinite.
    """
    seconds = min(longest_life + 10 * CLOCK_SKEW, _HUNDRED_YEARS)
    return Bounds(length=500_000, seconds=seconds)


class Retention:
    """The limits of every topic: those of the first pattern that matches, or the defaults.

    A limit that a pattern does not set comes from the defaults. gqlnotify's own topics have other
    defaults. Only patterns that begin with `gqlnotify.` change those, so `*` does not. Nothing
    changes the limits of the topics through which processes ask each other.

    Args:
        length: how many events a topic keeps by default.
        seconds: for how many seconds it keeps them.
        per_topic: other limits, by pattern. The first match counts.
        longest_life: the longest lifetime of a token, in seconds.
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
        """Return the limits of the topic with this name."""
        if topic.startswith(SURVEYS):
            return _HELLOS if topic == HELLOS else _SURVEYS
        for pattern, bounds in self._per_topic.items():
            if matches(pattern, topic) and is_reserved(pattern) == is_reserved(topic):
                return bounds
        return self._default_of(topic)

    def _default_of(self, name: str) -> Bounds:
        if name.startswith(PRESENCE_TOPICS) or not is_reserved(name):
            return self._default
        return self._reserved

    def _combined(self, pattern: str, bounds: Bounds) -> Bounds:
        given = bounds.model_dump(exclude_unset=True)
        if is_reserved(pattern) and "seconds" in given:
            given["seconds"] = max(given["seconds"], self._reserved.seconds)
        return self._default_of(pattern).model_copy(update=given)


class Settings(BaseSettings):
    """The settings of gqlnotify: arguments first, then the environment, then the defaults.

    Durations are in seconds, sizes in bytes. Unknown arguments are refused. Unknown variables
    `GQLNOTIFY_*` are logged as a warning, because other software may set some: Kubernetes sets
    `GQLNOTIFY_PORT` for a service called gqlnotify.

    For settings of its own an application derives a class and adds fields. From then on their
    variables are known, also to `gqlnotify serve`.

    Raises:
        ValueError: a value is invalid, or an argument is not a setting.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        # A refused value may be a secret or a URL with a password.
        hide_input_in_errors=True,
    )

    warns_of_unknown_variables: ClassVar[bool] = True
    """Whether a new object logs variables that set nothing. False where other code checks them."""

    broker_url: str = Field(
        default="memory://",
        repr=False,
        description="The broker: `memory://`, or the URL of a Redis",
    )
    broker_timeout: float = Field(
        default=5,
        gt=0,
        description="How long the broker may be silent before it counts as unreachable",
    )
    broker_wait: float = Field(
        default=10,
        ge=0,
        description="How long a start waits for the broker; with 0 it fails immediately",
    )
    broker_prefix: str = Field(
        default="gqlnotify",
        pattern=r"^[A-Za-z0-9_.:-]+$",
        description="The first part of every key and channel in Redis",
    )

    jwt_secret: SecretStr | None = Field(
        default=None, description="HMAC secret, or a PEM public key for RS and ES algorithms"
    )
    jwt_algorithm: Algorithm = Field(
        default="HS256", description="The only algorithm that is accepted"
    )
    jwt_audience: str | None = Field(
        default=None, description="If set, the `aud` that a token must have"
    )
    jwt_issuer: str | None = Field(
        default=None, description="If set, the `iss` that a token must have"
    )
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
        description="The longest lifetime of a token, and how long a revocation is kept",
    )
    jwks_url: str | None = Field(
        default=None, description="URL of the public keys, selected by `kid`; replaces the secret"
    )
    jwks_cache: float = Field(
        default=300,
        gt=0,
        description="How long fetched keys are used before they are fetched again",
    )
    jwks_timeout: float = Field(default=5, gt=0, description="How long fetching the keys may take")
    token_cookie: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+$",
        description="If set, the cookie with the token of an HTTP request without `Authorization`",
    )
    max_failed_authentications: int = Field(
        default=20,
        gt=0,
        description="Bad tokens from one address in a minute before it has to wait",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="Other origins whose pages may open a socket, and send requests where the "
        "application calls `add_cors`, as JSON; `*` allows all",
    )

    query_token: bool = Field(
        default=False,
        description="Take a plain WebSocket's token from `?token=`, which proxies may log",
    )

    max_connections: int = Field(
        default=10_000, gt=0, description="Open sockets and HTTP streams of a process"
    )
    max_connections_per_subject: int = Field(
        default=100, gt=0, description="Open sockets and HTTP streams of one subject in a process"
    )
    new_topics_per_subject: int = Field(
        default=500,
        gt=0,
        description="Topics that are new to a process and that one subject may ask for; "
        "as many again each hour",
    )
    handshake_timeout: float = Field(
        default=10, gt=0, description="How long a connection may take to send its first request"
    )
    connection_init_wait: float = Field(
        default=5, gt=0, description="How long a socket may take to send `connection_init`"
    )
    ping_interval: float = Field(
        default=20, gt=0, description="How long a client may be silent before it gets a ping"
    )
    ping_timeout: float = Field(
        default=20, gt=0, description="How long a client may take to answer a ping"
    )
    max_operations: int = Field(
        default=100, gt=0, description="Operations that run on one connection at the same time"
    )
    message_max_bytes: int = Field(
        default=64 * 1024, gt=0, description="Size of one message from a client"
    )
    body_max_bytes: int = Field(
        default=1024 * 1024, gt=0, description="Size of the body of one HTTP request"
    )
    upload_max_bytes: int = Field(
        default=10 * 1024 * 1024,
        gt=0,
        description="Size of the body of one multipart request with uploads, if they are enabled",
    )
    message_rate: float = Field(
        default=100,
        gt=0,
        description="Messages per second that a connection may send in the long run",
    )
    message_burst: int = Field(
        default=1000, gt=0, description="Messages that a connection may send in one burst"
    )
    outgoing_max_bytes: int = Field(
        default=1024 * 1024,
        gt=0,
        description="Bytes that may wait for a peer; above this, no new operation starts",
    )
    send_timeout: float = Field(
        default=30, gt=0, description="How long a peer may read nothing while data waits for it"
    )

    query_max_tokens: int = Field(default=5000, gt=0, description="Tokens of one document")
    query_max_depth: int = Field(default=50, gt=0, description="Levels of nested fields")
    query_max_aliases: int = Field(default=500, gt=0, description="Aliases in one operation")
    query_max_complexity: int = Field(
        default=2500,
        gt=0,
        description="Fields, spreads and uses of variables of a document, with fragments expanded",
    )
    extensions_max_bytes: int = Field(
        default=8 * 1024, gt=0, description="Size of an operation's `extensions`, as JSON"
    )
    introspection: bool = Field(default=True, description="Answer queries about the schema")
    persisted_operations: Path | None = Field(
        default=None, description="A file of documents that clients can refer to by hash"
    )
    only_persisted: bool = Field(
        default=False, description="Refuse all documents that are not in that file"
    )

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
        description="Events per second that are executed for one subject that catches up",
    )
    snapshot_reuse: float = Field(
        default=5,
        ge=0,
        description="How long others get the snapshot of a live list; 0: only while it is loaded",
    )
    outcome_cache_bytes: int = Field(
        default=8 * 1024 * 1024,
        ge=0,
        description="Size of the cache of encoded events for subscribers that catch up",
    )
    compress_above: int = Field(
        default=1024,
        ge=0,
        description="Shared messages of at least this size are compressed, once for all; 0: none",
    )

    auto_resume: bool | None = Field(
        default=None,
        description="Whether clients resume without sending a cursor; by default if the server "
        "requires tokens or has anonymous sessions",
    )
    anonymous_sessions: bool = Field(
        default=False,
        description="Tell browsers without tokens apart by a cookie, so that they resume too",
    )
    auto_resume_seconds: float = Field(
        default=300, gt=0, description="How long a client may be away to resume without a cursor"
    )
    ack_interval: float = Field(
        default=0.25,
        gt=0,
        description="Least time between two questions to a client what it has received, and "
        "between two saves of the answers",
    )

    trace_bytes: int = Field(
        default=2_000_000,
        ge=0,
        description="How much the facts for `gqlnotify trace` take in each process; 0: none are "
        "recorded",
    )
    trace_seconds: float = Field(
        default=900, gt=0, description="How long a process keeps these facts"
    )

    event_max_bytes: int = Field(default=128 * 1024, gt=0, description="Size of one encoded event")
    history_length: int = Field(default=1000, gt=0, description="How many events a topic keeps")
    history_seconds: float = Field(
        default=3600, gt=0, description="How long a topic keeps an event"
    )
    history_per_topic: dict[str, Bounds] = Field(
        default={}, description="Other limits for the topics that match a pattern, as JSON"
    )
    topic_linger: float = Field(
        default=10,
        ge=0,
        description="How long a topic stays open after its last subscriber has left",
    )
    presence_grace: float = Field(
        default=5,
        ge=0,
        le=3600,
        description="How long a subject without connections is still shown as present",
    )

    drain_window: float = Field(
        default=5, ge=0, description="How long a stopping server takes to close its sockets"
    )
    log_format: LogFormat = Field(
        default="text", description="Format of the log of `gqlnotify serve`"
    )
    log_level: LogLevel = Field(
        default="info", description="Level at which the log of `gqlnotify serve` begins"
    )

    @property
    def names_a_key(self) -> bool:
        """Whether a secret or a URL of keys is set, so that tokens can be checked."""
        return self.jwt_secret is not None or self.jwks_url is not None

    @property
    def longest_life(self) -> float:
        """The longest lifetime of a token, in seconds. Infinite if tokens may never expire."""
        return self.jwt_max_lifetime if self.jwt_require_exp else inf

    @field_validator("history_per_topic")
    @classmethod
    def _remembers_revocations(
        cls, per_topic: dict[str, Bounds], info: ValidationInfo
    ) -> dict[str, Bounds]:
        # `info.data` lacks fields that are invalid themselves. Then their errors are enough.
        longest = info.data.get("jwt_max_lifetime", 0) if info.data.get("jwt_require_exp") else inf
        for pattern, bounds in per_topic.items():
            if is_reserved(pattern) and "seconds" in bounds.model_fields_set:
                _require_memory(pattern, bounds.seconds, longest)
        return per_topic

    @property
    def retention(self) -> Retention:
        """The limits of each topic's history."""
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
        """Refuse unknown arguments, warn of unknown variables: pydantic ignores both silently.

        Raises:
            ValueError: an argument is not a setting.
        """
        if settings_cls.model_config.get("extra") == "ignore":
            _refuse_unknown(init_settings(), settings_cls)
        if cls.warns_of_unknown_variables:
            for name, nearest in unknown_variables().items():
                hint = did_you_mean(nearest)
                warn_once(logger, f"{name} is not a setting and has no effect{hint}")
        return init_settings, env_settings, dotenv_settings, file_secret_settings


def _require_memory(pattern: str, seconds: float, longest: float) -> None:
    # A hundred years are long enough for tokens that never expire.
    if seconds < min(longest, _HUNDRED_YEARS):
        life = (
            "forever, because GQLNOTIFY_JWT_REQUIRE_EXP is off"
            if longest == inf
            else f"{longest} s"
        )
        raise ValueError(
            f"{pattern!r} keeps revocations for {seconds} s, but a token may live {life}, so a "
            'revoked token would become valid again. Leave "seconds" out, or shorten '
            "GQLNOTIFY_JWT_MAX_LIFETIME"
        )


def unknown_variables() -> dict[str, str | None]:
    """Return each variable `GQLNOTIFY_*` that sets nothing, with the setting of a similar name.

    The known names are those of `Settings` and of all classes derived from it so far. An
    application defines such a class when it is imported, so ask after that.
    """
    known = sorted({name.upper() for name in _variables_of(Settings)})
    found = [name for name in os.environ if name.upper().startswith(PREFIX)]
    return {
        name: _nearest(name.upper().removeprefix(PREFIX), known)
        for name in sorted(found)
        if name.upper() not in known
    }


def _variables_of(settings: type[BaseSettings]) -> Iterator[str]:
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in settings.model_fields.items():
        yield from (prefix + name, *_aliases(field))
    for derived in settings.__subclasses__():
        yield from _variables_of(derived)


def _aliases(field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [choice for choice in choices if isinstance(choice, str)]


def _refuse_unknown(arguments: Mapping[str, object], settings: type[BaseSettings]) -> None:
    fields = settings.model_fields
    known = {*fields, *(alias for field in fields.values() for alias in _aliases(field))}
    for name in arguments:
        if name not in known:
            nearest = _nearest(name, list(fields))
            raise ValueError(f"{name!r} is not a setting{did_you_mean(nearest)}")


def _nearest(name: str, known: list[str]) -> str | None:
    # All names share the prefix. With it, any two of them would be similar.
    short = {each.removeprefix(PREFIX): each for each in known}
    return next((short[near] for near in get_close_matches(name, short, n=1)), None)


def did_you_mean(nearest: str | None) -> str:
    """Return what an error or warning about an unknown name ends with: a suggestion, or nothing."""
    return "" if nearest is None else f"; did you mean {nearest}?"


@cache
def warn_once(log: logging.Logger, text: str) -> None:
    """Log a warning, only the first time in this process."""
    log.warning(text)
