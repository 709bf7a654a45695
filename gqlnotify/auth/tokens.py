"""Verifies tokens with python-jose, and signs tokens for tools and tests."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from jose import jwt
from jose.backends.base import Key

from gqlnotify import clock
from gqlnotify.auth.keys import LEAST_SECRET_BYTES, fitting_key
from gqlnotify.auth.principal import Principal, principal_from
from gqlnotify.errors import NotifyError, TokenExpired, TokenNotYetValid, Unauthenticated
from gqlnotify.settings import Settings, warn_once

if TYPE_CHECKING:
    from gqlnotify.auth.jwks import KeySet

MAX_TOKEN_LENGTH = 8192

logger = logging.getLogger("gqlnotify.auth")

_TOKEN_KEYS = ("authorization", "token", "authtoken")

Authenticate = Callable[[str | None, Any], Principal | Awaitable[Principal]]
"""A hook that takes the token, or None if there is none, and the Starlette connection.

It returns the `Principal`, or raises `Unauthenticated` to refuse the token."""


def find_token(fields: Mapping[str, Any]) -> Any:
    """Return the token in HTTP headers or in the payload of a `connection_init`, or None.

    The keys are `Authorization`, `token` and `authToken`, in this order and in any case. A leading
    `Bearer` (RFC 6750, section 2.1) is removed. A payload can contain a value that is not a string:
    it is returned as it is, and `verify` refuses it.
    """
    lowered = {key.lower(): value for key, value in fields.items()}
    for key in _TOKEN_KEYS:
        value = lowered.get(key)
        if value is not None and value != "":
            return _without_scheme(value)
    return None


def _without_scheme(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    scheme, _, token = value.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else value.strip()


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is checked besides the signature: algorithm, audience, issuer and times.

    `leeway` is how many seconds `nbf` and `iat` may be ahead of this machine's clock: "some small
    leeway, usually no more than a few minutes, to account for clock skew" (RFC 7519, section
    4.1.5). `exp` has no leeway, because operations end exactly when their token expires.
    """

    algorithm: str = "HS256"
    audience: str | None = None
    issuer: str | None = None
    require_exp: bool = True
    leeway: float = 10

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        """Return the rules that the settings describe."""
        return cls(
            algorithm=settings.jwt_algorithm,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            require_exp=settings.jwt_require_exp,
            leeway=settings.jwt_leeway,
        )

    def principal(self, token: str, key: Key) -> Principal:
        """Return the principal of `token`.

        Raises:
            TokenExpired: The token is valid except for its `exp`.
            TokenNotYetValid: The token is valid except for its `nbf` or `iat`.
            Exception: Jose refuses the token. It raises many types.
        """
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[self.algorithm],
            audience=self.audience,
            issuer=self.issuer,
            options={
                # `_check_times` checks the times: jose rounds them, has one leeway for all, and
                # checks them before the audience and the issuer.
                **{f"verify_{name}": False for name in ("exp", "nbf", "iat")},
                # `at_hash` is the hash of an access token, and clients do not send one.
                "verify_at_hash": False,
                "require_sub": True,
                "require_aud": self.audience is not None,
                "require_iss": self.issuer is not None,
                # If no audience is configured, any `aud` is accepted.
                "verify_aud": self.audience is not None,
            },
        )
        if self.require_exp and "exp" not in claims:
            raise Unauthenticated("The token is not valid")
        principal = principal_from(claims)
        try:
            self._check_times(claims, clock.now())
        except Unauthenticated as error:
            error.subject = principal.subject
            raise
        return principal

    def _check_times(self, claims: Mapping[str, Any], now: float) -> None:
        # "The expiration time on or after which the JWT MUST NOT be accepted" (RFC 7519, section
        # 4.1.4).
        if "exp" in claims and claims["exp"] <= now:
            raise TokenExpired("The token has expired")
        for name in ("nbf", "iat"):
            if name in claims and claims[name] > now + self.leeway:
                raise TokenNotYetValid(f"The token is not valid yet: its {name} is in the future")


class TokenVerifier:
    """Verifies JSON Web Tokens (RFC 7519) with one key and one algorithm.

    Args:
        key: A secret for HS256, HS384 and HS512; otherwise a public key in PEM format.
        algorithm: The only algorithm that is accepted.
        audience: The `aud` that a token must have; None accepts any.
        issuer: The `iss` that a token must have; None accepts any.
        require_exp: Whether a token must have an `exp`.
        leeway: How many seconds `nbf` and `iat` may be ahead of this machine's clock.

    Raises:
        ValueError: The key is empty, or is not a key for the algorithm.
    """

    def __init__(
        self,
        key: str | bytes,
        *,
        algorithm: str = "HS256",
        audience: str | None = None,
        issuer: str | None = None,
        require_exp: bool = True,
        leeway: float = 10,
    ) -> None:
        self._key = fitting_key(key, algorithm)
        self._rules = Rules(
            algorithm=algorithm,
            audience=audience,
            issuer=issuer,
            require_exp=require_exp,
            leeway=leeway,
        )

    def __call__(self, token: Any, connection: Any = None) -> Principal:  # noqa: ARG002
        """Verify `token`: this makes a verifier the default `Authenticate` hook."""
        return self.verify(token)

    def verify(self, token: Any) -> Principal:
        """Return the principal of `token`.

        Raises:
            TokenExpired: Its `exp` has passed.
            TokenNotYetValid: Its `nbf` or `iat` is in the future.
            Unauthenticated: It is missing, malformed, forged, or meant for another service.
        """
        try:
            _header(token)
            return self._rules.principal(token, self._key)
        except Exception as error:
            refusal = _refusal(error)
        # Outside of the `except`: inside, `__context__` would keep jose's error, whose traceback
        # refers to the token.
        try:
            raise refusal
        finally:
            # Its traceback refers to this frame: a cycle, which would keep the connection.
            del refusal


