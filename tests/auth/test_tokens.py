"""Which tokens are accepted, and what the errors of the others reveal."""

import hashlib
import json
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from time import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jose import jwt

from gqlnotify.auth import (
    MAX_TOKEN_LENGTH,
    TokenVerifier,
    find_token,
    sign,
)
from gqlnotify.errors import TokenExpired, TokenNotYetValid, Unauthenticated
from gqlnotify.settings import warn_once
from tests.auth.forging import (
    ANOTHER_SECRET,
    CERTIFICATE,
    CLAIMS,
    EC_PRIVATE,
    EC_PUBLIC,
    RSA_PRIVATE,
    RSA_PUBLIC,
    RSA_PUBLIC_DER,
    SECRET,
    TOMORROW,
    YESTERDAY,
    assert_refused,
    b64,
    fixed,
    handmade,
    hs,
    settings,
    signed,
    verifier,
    without,
)

# what is accepted


def test_a_good_token_speaks_for_its_subject() -> None:
    rights = {"subscribe": ["tasks", "tasks.*"], "publish": ["chat.*"]}
    principal = verifier().verify(hs(topics=rights, name="Alice"))

    assert principal.subject == "alice"
    assert principal.expires_at == datetime.fromtimestamp(TOMORROW, UTC)
    assert principal.subscribe == ("tasks", "tasks.*")
    assert principal.publish == ("chat.*",)
    assert principal.claims["name"] == "Alice"


def test_a_token_without_rights_has_none() -> None:
    for token in (hs(), hs(topics={}), hs(topics={"subscribe": []})):
        principal = verifier().verify(token)
        assert (principal.subscribe, principal.publish) == ((), ())


@pytest.mark.parametrize(
    ("private", "public", "algorithm"),
    [
        (SECRET, SECRET, "HS256"),
        (SECRET, SECRET, "HS384"),
        (SECRET, SECRET, "HS512"),
        (RSA_PRIVATE, RSA_PUBLIC, "RS256"),
        (RSA_PRIVATE, RSA_PUBLIC, "RS512"),
        (EC_PRIVATE, EC_PUBLIC, "ES256"),
    ],
)
def test_each_family_verifies_with_its_own_key(private: str, public: str, algorithm: str) -> None:
    token = jwt.encode(CLAIMS, private, algorithm=algorithm)

    assert TokenVerifier(public, algorithm=algorithm).verify(token).subject == "alice"


@pytest.mark.parametrize("aud", ["us", ["others", "us"]])
def test_the_required_audience_is_accepted(aud: Any) -> None:
    assert verifier(audience="us").verify(hs(aud=aud)).subject == "alice"


def test_the_required_issuer_is_accepted() -> None:
    assert verifier(issuer="them").verify(hs(iss="them")).subject == "alice"


def test_an_audience_and_an_issuer_are_ignored_unless_they_are_required() -> None:
    assert verifier().verify(hs(aud="whoever", iss="whoever")).subject == "alice"


def test_a_token_that_has_begun_is_accepted() -> None:
    assert verifier().verify(hs(nbf=YESTERDAY, iat=YESTERDAY)).subject == "alice"


def test_a_token_of_the_greatest_length_is_read() -> None:
    token = hs(pad="")
    while len(token) < MAX_TOKEN_LENGTH - 4:
        token = hs(pad="x" * ((MAX_TOKEN_LENGTH - len(hs(pad=""))) * 3 // 4 - 2))

    assert len(token) <= MAX_TOKEN_LENGTH
    assert verifier().verify(token).subject == "alice"


def test_a_verifier_is_an_authenticate_hook() -> None:
    assert verifier()(hs(), object()).subject == "alice"


# what is refused


def test_without_a_token_the_error_says_that_one_is_required() -> None:
    assert "required" in assert_refused(None).message


@pytest.mark.parametrize(
    "token",
    [0, 1.5, True, b"bytes", [], {}, ["a"], {"a": hs()}, object()],
    ids=lambda token: type(token).__name__,
)
def test_a_token_that_is_not_a_string_is_refused(token: Any) -> None:
    assert_refused(token)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 0, [], "HS257"])
