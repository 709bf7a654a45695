"""Keys from an address, served by a real server."""

import asyncio
import gc
import gzip
import json
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from time import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jose import jwk, jwt
from starlette.types import Receive, Scope, Send

from gqlnotify import Settings
from gqlnotify.auth import KeySetVerifier, TokenVerifier, verifier_from
from gqlnotify.auth.jwks import MAX_BYTES, KeySet
from gqlnotify.errors import KeysUnavailable, TokenExpired, TokenNotYetValid, Unauthenticated
from tests.auth.forging import (
    CLAIMS,
    EC_PRIVATE,
    EC_PUBLIC,
    RSA_PRIVATE,
    RSA_PUBLIC,
    RSA_PUBLIC_DER,
    SECRET,
    YESTERDAY,
    b64,
    handmade,
    pair,
)
from tests.servers import running
from tests.waiting import wait_until

OTHER_PRIVATE, OTHER_PUBLIC, _ = pair(rsa.generate_private_key(65537, 2048))
SMALL_PRIVATE, SMALL_PUBLIC, _ = pair(rsa.generate_private_key(65537, 1024))
EC_384_PRIVATE, EC_384_PUBLIC, _ = pair(ec.generate_private_key(ec.SECP384R1()))


def described(public: str, kid: str | None = "a", algorithm: str = "RS256", **more: Any) -> Any:
    """Return a public key as an entry of a key set, without the members that are None."""
    members = {**jwk.construct(public, algorithm).to_dict(), "kid": kid, "use": "sig", **more}
    return {name: value for name, value in members.items() if value is not None}


@cache
def signing(private: str) -> Any:
    """Return a key for RS256. To load a private key of RSA takes long: OpenSSL checks it."""
    return jwk.construct(private, "RS256")


