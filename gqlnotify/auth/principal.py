"""The subject and the rights of a verified token."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from gqlnotify.event import matches

Action = Literal["subscribe", "publish", "presence", "admin"]
ACTIONS: tuple[Action, ...] = get_args(Action)
"""The names of all rights: members of the claim `topics`, and attributes of `Principal`."""


@dataclass(frozen=True)
class Principal:
    """The subject and the rights of a verified token.

    Attributes:
        subject: The claim `sub`.
        expires_at: The claim `exp`, in UTC. None if the token does not expire.
        subscribe: Patterns of topics that the subject may subscribe to. `*` matches any characters.
        publish: Patterns of topics that the subject may publish to.
        claims: All claims of the token.
        presence: Patterns of topics whose members the subject may see.
        admin: Patterns of the tools of operators that the subject may use. `console` is one.
    """

    subject: str
    expires_at: datetime | None = None
    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    presence: tuple[str, ...] = ()
    admin: tuple[str, ...] = ()

    @property
    def token_id(self) -> str | None:
        """The token's `jti` (RFC 7519, section 4.1.7), by which it can be revoked."""
        jti = self.claims.get("jti")
        return jti if isinstance(jti, str) else None

    @property
    def issued_at(self) -> float | None:
        """The token's `iat` (RFC 7519, section 4.1.6), in seconds since 1970."""
        iat = self.claims.get("iat")
        return iat if _is_number(iat) else None


def may(principal: Principal, action: Action, topic: str) -> bool:
    """Return whether one of the principal's patterns for `action` matches `topic`."""
    return any(matches(pattern, topic) for pattern in patterns_of(principal, action))


def patterns_of(principal: Principal, action: Action) -> tuple[str, ...]:
    """Return the patterns of topics on which the principal has the right to `action`."""
    patterns: tuple[str, ...] = getattr(principal, action)
    return patterns


def principal_from(claims: Mapping[str, Any]) -> Principal:
    """Return the principal of a token with these claims, which are already verified.

    Raises:
        ValueError: `sub`, `topics`, `exp`, `nbf` or `iat` has the wrong type.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject or not _is_encodable(subject):
        raise ValueError("sub must be a non-empty string that UTF-8 can encode")
    topics = claims.get("topics", {})
    if not isinstance(topics, Mapping):
        raise ValueError("topics must be an object")  # noqa: TRY004 - one kind of refusal
    if not all(_is_number(claims[name]) for name in ("exp", "nbf", "iat") if name in claims):
        raise ValueError("exp, nbf and iat must be numbers")
    return Principal(
        subject=subject,
        expires_at=datetime.fromtimestamp(claims["exp"], UTC) if "exp" in claims else None,
        claims=dict(claims),
        **{action: _patterns(topics.get(action, [])) for action in ACTIONS},
    )


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("rights must be lists of strings")
    return tuple(value)


def _is_encodable(text: str) -> bool:
    # JSON can have half of a surrogate pair, but no name of a topic or message to others can.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: Any) -> bool:
    # "A JSON numeric value" (RFC 7519, section 2). In Python, booleans, NaN and Infinity are
    # numbers too.
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
