"""Checks that a key fits its algorithm, so a public key is never used as an HMAC secret."""

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from jose import jwk
from jose.backends.base import Key
from jose.exceptions import JWKError

_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
# "A key of size 2048 bits or larger MUST be used with these algorithms" (RFC 7518, section 3.3).
_LEAST_RSA_BITS = 2048
# RFC 7518, section 3.2: "A key of the same size as the hash output [...] or larger MUST be used".
# With one token, an attacker can guess a shorter one offline.
LEAST_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_PUBLIC_MEMBERS = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y")}


def fitting_key(key: str | bytes, algorithm: str) -> Key:
    """Return `key` ready for use with `algorithm`.

    Raises:
        ValueError: The key is empty, or is not a key for this algorithm.
    """
    raw = key.encode() if isinstance(key, str) else key
    if not raw.strip():
        raise ValueError("The token key is empty")
    public = _public_key(raw)
    if algorithm.startswith("HS") and public is not None:
        # CVE-2024-33663: anyone who knows the public key could sign with it.
        raise ValueError(f"{algorithm} needs a secret, but this is a public key")
    if not algorithm.startswith("HS") and not _fits(public, algorithm):
        raise ValueError(f"{algorithm} needs {_needed_key(algorithm)} in PEM format")
    try:
        return jwk.construct(key, algorithm)
    except JWKError as error:
        raise ValueError(f"The token key can't be used for {algorithm}: {error}") from None


def key_from_jwk(described: Any, algorithm: str) -> Key:
    """Return the key that a JSON Web Key describes, ready for use with `algorithm`.

    Raises:
        ValueError: It is not a public key for checking signatures of this algorithm.
    """
    if not isinstance(described, Mapping) or not _is_meant_for(described, algorithm):
        raise ValueError(f"This key is not meant for {algorithm}")
    # Only the public members, and through PEM: `fitting_key` then checks keys from every source.
    public = {name: described.get(name) for name in _PUBLIC_MEMBERS[_type_of(algorithm)]}
    try:
        pem = jwk.construct(public, algorithm).to_pem()
    except Exception:
        raise ValueError("This key is malformed") from None
    return fitting_key(pem, algorithm)


def _is_meant_for(described: Mapping[str, Any], algorithm: str) -> bool:
    operations = described.get("key_ops", ["verify"])
    return (
        described.get("kty") == _type_of(algorithm)
        and described.get("use", "sig") == "sig"
        and described.get("alg", algorithm) == algorithm
        and isinstance(operations, list)
        and "verify" in operations
    )


def _type_of(algorithm: str) -> str:
    return "RSA" if algorithm.startswith("RS") else "EC"


def _needed_key(algorithm: str) -> str:
    if algorithm.startswith("RS"):
        return f"an RSA public key of at least {_LEAST_RSA_BITS} bits"
    return f"a public key on the curve {_CURVES.get(algorithm)}"


def _fits(public: object, algorithm: str) -> bool:
    if algorithm.startswith("RS"):
        return isinstance(public, RSAPublicKey) and public.key_size >= _LEAST_RSA_BITS
    curve = _CURVES.get(algorithm)
    return isinstance(public, EllipticCurvePublicKey) and public.curve.name == curve


def _public_key(raw: bytes) -> object | None:
    for load in (load_pem_public_key, load_der_public_key):
        try:
            return load(raw)
        except Exception:  # noqa: S112 - bytes that can't be parsed are not a public key
            continue
    return None