def rs(private: str = RSA_PRIVATE, kid: Any = "a", **claims: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode({**CLAIMS, **claims}, signing(private), algorithm="RS256", headers=headers)


class KeyServer:
    """Serves a key set, or errors, and counts the requests."""

    def __init__(self, *keys: Any) -> None:
        self.keys: Any = list(keys)
        self.requests = 0
        self.status = 200
        self.body: bytes | None = None
        self.headers: dict[str, str] = {}
        self.answers = asyncio.Event()
        self.answers.set()
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.requests += 1
        await self.answers.wait()
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def verifier(self, algorithm: str = "RS256", **options: Any) -> KeySetVerifier:
        made = {"cache": 3600.0, "again": 3600.0, "timeout": 20.0, **options}
        return verifier_of(KeySet(self.url, algorithm=algorithm, **made), algorithm)


def verifier_of(keys: KeySet, algorithm: str = "RS256") -> KeySetVerifier:
    from gqlnotify.auth import Rules

    return KeySetVerifier(keys, Rules(algorithm=algorithm))


@asynccontextmanager
async def serving(*keys: Any) -> AsyncIterator[KeyServer]:
    server = KeyServer(*keys)
    async with running(server, lifespan="off") as origin:
        server.url = f"http://{origin}/keys"
        try:
            yield server
        finally:
            server.answers.set()


async def assert_refused(token: Any, by: KeySetVerifier) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as refusal:
        await by.verify(token)
    assert refusal.value.is_guess
    return refusal.value


# which key


@pytest.mark.processes
async def test_each_token_is_checked_with_the_key_that_it_names() -> None:
    async with serving(described(RSA_PUBLIC), described(OTHER_PUBLIC, "b")) as server:
        by = server.verifier()
        assert (await by(rs(), object())).subject == "alice"
        assert (await by.verify(rs(OTHER_PRIVATE, "b"))).subject == "alice"
        assert server.requests == 1


@pytest.mark.processes
async def test_id_tokens_work_with_keys_from_an_address() -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        by = server.verifier()
        assert (await by.verify(rs(at_hash="uSJL6nQhUOb5mbtFtuLfrw", nbf=time() + 5))).subject
        with pytest.raises(TokenNotYetValid):
            await by.verify(rs(nbf=time() + 60))
        await assert_refused(rs(OTHER_PRIVATE, nbf=time() + 60), by)


@pytest.mark.processes
async def test_a_key_does_not_sign_under_the_name_of_another() -> None:
    async with serving(described(RSA_PUBLIC), described(OTHER_PUBLIC, "b")) as server:
        by = server.verifier()
        await assert_refused(rs(RSA_PRIVATE, "b"), by)
        await assert_refused(rs(OTHER_PRIVATE, "a"), by)


@pytest.mark.processes
async def test_a_token_that_names_no_key_means_the_only_one_there_is() -> None:
    async with serving(described(RSA_PUBLIC), described(EC_PUBLIC, "b", "ES256")) as server:
        assert (await server.verifier().verify(rs(kid=None))).subject == "alice"
    async with serving(described(RSA_PUBLIC), described(OTHER_PUBLIC, "b")) as server:
        await assert_refused(rs(kid=None), server.verifier())


@pytest.mark.processes
async def test_two_keys_of_one_name_are_none() -> None:
    async with serving(described(RSA_PUBLIC), described(OTHER_PUBLIC)) as server:
        await assert_refused(rs(), server.verifier())


@pytest.mark.processes
@pytest.mark.parametrize("kid", [None, 5, [], {}, ["a"], True])
async def test_a_key_id_that_is_not_a_string_is_refused_without_a_request(kid: Any) -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        token = handmade({"alg": "RS256", "kid": kid}, CLAIMS, RSA_PUBLIC)
        await assert_refused(token, server.verifier())
        assert server.requests == 0


async def test_a_refusal_keeps_no_connection_in_memory() -> None:
    # Through its traceback. Only the garbage collector would free a cycle.
    verifier = verifier_of(KeySet("http://127.0.0.1/", algorithm="RS256", cache=1.0, timeout=1.0))
    refusal: Any = None
    gc.disable()
    try:
        await verifier.verify("no token")
    except Unauthenticated as error:
        refusal = weakref.ref(error)
    finally:
        gc.enable()
    assert refusal() is None


@pytest.mark.processes
async def test_elliptic_curve_keys_are_read() -> None:
    async with serving(described(EC_PUBLIC, "a", "ES256")) as server:
        token = jwt.encode(CLAIMS, EC_PRIVATE, algorithm="ES256", headers={"kid": "a"})
        assert (await server.verifier("ES256").verify(token)).subject == "alice"


OCT = {"kty": "oct", "k": b64(SECRET.encode()), "kid": "a"}
UNFIT: Mapping[str, Any] = {
    "a secret": OCT,
    "a secret that says RS256": {**OCT, "alg": "RS256"},
    "another family": described(EC_PUBLIC, "a", "ES256"),
    "another family that says RS256": described(EC_PUBLIC, "a", "ES256", alg="RS256"),
    "another algorithm": described(RSA_PUBLIC, alg="RS512"),
    "for encryption": described(RSA_PUBLIC, use="enc"),
    "for signing": described(RSA_PUBLIC, key_ops=["sign"]),
    "operations that are no list": described(RSA_PUBLIC, key_ops="verify"),
    "too small": described(SMALL_PUBLIC),
    "without a modulus": described(RSA_PUBLIC, n=None),
    "with a broken modulus": described(RSA_PUBLIC, n=5),
    "no type": described(RSA_PUBLIC, kty=None),
    "no object": "a",
    "nothing": None,
    "a list": [],
}


@pytest.mark.processes
@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT.keys())
async def test_a_key_of_another_algorithm_is_ignored(unfit: Any) -> None:
    async with serving(unfit, described(OTHER_PUBLIC, "b")) as server:
        by = server.verifier()
        for private in (RSA_PRIVATE, SMALL_PRIVATE):
            await assert_refused(rs(private), by)
        for secret in (SECRET, RSA_PUBLIC, RSA_PUBLIC_DER):
            for algorithm in ("HS256", "RS256"):
                header = {"alg": algorithm, "kid": "a"}
                await assert_refused(handmade(header, CLAIMS, secret), by)
        assert (await by.verify(rs(OTHER_PRIVATE, "b"))).subject == "alice"


@pytest.mark.processes
async def test_a_curve_of_another_size_does_not_fit() -> None:
    other = described(EC_384_PUBLIC, "b", "ES384", alg=None)
    async with serving(described(EC_PUBLIC, "a", "ES256"), other) as server:
        token = jwt.encode(CLAIMS, EC_384_PRIVATE, algorithm="ES384", headers={"kid": "b"})
        await assert_refused(token, server.verifier("ES256"))


@pytest.mark.processes
async def test_the_private_part_of_a_key_is_not_even_read() -> None:
    numbers = load_pem_private_key(RSA_PRIVATE.encode(), None)
    assert isinstance(numbers, rsa.RSAPrivateKey)
    async with serving(described(RSA_PUBLIC, d="not a number")) as server:
        assert (await server.verifier().verify(rs())).subject == "alice"