@pytest.mark.parametrize("signature", ["", "e30"])
def test_a_token_without_a_signature_is_refused(algorithm: Any, signature: str) -> None:
    header = b64(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    assert_refused(f"{header}.{b64(json.dumps(CLAIMS).encode())}.{signature}")


@pytest.mark.parametrize(
    "public_key", [RSA_PUBLIC, RSA_PUBLIC.strip(), RSA_PUBLIC_DER], ids=["PEM", "stripped", "DER"]
)
def test_a_public_key_does_not_sign_as_a_secret(public_key: str | bytes) -> None:
    by = TokenVerifier(RSA_PUBLIC, algorithm="RS256")
    for algorithm in ("HS256", "RS256"):
        assert_refused(handmade({"alg": algorithm, "typ": "JWT"}, CLAIMS, public_key), by)


def test_a_wrong_signature_is_refused() -> None:
    head, claims, signature = hs().split(".")
    forged = b64(json.dumps({**CLAIMS, "sub": "root"}).encode())
    flipped = signature[:-2] + ("A" if signature[-2] != "A" else "B") + signature[-1]

    assert_refused(jwt.encode(CLAIMS, ANOTHER_SECRET))
    assert_refused(f"{head}.{forged}.{signature}")
    assert_refused(f"{head}.{claims}.{flipped}")
    assert_refused(f"{head}.{claims}.")


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_algorithm_of_the_same_family_is_refused(algorithm: str) -> None:
    assert_refused(jwt.encode(CLAIMS, SECRET, algorithm=algorithm))
    digest = {"HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    assert_refused(handmade({"alg": "HS256"}, CLAIMS, SECRET, digest=digest))


def test_another_family_is_refused() -> None:
    assert_refused(jwt.encode(CLAIMS, RSA_PRIVATE, algorithm="RS256"))
    assert_refused(jwt.encode(CLAIMS, EC_PRIVATE, algorithm="ES256"))
    assert_refused(hs(), TokenVerifier(EC_PUBLIC, algorithm="ES256"))


def test_a_key_that_the_token_brings_along_is_not_used() -> None:
    jwk = {"kty": "oct", "k": b64(ANOTHER_SECRET.encode())}
    for header in ({"alg": "HS256", "jwk": jwk}, {"alg": "HS256", "kid": "../../dev/null"}):
        assert_refused(handmade(header, CLAIMS, ANOTHER_SECRET))


@pytest.mark.parametrize("aud", ["them", "", [], ["them"], None, 5, {"us": 1}, "US", "us "])
def test_a_wrong_audience_is_refused(aud: Any) -> None:
    assert_refused(hs(aud=aud), verifier(audience="us"))


@pytest.mark.parametrize("iss", ["us", "", None, 5, ["them"], "them "])
def test_a_wrong_issuer_is_refused(iss: Any) -> None:
    assert_refused(
        handmade({"alg": "HS256"}, {**CLAIMS, "iss": iss}, SECRET), verifier(issuer="them")
    )


def test_a_missing_audience_or_issuer_is_refused_if_it_is_required() -> None:
    assert_refused(hs(), verifier(audience="us"))
    assert_refused(hs(), verifier(issuer="them"))


@pytest.mark.parametrize("claim", ["sub", "exp"])
def test_subject_and_end_are_required(claim: str) -> None:
    assert_refused(without(claim))


@pytest.mark.parametrize("sub", ["", None, 5, True, ["alice"], {"name": "alice"}])
def test_an_invalid_subject_is_refused(sub: Any) -> None:
    assert_refused(handmade({"alg": "HS256"}, {**CLAIMS, "sub": sub}, SECRET))


def test_a_token_without_expiry_is_accepted_if_the_settings_allow_it() -> None:
    endless = {claim: value for claim, value in CLAIMS.items() if claim != "exp"}
    lenient = fixed(settings(jwt_require_exp=False))
    strict = fixed(settings())

    assert lenient.verify(jwt.encode(endless, SECRET)).expires_at is None
    with pytest.raises(Unauthenticated):
        strict.verify(jwt.encode(endless, SECRET))


@pytest.mark.parametrize("exp", [None, "soon", [], {}, 10**30, float("inf"), float("nan"), ""])
def test_an_expiry_that_is_not_a_time_is_refused(exp: Any) -> None:
    assert_refused(handmade({"alg": "HS256"}, {**CLAIMS, "exp": exp}, SECRET))


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize("ahead", [11, 10.9, 3600, 10**30])
def test_a_token_of_the_future_may_be_tried_again_later(claim: str, ahead: float) -> None:
    # Some issuers write whole numbers as floats.
    for early in (time() + ahead, int(time()) + 1 + ahead):
        with pytest.raises(TokenNotYetValid, match=claim) as refusal:
            verifier().verify(hs(**{claim: early}))
        assert refusal.value.close_code == 4403
        assert not refusal.value.is_guess


def test_a_clock_that_is_a_little_ahead_is_forgiven() -> None:
    soon = time() + 8
    for claims in ({"nbf": soon}, {"iat": soon}, {"nbf": int(soon), "iat": soon}, {"nbf": -1}):
        assert verifier().verify(hs(**claims)).subject == "alice"
    assert fixed(settings(jwt_leeway=60)).verify(hs(nbf=time() + 50)).subject == "alice"
    with pytest.raises(TokenNotYetValid):
        fixed(settings(jwt_leeway=0)).verify(hs(nbf=soon))


def test_no_leeway_accepts_a_token_after_its_expiry() -> None:
    assert verifier(leeway=60).verify(hs(exp=time() + 5)).subject == "alice"
    for ended in (time() - 0.001, int(time())):
        with pytest.raises(TokenExpired):
            verifier(leeway=60).verify(hs(exp=ended))


@pytest.mark.parametrize("times", [{"exp": YESTERDAY}, {"nbf": TOMORROW}, {"iat": TOMORROW}])
def test_an_expired_token_gets_its_own_error_only_if_all_else_is_valid(
    times: dict[str, int],
) -> None:
    by = verifier(audience="us", issuer="them")
    good = {"aud": "us", "iss": "them", **times}

    with pytest.raises(TokenExpired if "exp" in times else TokenNotYetValid):
        by.verify(hs(**good))
    assert_refused(jwt.encode({**CLAIMS, **good}, ANOTHER_SECRET), by)
    wrongs: list[dict[str, Any]] = [
        *({"aud": "others"}, {"iss": "others"}, {"topics": []}, {"jti": 5}, {"sub": ""})
    ]
    for wrong in wrongs:
        assert_refused(hs(**{**good, **wrong}), by)


@pytest.mark.parametrize("at_hash", ["uSJL6nQhUOb5mbtFtuLfrw", "", 5, None])
def test_an_id_token_needs_no_access_token(at_hash: Any) -> None:
    claims = {"at_hash": at_hash, "nonce": "n", "azp": "us", "auth_time": YESTERDAY}
    assert verifier(audience="us").verify(hs(aud=["us"], **claims)).subject == "alice"


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_time_that_is_not_a_finite_number_is_refused(claim: str, value: float) -> None:
    assert_refused(handmade({"alg": "HS256"}, {**CLAIMS, claim: value}, SECRET))


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value", ["99999999999", "99999999999.5", "", "now", None, True, [], {}, [99999999999]]
)
def test_a_time_that_is_not_a_number_is_refused(claim: str, value: Any) -> None:
    claims = {**CLAIMS, claim: value}
    with pytest.raises(Unauthenticated):
        verifier().verify(handmade({"alg": "HS256"}, claims, SECRET))


@pytest.mark.parametrize("jti", [5, None, [], {}, True])
def test_a_token_id_that_is_not_a_string_is_refused(jti: Any) -> None:
    assert_refused(handmade({"alg": "HS256"}, {**CLAIMS, "jti": jti}, SECRET))


@pytest.mark.parametrize("crit", [["b64"], ["exp"], [], None, "b64"])
def test_a_header_that_must_be_understood_and_is_not_is_refused(crit: Any) -> None:
    header = {"alg": "HS256", "b64": True, "crit": crit}
    assert_refused(handmade(header, CLAIMS, SECRET))


def test_a_header_that_need_not_be_understood_is_ignored() -> None:
    for header in ({"x5u": "https://example.org"}, {"jku": "file:///etc/passwd"}, {"kid": 5}):
        token = handmade({"alg": "HS256", **header}, CLAIMS, SECRET)
        assert verifier().verify(token).subject == "alice"


def test_an_empty_secret_can_not_sign() -> None:
    for key in ("", " ", "\0"):
        assert_refused(handmade({"alg": "HS256"}, CLAIMS, key))


@pytest.mark.parametrize(
    "topics",
    [
        None,
        [],
        "tasks",
        5,
        {"subscribe": "*"},
        {"publish": "*"},
        {"subscribe": None},
        {"publish": {"tasks": True}},
        {"subscribe": ["tasks", 5]},
        {"publish": [["tasks"]]},
        {"subscribe": [None]},
    ],
)
def test_rights_of_a_wrong_shape_are_refused(topics: Any) -> None:
    assert_refused(hs(topics=topics))


def test_an_expired_token_gets_an_error_that_says_so_and_can_be_replaced() -> None:
    for claims in (hs(exp=YESTERDAY), hs(exp=0), hs(exp=-1)):
        with pytest.raises(TokenExpired) as refusal:
            verifier().verify(claims)
        assert refusal.value.close_code == 4403
        assert refusal.value.extensions["code"] == "UNAUTHENTICATED"


def test_a_forged_expired_token_counts_as_forged() -> None:
    assert_refused(jwt.encode({**CLAIMS, "exp": YESTERDAY}, ANOTHER_SECRET))


def test_a_token_that_is_too_long_is_refused_unread() -> None:
    assert_refused(hs(pad="x" * MAX_TOKEN_LENGTH))
    assert_refused("x" * 10_000_000)


@pytest.mark.parametrize("depth", [200, 900, 2000, 5900])
@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
def test_deep_nesting_in_header_and_claims_is_refused(depth: int, bracket: bytes) -> None:
    deep = (bracket * depth)[:6000]
    closed = deep + b"1" + (b"]" * depth if bracket == b"[" else b"}" * depth)
    for part in (deep, closed):
        assert_refused(signed(part, json.dumps(CLAIMS).encode(), SECRET))
        assert_refused(signed(b'{"alg":"HS256"}', part, SECRET))


@pytest.mark.parametrize(
    "token",
    [
        "",
        " ",
        ".",
        "..",
        "...",
        "a.b.c",
        "a.b",
        "é.é.é",
        "\ud800",
        "\0",
        "a" * 8192,
        "." * 8192,
        f"{hs()}.",
        f".{hs()}",
        f"{hs()}x",
        hs()[:-1],
        hs().replace(".", ","),
        f"Bearer {hs()}",
    ],
)
def test_a_text_that_is_not_a_token_is_refused(token: str) -> None:
    assert_refused(token)


@pytest.mark.parametrize("part", [b"", b"null", b"[]", b'"text"', b"5", b"\xff", b"{", b"{}"])
def test_a_header_or_claims_that_are_no_object_are_refused(part: bytes) -> None:
    assert_refused(signed(part, json.dumps(CLAIMS).encode(), SECRET))
    assert_refused(signed(b'{"alg":"HS256"}', part, SECRET))


@given(st.text() | st.binary() | st.lists(st.text(), min_size=3, max_size=3).map(".".join))
def test_any_invalid_text_is_refused(token: Any) -> None:
    assert_refused(token)


@given(
    header=st.dictionaries(st.sampled_from(["alg", "typ", "crit", "b64"]), st.text() | st.none()),
    claims=st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "iat", "jti", "aud", "iss", "topics", "at_hash"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda values: st.lists(values) | st.dictionaries(st.text(), values),
            max_leaves=5,
        ),
        max_size=3,
    ),
)
def test_any_signed_claims_are_accepted_or_refused(
    header: dict[str, Any], claims: dict[str, Any]
) -> None:
    full = {**CLAIMS, **claims}
    token = handmade({"alg": "HS256", **header}, full, SECRET)
    try:
        principal = verifier().verify(token)
    except Unauthenticated:
        return
    assert principal.subject == full["sub"]
    assert principal.expires_at is not None
    assert principal.expires_at > datetime.now(UTC)


