"""The subject of a token, and the topics that it gives rights to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from gqlnotify.event import matches

Action = Literal["subscribe", "publish"]


@dataclass(frozen=True)
class Principal:
    """The subject of a token, and the topics that it gives rights to.

    `subscribe` and `publish` are patterns in which `*` stands for any characters.
    `expires_at` is in UTC.
    """

    subject: str
    expires_at: datetime | None = None
    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def token_id(self) -> str | None:
        """The token's `jti`, by which it can be revoked."""
        jti = self.claims.get("jti")
        return jti if isinstance(jti, str) else None

    @property
    def issued_at(self) -> float | None:
        """The token's `iat`, in seconds since 1970."""
        iat = self.claims.get("iat")
        return iat if _is_number(iat) else None


def may(principal: Principal, action: Action, topic: str) -> bool:
    """Return whether one of the principal's patterns for `action` covers `topic`."""
    patterns = principal.subscribe if action == "subscribe" else principal.publish
    return any(matches(pattern, topic) for pattern in patterns)


def principal_from(claims: Mapping[str, Any]) -> Principal:
    """Return the principal that verified claims describe.

    Raises:
        ValueError: `sub`, `topics` or one of the times is not what it should be.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise ValueError("sub must be a string")
    topics = claims.get("topics", {})
    if not isinstance(topics, Mapping):
        raise ValueError("topics must be an object")  # noqa: TRY004 - one kind of refusal
    if not all(_is_number(claims[name]) for name in ("exp", "nbf", "iat") if name in claims):
        raise ValueError("exp, nbf and iat must be numbers")
    return Principal(
        subject=subject,
        expires_at=datetime.fromtimestamp(claims["exp"], UTC) if "exp" in claims else None,
        subscribe=_patterns(topics.get("subscribe", [])),
        publish=_patterns(topics.get("publish", [])),
        claims=dict(claims),
    )


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("rights must be lists of strings")
    return tuple(value)


def _is_number(value: Any) -> bool:
    # "A JSON numeric value" (RFC 7519, section 2). To Python a boolean, NaN and Infinity are
    # numbers as well.
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
