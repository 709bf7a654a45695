"""From a token to a `Principal`, and from a principal to a right. The one importer of jose."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from inspect import isawaitable
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from jose import ExpiredSignatureError, jwk, jwt
from jose.backends.base import Key
from jose.exceptions import JWKError

from gqlnotify.errors import Forbidden, NoViewer, TokenExpired, Unauthenticated
from gqlnotify.event import matches
from gqlnotify.settings import Settings

Action = Literal["subscribe", "publish"]

MAX_TOKEN_LENGTH = 8192
_TOKEN_KEYS = ("authorization", "token", "authtoken")
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}

logger = logging.getLogger("gqlnotify.auth")


@dataclass(frozen=True)
class Principal:
    """Who a token speaks for, and which topics it opens.

    `subscribe` and `publish` are patterns in which `*` stands for any characters.
    `expires_at` is in UTC.
    """

    subject: str
    expires_at: datetime | None = None
    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)


Authenticate = Callable[[str | None, Any], Principal | Awaitable[Principal]]
"""A hook: the token (None when there was none) and the Starlette connection, to a `Principal`.
It raises `Unauthenticated` to refuse."""

May = Callable[[Principal, Action, str], bool | Awaitable[bool]]
"""A hook: whether the principal has the right to the action on the topic of that name."""


def may(principal: Principal, action: Action, topic: str) -> bool:
    """Tell whether one of the principal's patterns for `action` covers `topic`."""
    patterns = principal.subscribe if action == "subscribe" else principal.publish
    return any(matches(pattern, topic) for pattern in patterns)


@dataclass(frozen=True)
class Viewer:
    """A principal and the decision that applies to it, for as long as an operation runs."""

    principal: Principal
    may: May = may


class _Everybody:
    """In place of a viewer where one execution is for all of them."""


_viewer: ContextVar[Viewer | _Everybody | None] = ContextVar("gqlnotify_viewer", default=None)


@contextmanager
def viewing(viewer: Viewer | None) -> Iterator[None]:
    """Make `viewer` the one whose operation runs inside the block."""
    token = _viewer.set(viewer)
    try:
        yield
    finally:
        _viewer.reset(token)


def view_as(viewer: Viewer | None) -> None:
    """Make `viewer` the one for the rest of the running task, which runs one operation alone."""
    _viewer.set(viewer)


def view_as_everybody() -> None:
    """Let the rest of the running context have no viewer, and say so to whoever asks for one."""
    _viewer.set(_Everybody())


def current_viewer() -> Viewer | None:
    """Return the viewer of the running operation; None outside one or where no token is asked.

    Raises:
        NoViewer: the execution is shared by several viewers.
    """
    viewer = _viewer.get()
    if isinstance(viewer, _Everybody):
        raise NoViewer
    return viewer


def current_principal() -> Principal:
    """Return whose operation is running.

    Raises:
        Unauthenticated: outside an operation, or where no token is asked for.
        NoViewer: the execution is shared by several viewers.
    """
    viewer = current_viewer()
    if viewer is None:
        raise Unauthenticated("This needs a token, and the operation runs without one")
    return viewer.principal


async def authorize(action: Action, topic: str) -> None:
    """Check the running viewer's right. Code that runs for no viewer may do anything.

    Raises:
        Forbidden: the viewer has no such right.
        NoViewer: the execution is shared by several viewers.
    """
    await check_right(current_viewer(), action, topic)


async def check_right(viewer: Viewer | None, action: Action, *topics: str) -> None:
    """Check that `viewer` has the right to `action` on at least one of `topics`.

    Raises:
        Forbidden: on none of them; the message names the first.
    """
    if viewer is None:
        return
    for topic in topics:
        allowed = viewer.may(viewer.principal, action, topic)
        if await allowed if isawaitable(allowed) else allowed:
            return
    raise Forbidden(f"This token has no right to {action} {topics[0]!r}")


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