# what an error does not reveal


def _chain(error: BaseException | None) -> list[BaseException]:
    if error is None:
        return []
    shown = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return [error, *_chain(shown)]


@pytest.mark.parametrize(
    "token",
    [
        hs(exp=YESTERDAY),
        jwt.encode(CLAIMS, ANOTHER_SECRET),
        hs(topics="tasks"),
        without("sub"),
        "not-a-token-but-a-secret",
        "secret.secret.secret",
        hs(pad="x" * MAX_TOKEN_LENGTH),
        signed(b"\xffrubbish", b"{}", SECRET),
        hs().encode(),
    ],
    ids=range(9),
)
def test_a_refusal_repeats_neither_the_token_nor_the_secret(token: str | bytes) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        verifier(audience=None).verify(token)

    shown = "".join(traceback.format_exception(refusal.value))
    shown += "".join(f"{e} {e!r} {e.args} {vars(e)}" for e in _chain(refusal.value))
    text = token.decode() if isinstance(token, bytes) else token
    for secret in (SECRET, text, *filter(lambda part: len(part) > 10, text.split("."))):
        assert secret not in shown


@pytest.mark.parametrize("key", [" \t", RSA_PUBLIC])
def test_a_refused_key_is_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="key") as refusal:
        TokenVerifier(key)

    assert key not in "".join(traceback.format_exception(refusal.value))