@pytest.mark.processes
async def test_a_key_or_an_address_that_the_token_brings_along_is_not_used() -> None:
    async with (
        serving(described(OTHER_PUBLIC, "b")) as evil,
        serving(described(RSA_PUBLIC)) as server,
    ):
        by = server.verifier()
        for brought in ({"jwk": described(OTHER_PUBLIC)}, {"jku": evil.url}, {"x5u": evil.url}):
            headers = {"kid": "a", **brought}
            forged = jwt.encode(CLAIMS, signing(OTHER_PRIVATE), algorithm="RS256", headers=headers)
            await assert_refused(forged, by)
            good = jwt.encode(CLAIMS, signing(RSA_PRIVATE), algorithm="RS256", headers=headers)
            assert (await by.verify(good)).subject == "alice"
        assert evil.requests == 0


@pytest.mark.processes
async def test_the_other_rules_are_those_of_a_single_key() -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        by = server.verifier()
        for token in (None, 5, "", "a.b.c", "x" * 9000, rs(sub="")):
            await assert_refused(token, by)
        crit = jwt.encode(
            CLAIMS, RSA_PRIVATE, algorithm="RS256", headers={"kid": "a", "crit": ["b64"]}
        )
        await assert_refused(crit, by)
        with pytest.raises(TokenExpired):
            await by.verify(rs(exp=YESTERDAY))


# when they are fetched


@pytest.mark.processes
async def test_a_key_that_is_new_is_fetched_when_a_token_names_it() -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        by = server.verifier(again=0)
        await by.verify(rs())
        server.keys = [described(RSA_PUBLIC), described(OTHER_PUBLIC, "b")]

        assert (await by.verify(rs(OTHER_PRIVATE, "b"))).subject == "alice"
        assert server.requests == 2


@pytest.mark.processes
async def test_a_removed_key_is_refused_once_the_cache_has_expired() -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        by = server.verifier(cache=0.001, again=0)
        await by.verify(rs())
        server.keys = [described(OTHER_PUBLIC, "b")]

        await assert_refused(rs(), by)


@pytest.mark.processes
async def test_many_unknown_key_ids_cause_few_requests() -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        by = server.verifier()
        await by.verify(rs())
        unknown = [rs(kid=f"unknown {n}") for n in range(20)]
        await asyncio.gather(*(assert_refused(token, by) for token in unknown))

        assert server.requests == 1


@pytest.mark.processes
async def test_concurrent_tokens_wait_for_one_request() -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        server.answers.clear()
        by = server.verifier()
        waiting = [asyncio.create_task(by.verify(rs())) for _ in range(10)]
        await wait_until(lambda: server.requests)
        waiting[0].cancel()
        server.answers.set()
        principals = await asyncio.gather(*waiting[1:])

        assert [principal.subject for principal in principals] == ["alice"] * 9
        assert server.requests == 1


# when the address fails

FAILURES: Mapping[str, dict[str, Any]] = {
    "an error": {"status": 500},
    "nothing there": {"status": 404},
    "a redirect": {"status": 302, "headers": {"location": "/elsewhere"}},
    "no JSON": {"body": b"<html>"},
    "no UTF-8": {"body": b"\xff\xfe\x00"},
    "deep JSON": {"body": b"[" * 100_000},
    "no set": {"body": b"[]"},
    "no list": {"body": b'{"keys": {}}'},
    "no key": {"body": b'{"keys": []}'},
    "no key that fits": {"body": json.dumps({"keys": [OCT]}).encode()},
    "too much": {"body": b" " * (MAX_BYTES + 1)},
    "compressed": {
        "body": gzip.compress(b" " * 10_000_000),
        "headers": {"content-encoding": "gzip"},
    },
}


@pytest.mark.processes
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
async def test_without_keys_a_token_is_refused_and_the_client_can_retry(
    failure: dict[str, Any],
) -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        vars(server).update(failure)
        by = server.verifier()
        for _ in range(3):
            with pytest.raises(KeysUnavailable) as refusal:
                await by.verify(rs())
        assert (refusal.value.http_status, refusal.value.close_code) == (503, 1013)
        assert server.requests == 1