class TokenVerifier:
    """Checks JSON Web Tokens with one key and one algorithm, by python-jose.

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
    ) -> None:
        self._key = _fitting_key(key, algorithm)
        self._algorithm = algorithm
        self._audience = audience
        self._issuer = issuer
        self._require_exp = require_exp

    @classmethod
    def from_settings(cls, settings: Settings) -> "TokenVerifier | None":
        """Return the verifier that the settings ask for; None where they name no key."""
        if settings.jwt_secret is None:
            return None
        return cls(
            settings.jwt_secret.get_secret_value(),
            algorithm=settings.jwt_algorithm,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            require_exp=settings.jwt_require_exp,
        )

    def __call__(self, token: Any, connection: Any = None) -> Principal:  # noqa: ARG002
        """Verify `token`: this makes a verifier the default `Authenticate` hook."""
        return self.verify(token)

    def verify(self, token: Any) -> Principal:
        """Return whom `token` speaks for.

        Raises:
            TokenExpired: its `exp` has passed.
            Unauthenticated: it is missing, malformed, forged, or meant for somebody else.
        """
        if token is None:
            raise Unauthenticated("A token is required")
        if not isinstance(token, str) or len(token) > MAX_TOKEN_LENGTH:
            raise Unauthenticated("The token is not valid")
        try:
            return principal_from(self._decode(token))
        except ExpiredSignatureError:
            # `from None` here and below: the chain would carry the token into a traceback.
            raise TokenExpired("The token has expired") from None
        except Exception:
            raise Unauthenticated("The token is not valid") from None

    def _decode(self, token: str) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            self._key,
            algorithms=[self._algorithm],
            audience=self._audience,
            issuer=self._issuer,
            options={
                "require_exp": self._require_exp,
                "require_sub": True,
                "require_aud": self._audience is not None,
                "require_iss": self._issuer is not None,
                # Without an audience of our own, `aud` is none of our business.
                "verify_aud": self._audience is not None,
            },
        )
        return claims


def principal_from(claims: Mapping[str, Any]) -> Principal:
    """Return the principal that verified claims describe.

    Raises:
        ValueError: `sub`, `exp` or `topics` is not what it should be.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise ValueError("sub must be a string")
    topics = claims.get("topics", {})
    if not isinstance(topics, Mapping):
        raise ValueError("topics must be an object")  # noqa: TRY004 - one kind of refusal
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


def sign(claims: Mapping[str, Any], settings: Settings) -> str:
    """Return `claims` as a signed token, with the audience and issuer that the settings ask for.

    Raises:
        ValueError: the settings hold no secret, or one that does not fit the algorithm.
    """
    if settings.jwt_secret is None:
        raise ValueError("GQLNOTIFY_JWT_SECRET is not set")
    if not settings.jwt_algorithm.startswith("HS"):
        raise ValueError("Only HMAC tokens can be made here; the others need a private key")
    key = _fitting_key(settings.jwt_secret.get_secret_value(), settings.jwt_algorithm)
    expected = {"aud": settings.jwt_audience, "iss": settings.jwt_issuer}
    full = {**{k: v for k, v in expected.items() if v is not None}, **claims}
    return str(jwt.encode(full, key, algorithm=settings.jwt_algorithm))


def _fitting_key(key: str | bytes, algorithm: str) -> Key:
    raw = key.encode() if isinstance(key, str) else key
    if not raw.strip():
        raise ValueError("The token key is empty")
    public = _public_key(raw)
    if algorithm.startswith("HS") and public is not None:
        # CVE-2024-33663: whoever knows the public key could sign with it.
        raise ValueError(f"{algorithm} needs a secret, and this is a public key")
    if not algorithm.startswith("HS") and not _fits(public, algorithm):
        raise ValueError(f"{algorithm} needs a public key of its kind in PEM form")
    try:
        return jwk.construct(key, algorithm)
    except JWKError as error:
        raise ValueError(f"The token key can't be used for {algorithm}: {error}") from None


def _fits(public: object, algorithm: str) -> bool:
    if algorithm.startswith("RS"):
        return isinstance(public, RSAPublicKey)
    curve = _CURVES.get(algorithm)
    return isinstance(public, EllipticCurvePublicKey) and public.curve.name == curve


def _public_key(raw: bytes) -> object | None:
    for load in (load_pem_public_key, load_der_public_key):
        try:
            return load(raw)
        except Exception:  # noqa: S112 - what can't be read is not a public key
            continue
    return None