def test_a_principal_does_not_print_its_claims() -> None:
    assert "swordfish" not in repr(verifier().verify(hs(password="swordfish")))


# where the token is


@pytest.mark.parametrize(
    ("fields", "token"),
    [
        ({}, None),
        ({"Authorization": "Bearer x"}, "x"),
        ({"authorization": "bearer x"}, "x"),
        ({"AUTHORIZATION": "BEARER   x "}, "x"),
        ({"authorization": "x"}, "x"),
        ({"authorization": " x "}, "x"),
        ({"token": "x"}, "x"),
        ({"Token": "Bearer x"}, "x"),
        ({"authToken": "x"}, "x"),
        ({"authtoken": "x"}, "x"),
        ({"authToken": "z", "token": "y", "Authorization": "Bearer x"}, "x"),
        ({"authToken": "z", "token": "y"}, "y"),
        ({"authorization": "", "token": "y"}, "y"),
        ({"authorization": None, "token": "y"}, "y"),
        ({"authorization": None}, None),
        ({"authorization": ""}, None),
        ({"authorization": "Bearer"}, ""),
        ({"authorization": "Bearer "}, ""),
        ({"authorization": "Basic x"}, "Basic x"),
        ({"authorization": "Bearerx"}, "Bearerx"),
        ({"authorization": 5}, 5),
        ({"token": ["x"]}, ["x"]),
        ({"token": False}, False),
        ({"headers": {"Authorization": "x"}}, None),
        ({"password": "x"}, None),
    ],
)
def test_the_token_is_found_where_clients_put_it(fields: Mapping[str, Any], token: Any) -> None:
    assert find_token(fields) == token


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Basic x", 5, ["x"], False])
def test_a_value_that_is_not_a_token_is_refused(value: Any) -> None:
    assert_refused(find_token({"Authorization": value}))


