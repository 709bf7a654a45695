"""Which keys fit an algorithm."""

import pytest
from jose import jwt

from gqlnotify import Settings
from gqlnotify.auth import (
    TokenVerifier,
    verifier_from,
)
from tests.auth.forging import (
    CERTIFICATE,
    CLAIMS,
    EC_384_PUBLIC,
    EC_PUBLIC,
    EC_PUBLIC_DER,
    RSA_PRIVATE,
    RSA_PUBLIC,
    RSA_PUBLIC_DER,
    SECRET,
    assert_refused,
    fixed,
    settings,
)


@pytest.mark.parametrize("key", ["", " ", "\n", b"", b" \n"])
@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256"])
def test_an_empty_key_is_refused(key: str | bytes, algorithm: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        TokenVerifier(key, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize(
    "key",
    [RSA_PUBLIC, RSA_PUBLIC_DER, EC_PUBLIC, EC_PUBLIC_DER],
    ids=["rsa-pem", "rsa-der", "ec-pem", "ec-der"],
)
def test_a_public_key_is_no_secret(key: str | bytes, algorithm: str) -> None:
    with pytest.raises(ValueError, match="public key"):
        TokenVerifier(key, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
@pytest.mark.parametrize("key", [SECRET, "-----BEGIN PUBLIC KEY-----\nrubbish", RSA_PRIVATE])
def test_a_secret_is_no_public_key(key: str, algorithm: str) -> None:
    with pytest.raises(ValueError, match="public key"):
        TokenVerifier(key, algorithm=algorithm)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (EC_PUBLIC, "RS256"),
        (RSA_PUBLIC, "ES256"),
        (EC_384_PUBLIC, "ES256"),
        (EC_PUBLIC, "ES512"),
        (RSA_PUBLIC_DER, "RS256"),
        ("ssh-rsa AAAAB3NzaC1yc2E= alice", "HS256"),
        (CERTIFICATE, "HS256"),
        (SECRET, "HS999"),
        (SECRET, "none"),
    ],
)
def test_a_key_that_does_not_fit_the_algorithm_is_refused_at_the_start(
    key: str | bytes, algorithm: str
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - that it is refused here is the point
        TokenVerifier(key, algorithm=algorithm)


def test_the_settings_make_the_verifier() -> None:
    assert verifier_from(Settings(jwt_secret=None)) is None
    made = settings(jwt_audience="us", jwt_issuer="them", jwt_algorithm="HS384")
    by = fixed(made)

    good = {**CLAIMS, "aud": "us", "iss": "them"}
    assert by.verify(jwt.encode(good, SECRET, algorithm="HS384")).subject == "alice"
    assert_refused(jwt.encode(good, SECRET, algorithm="HS256"), by)
    assert_refused(jwt.encode({**good, "aud": "them"}, SECRET, algorithm="HS384"), by)
    assert_refused(jwt.encode({**good, "iss": "us"}, SECRET, algorithm="HS384"), by)
