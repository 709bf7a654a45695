"""Signs tokens with the key of the application under test."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from gqlnotify import clock
from gqlnotify.auth import TokenVerifier, sign, verifier_from
from gqlnotify.errors import TokenExpired, Unauthenticated
from gqlnotify.settings import Settings


class Tokens:
    """Signs tokens with the secret, audience and issuer of the application's settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(
        self,
        subject: str = "tester",
        *,
        subscribe: str | Sequence[str] = (),
        publish: str | Sequence[str] = (),
        presence: str | Sequence[str] = (),
        admin: str | Sequence[str] = (),
        lifetime: float = 3600,
        **claims: Any,
    ) -> str:
        """Return a token of `subject`.

        Args:
            subject: the claim `sub`.
            subscribe: a topic, or several, that it may subscribe to; `*` stands for any characters.
            publish: a topic, or several, that it may publish to.
            presence: a topic, or several, whose members it may see.
            admin: a tool for operators, or several, that it may use: `console`, or `*` for all.
            lifetime: seconds until it expires; a negative number makes an expired token.
            claims: more claims, which also replace the ones above.

        Raises:
            ValueError: the settings contain no secret to sign with.
        """
        now = clock.now()
        rights = {
            "subscribe": _listed(subscribe),
            "publish": _listed(publish),
            "presence": _listed(presence),
            "admin": _listed(admin),
        }
        standard = {"sub": subject, "topics": rights, "jti": str(uuid4())}
        times = {"iat": now, "exp": now + lifetime}
        return self.sign({**standard, **times, **claims})

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a token with these claims.

        Raises:
            ValueError: the settings contain no secret to sign with.
        """
        try:
            return sign(claims, self._settings)
        except ValueError as error:
            raise ValueError(
                f"{error}. Set GQLNOTIFY_JWT_SECRET in conftest.py before the application is "
                "imported, or define a fixture gqlnotify_settings that returns its Settings"
            ) from None

    def has_signed(self, token: str) -> bool:
        """Return whether these settings contain the secret that `token` was signed with."""
        verifier = verifier_from(self._settings)
        if not isinstance(verifier, TokenVerifier):
            return False
        try:
            verifier.verify(token)
        except TokenExpired:
            # What else is wrong is found first.
            return True
        except Unauthenticated:
            return False
        return True


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a token, without a check.

    Raises:
        ValueError: it is not a JSON Web Token.
    """
    try:
        _, body, _ = token.split(".")
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except ValueError:
        raise ValueError("This token is not a JSON Web Token, so its claims are unknown") from None
    return claims


def _listed(topics: str | Sequence[str]) -> list[str]:
    return [topics] if isinstance(topics, str) else list(topics)
