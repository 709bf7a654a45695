"""Valid and forged tokens and keys, made without the code under test."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jose import jwt

from gqlnotify import Settings
from gqlnotify.auth import TokenVerifier, verifier_from
from gqlnotify.errors import Unauthenticated

SECRET = "correct horse battery staple"
ANOTHER_SECRET = "tr0ub4dor&3"
# Later than any run of the tests.
TOMORROW = int(time.time()) + 24 * 3600
YESTERDAY = int(time.time()) - 24 * 3600
CLAIMS: dict[str, Any] = {"sub": "alice", "exp": TOMORROW}


def pair(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> tuple[str, str, bytes]:
    """Return the private key as PEM, the public one as PEM and as DER."""
    public = private.public_key()
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    )


RSA_PRIVATE, RSA_PUBLIC, RSA_PUBLIC_DER = pair(rsa.generate_private_key(65537, 2048))
EC_PRIVATE, EC_PUBLIC, EC_PUBLIC_DER = pair(ec.generate_private_key(ec.SECP256R1()))
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
EC_384_PUBLIC = pair(ec.generate_private_key(ec.SECP384R1()))[1]


def hs(**claims: Any) -> str:
    """Return a valid token for SECRET, with these additional claims."""
    return jwt.encode({**CLAIMS, **claims}, SECRET)


def without(name: str) -> str:
    return jwt.encode({k: v for k, v in CLAIMS.items() if k != name}, SECRET)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def handmade(
    header: object, claims: object, key: str | bytes, *, digest: Any = hashlib.sha256
) -> str:
    """Sign any content with HMAC, also what jose refuses to sign."""
    return signed(json.dumps(header).encode(), json.dumps(claims).encode(), key, digest)


def signed(header: bytes, claims: bytes, key: str | bytes, digest: Any = hashlib.sha256) -> str:
    raw = key.encode() if isinstance(key, str) else key
    body = f"{b64(header)}.{b64(claims)}"
    return f"{body}.{b64(hmac.new(raw, body.encode(), digest).digest())}"


def verifier(**options: Any) -> TokenVerifier:
    return TokenVerifier(SECRET, **options)


def assert_refused(token: Any, by: TokenVerifier | None = None) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as refusal:
        (by or verifier()).verify(token)
    assert refusal.value.is_guess
    assert refusal.value.close_code == 4401
    return refusal.value


def settings(**options: Any) -> Settings:
    return Settings(**{"jwt_secret": SECRET, **options})


def fixed(settings: Settings) -> TokenVerifier:
    """Return the verifier for these settings, which has a single key."""
    made = verifier_from(settings)
    assert isinstance(made, TokenVerifier)
    return made