@pytest.mark.processes
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
async def test_while_the_address_fails_the_last_good_keys_are_used(failure: dict[str, Any]) -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        by = server.verifier(cache=0.001, again=0)
        await by.verify(rs())
        vars(server).update(failure)

        for _ in range(3):
            assert (await by.verify(rs())).subject == "alice"
        assert server.requests >= 2
        with pytest.raises(KeysUnavailable):
            await by.verify(rs(OTHER_PRIVATE, "b"))


@pytest.mark.processes
async def test_once_the_address_answers_again_its_keys_are_used() -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        server.status = 500
        by = server.verifier(again=0)
        with pytest.raises(KeysUnavailable):
            await by.verify(rs())
        server.status = 200

        assert (await by.verify(rs())).subject == "alice"


@pytest.mark.processes
async def test_a_slow_address_is_given_up() -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        server.answers.clear()
        with pytest.raises(KeysUnavailable):
            await server.verifier(timeout=0.1).verify(rs())


@pytest.mark.processes
async def test_tokens_with_a_known_key_do_not_wait_for_an_address_that_fails() -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        by = server.verifier(cache=0.001, again=0)
        await by.verify(rs())
        server.status = 500
        await by.verify(rs())
        server.answers.clear()

        # The server hangs, and the request runs in the background.
        for _ in range(10):
            assert (await by.verify(rs())).subject == "alice"


@pytest.mark.processes
async def test_no_server_listens_at_the_address() -> None:
    async with serving() as server:
        url = server.url
    with pytest.raises(KeysUnavailable):
        await verifier_of(KeySet(url, algorithm="RS256")).verify(rs())


# which address


@pytest.mark.parametrize(
    "url",
    [
        "http://keys.example.org/jwks.json",
        "http://10.0.0.1/jwks.json",
        "http://127.0.0.1.example.org/",
        "http://localhost.example.org/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https:///jwks.json",
        "keys.example.org",
        "http://[::1/",
        "",
        "https://example.org:port/",
    ],
)
def test_an_address_that_others_could_answer_for_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address of the key set"):
        KeySet(url, algorithm="RS256")


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="password") as refusal:
        KeySet("https://me:swordfish@example.org/", algorithm="RS256")
    assert "swordfish" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    ["https://example.org/k", "http://localhost:1/k", "http://127.0.0.1/k", "http://[::1]:80/k"],
)
def test_https_and_this_machine_are_trusted(url: str) -> None:
    KeySet(url, algorithm="ES256")


# the settings


@pytest.mark.processes
async def test_the_settings_make_the_verifier() -> None:
    async with serving(described(RSA_PUBLIC)) as server:
        by = verifier_from(
            Settings(jwks_url=server.url, jwt_algorithm="RS256", jwt_audience="us", jwt_issuer="me")
        )
        assert isinstance(by, KeySetVerifier)
        assert (await by.verify(rs(aud="us", iss="me"))).subject == "alice"
        await assert_refused(rs(), by)
        await assert_refused(rs(aud="them", iss="me"), by)
        await assert_refused(rs(aud="us", iss="them"), by)


def test_a_secret_and_an_address_at_once_are_refused() -> None:
    both = Settings(
        jwt_secret=SECRET,  # type: ignore[arg-type]
        jwks_url="https://example.org/k",
        jwt_algorithm="RS256",
    )
    with pytest.raises(ValueError, match=r"JWT_SECRET.*JWKS_URL.*both set") as refusal:
        verifier_from(both)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("algorithm", ["HS256", "HS512"])
def test_a_secret_is_not_fetched_from_an_address(algorithm: Any) -> None:
    with pytest.raises(ValueError, match="needs a secret"):
        verifier_from(Settings(jwks_url="https://example.org/k", jwt_algorithm=algorithm))


def test_a_secret_needs_no_http_client() -> None:
    assert isinstance(verifier_from(Settings(jwt_secret=SECRET)), TokenVerifier)  # type: ignore[arg-type]


# what an error does not reveal


@pytest.mark.processes
async def test_a_failure_repeats_neither_the_token_nor_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    async with serving() as server:
        server.body = b'{"keys": "swordfish"}'
        by = server.verifier()
        token = rs()
        with pytest.raises(KeysUnavailable) as refusal:
            await by.verify(token)

        error = refusal.value
        assert error.__context__ is None
        shown = f"{error!r} {error.args} {vars(error)} {by!r} {vars(by)} {caplog.text}"
        for secret in ("swordfish", *token.split(".")):
            assert secret not in shown
        assert "Could not fetch keys from 127.0.0.1" in caplog.text
