"""From a token to a `Principal`, by python-jose; and, for tools, from claims to a token."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from jose import jwt
from jose.backends.base import Key

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
"""A hook: the token (None when there was none) and the Starlette connection, to a `Principal`.
It raises `Unauthenticated` to refuse."""


def find_token(fields: Mapping[str, Any]) -> Any:
    """Find the token in HTTP headers or in the payload of a `connection_init`.

    The keys `Authorization`, `token` and `authToken` are looked for in that order and in any
    case; a leading `Bearer` is taken off. What comes back may be no string at all: `verify`
    refuses that.
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
    """What a token must have in addition to a good signature: algorithm, audience, issuer, times.

    `leeway` is how many seconds `nbf` and `iat` may be ahead of this machine's clock: "some small
    leeway, usually no more than a few minutes, to account for clock skew" (RFC 7519, section
    4.1.5). `exp` gets none: what runs with a token ends at that time.
    """

    algorithm: str = "HS256"
    audience: str | None = None
    issuer: str | None = None
    require_exp: bool = True
    leeway: float = 10

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        """Return the rules that the settings make."""
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
            TokenExpired: the token is valid except for its `exp`.
            TokenNotYetValid: the token is valid except for its `nbf` or `iat`.
            Exception: whatever jose raises for any other token.
        """
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[self.algorithm],
            audience=self.audience,
            issuer=self.issuer,
            options={
                # The times are checked below: jose rounds them, has one leeway for all of them,
                # and looks at them before the audience and the issuer.
                **{f"verify_{name}": False for name in ("exp", "nbf", "iat")},
                # It would have to be compared with an access token, which is not sent here.
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
        self._check_times(claims, time.time())
        return principal

    def _check_times(self, claims: Mapping[str, Any], now: float) -> None:
        # "The expiration time on or after which the JWT MUST NOT be accepted" (section 4.1.4).
        if "exp" in claims and claims["exp"] <= now:
            raise TokenExpired("The token has expired")
        for name in ("nbf", "iat"):
            if name in claims and claims[name] > now + self.leeway:
                raise TokenNotYetValid(f"The token is not valid yet: its {name} is in the future")


class TokenVerifier:
    """Checks JSON Web Tokens with one key and one algorithm.

    Raises:
        ValueError: the key is empty or does not fit the algorithm's family.
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
            TokenExpired: its `exp` has passed.
            TokenNotYetValid: its `nbf` or `iat` is in the future.
            Unauthenticated: it is missing, malformed, forged, or meant for another service.
        """
        try:
            _header(token)
            return self._rules.principal(token, self._key)
        except Exception as error:
            refusal = _refusal(error)
        # Out here: a chain, even a hidden one, would carry the token along.
        raise refusal


class KeySetVerifier:
    """Checks JSON Web Tokens with the keys of a `KeySet`, chosen by `kid`, and one algorithm."""

    def __init__(self, keys: "KeySet", rules: Rules) -> None:
        self._keys = keys
        self._rules = rules

    async def __call__(self, token: Any, connection: Any = None) -> Principal:  # noqa: ARG002
        """Verify `token`: this makes a verifier the default `Authenticate` hook."""
        return await self.verify(token)

    async def verify(self, token: Any) -> Principal:
        """Return the principal of `token`.

        Raises:
            TokenExpired: its `exp` has passed.
            TokenNotYetValid: its `nbf` or `iat` is in the future.
            Unauthenticated: it is missing, malformed, forged, or meant for another service.
            KeysUnavailable: the keys can't be fetched.
        """
        try:
            header = _header(token)
            key = await self._keys.find(_key_id(header, self._rules.algorithm))
            return self._rules.principal(token, key)
        except Exception as error:
            refusal = _refusal(error)
        raise refusal


def verifier_from(settings: Settings) -> TokenVerifier | KeySetVerifier | None:
    """Return the verifier that the settings ask for; None where they name no key.

    Raises:
        ValueError: they name two, or one that is not usable.
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
            "GQLNOTIFY_JWT_SECRET and GQLNOTIFY_JWKS_URL are both set; which key is meant?"
        )
    # With a secret, no HTTP client has to be loaded.
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
        f"GQLNOTIFY_JWT_SECRET has {size} bytes, and {algorithm} needs {least} or more: "
        f"a shorter one can be guessed. Make one with: openssl rand -base64 {least}"
    )


def sign(claims: Mapping[str, Any], settings: Settings) -> str:
    """Return `claims` as a signed token, with the audience and issuer that the settings ask for.

    Raises:
        ValueError: the settings hold no secret, or one that does not fit the algorithm.
    """
    if settings.jwt_secret is None:
        raise ValueError("GQLNOTIFY_JWT_SECRET is not set")
    if not settings.jwt_algorithm.startswith("HS"):
        raise ValueError("Only HMAC tokens can be made here; the others need a private key")
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
    # recipient, then the JWS is invalid" (RFC 7515, section 4.1.11). None is understood here.
    if "crit" in header:
        raise Unauthenticated("The token is not valid")
    return header


def _key_id(header: Mapping[str, Any], algorithm: str) -> str | None:
    kid = header.get("kid")
    # A token of another algorithm is refused anyway, and not worth a request for its key.
    if header.get("alg") != algorithm or ("kid" in header and not isinstance(kid, str)):
        raise Unauthenticated("The token is not valid")
    return kid


def _refusal(error: Exception) -> NotifyError:
    if isinstance(error, NotifyError):
        # A new one: the traceback of the old one refers to the frames that held the token.
        return type(error)(error.message)
    return Unauthenticated("The token is not valid")