# how long a secret is


@pytest.mark.parametrize(("algorithm", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_shorter_than_its_algorithms_hash_is_warned_of_once(
    algorithm: str, least: int, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    # Two bytes for each character.
    short, long = "é" * (least // 2 - 1) + "x", "é" * (least // 2)

    fixed(settings(jwt_secret=long, jwt_algorithm=algorithm))
    assert caplog.messages == []
    for _ in range(2):
        fixed(settings(jwt_secret=short, jwt_algorithm=algorithm))
    [warning] = caplog.messages
    assert f"has {least - 1} bytes, but {algorithm} needs {least} or more" in warning
    assert short not in warning


def test_the_length_of_a_public_key_causes_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    fixed(settings(jwt_secret=EC_PUBLIC, jwt_algorithm="ES256"))
    assert caplog.messages == []


# signing


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_token_of_sign_is_accepted_by_verify(algorithm: str) -> None:
    made = settings(jwt_audience="us", jwt_issuer="them", jwt_algorithm=algorithm)
    by = fixed(made)

    principal = by.verify(sign({**CLAIMS, "topics": {"publish": ["a.*"]}}, made))
    assert (principal.subject, principal.publish) == ("alice", ("a.*",))
    assert (principal.claims["aud"], principal.claims["iss"]) == ("us", "them")


def test_given_claims_override_the_settings() -> None:
    made = settings(jwt_audience="us")

    assert jwt.get_unverified_claims(sign({"aud": "them"}, made)) == {"aud": "them"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"jwt_secret": None}, "not set"),
        ({"jwt_secret": " "}, "empty"),
        ({"jwt_secret": RSA_PUBLIC}, "public key"),
        ({"jwt_secret": CERTIFICATE}, "HS256"),
        ({"jwt_secret": RSA_PRIVATE, "jwt_algorithm": "RS256"}, "private key"),
    ],
)
def test_without_a_suitable_secret_nothing_is_signed(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        sign(CLAIMS, settings(**options))