class KeySetVerifier:
    """Verifies JSON Web Tokens with one algorithm and the keys of a `KeySet`, chosen by `kid`."""

    def __init__(self, keys: "KeySet", rules: Rules) -> None:
        self._keys = keys
        self._rules = rules

    async def __call__(self, token: Any, connection: Any = None) -> Principal:  # noqa: ARG002
        """Verify `token`: this makes a verifier the default `Authenticate` hook."""
        return await self.verify(token)

    async def verify(self, token: Any) -> Principal:
        """Return the principal of `token`.

        Raises:
            TokenExpired: Its `exp` has passed.
            TokenNotYetValid: Its `nbf` or `iat` is in the future.
            Unauthenticated: It is missing, malformed, forged, or meant for another service.
            KeysUnavailable: The keys can't be fetched.
        """
        try:
            header = _header(token)
            key = await self._keys.find(_key_id(header, self._rules.algorithm))
            return self._rules.principal(token, key)
        except Exception as error:
            refusal = _refusal(error)
        try:
            raise refusal
        finally:
            del refusal


def verifier_from(settings: Settings) -> TokenVerifier | KeySetVerifier | None:
    """Return the verifier that the settings describe, or None if they contain no key.

    Raises:
        ValueError: They contain a secret and a key set, or a key that is not usable.
    """
    rules = Rules.of(settings)
    if settings.jwks_url is None:
        if settings.jwt_secret is None:
            return None
        short = too_short(settings)
        if short is not None:
            warn_once(logger, short)
        return TokenVerifier(settings.jwt_secret.get_secret_value(), **asdict(rules))
    if settings.jwt_secret is not None:
        raise ValueError(
            "GQLNOTIFY_JWT_SECRET and GQLNOTIFY_JWKS_URL are both set: remove one of them"
        )
    # It imports httpx, which an application with a secret does not need.
    from gqlnotify.auth.jwks import KeySet  # noqa: PLC0415

    keys = KeySet(
        settings.jwks_url,
        algorithm=settings.jwt_algorithm,
        cache=settings.jwks_cache,
        timeout=settings.jwks_timeout,
    )
    return KeySetVerifier(keys, rules)


def too_short(settings: Settings) -> str | None:
    """Return a warning if the secret is too short for its algorithm, else None."""
    secret, algorithm = settings.jwt_secret, settings.jwt_algorithm
    if secret is None:
        return None
    size, least = len(secret.get_secret_value().encode()), LEAST_SECRET_BYTES.get(algorithm, 0)
    if size >= least:
        return None
    return (
        f"GQLNOTIFY_JWT_SECRET has {size} bytes, but {algorithm} needs {least} or more: "
        f"a shorter secret can be guessed. Create one with: openssl rand -base64 {least}"
    )


def sign(claims: Mapping[str, Any], settings: Settings) -> str:
    """Return a signed token with `claims`, and with the settings' audience and issuer.

    Raises:
        ValueError: The settings contain no secret, or one that does not fit the algorithm.
    """
    if settings.jwt_secret is None:
        raise ValueError("GQLNOTIFY_JWT_SECRET is not set: it is needed to sign tokens")
    if not settings.jwt_algorithm.startswith("HS"):
        raise ValueError(
            f"A token for {settings.jwt_algorithm} needs a private key, which the settings do not "
            "contain: sign the token where the key is"
        )
    key = fitting_key(settings.jwt_secret.get_secret_value(), settings.jwt_algorithm)
    expected = {"aud": settings.jwt_audience, "iss": settings.jwt_issuer}
    full = {**{k: v for k, v in expected.items() if v is not None}, **claims}
    return str(jwt.encode(full, key, algorithm=settings.jwt_algorithm))


def _header(token: Any) -> Mapping[str, Any]:
    if token is None:
        raise Unauthenticated("A token is required")
    if not isinstance(token, str) or len(token) > MAX_TOKEN_LENGTH:
        raise Unauthenticated("The token is not valid")
    header: Mapping[str, Any] = jwt.get_unverified_header(token)
    # "If any of the listed extension Header Parameters are not understood and supported by the
    # recipient, then the JWS is invalid" (RFC 7515, section 4.1.11). We support none of them.
    if "crit" in header:
        raise Unauthenticated("The token is not valid")
    return header


def _key_id(header: Mapping[str, Any], algorithm: str) -> str | None:
    kid = header.get("kid")
    # A token with another algorithm is refused in any case. Refuse it before its `kid` can cause a
    # request for keys.
    if header.get("alg") != algorithm or ("kid" in header and not isinstance(kid, str)):
        raise Unauthenticated("The token is not valid")
    return kid


def _refusal(error: Exception) -> NotifyError:
    if isinstance(error, NotifyError):
        # A new error: the traceback of the old one refers to frames that hold the token.
        new = type(error)(error.message)
        if isinstance(error, Unauthenticated) and isinstance(new, Unauthenticated):
            new.subject = error.subject
        return new
    return Unauthenticated("The token is not valid")
