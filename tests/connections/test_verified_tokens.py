"""The cache of verified tokens."""

import sys
from datetime import UTC, datetime
from time import time
from typing import Any

import pytest

from gqlnotify import GraphQLRouter, Principal, Settings
from gqlnotify.connections.verified_tokens import VerifiedTokens
from tests.applications import HELLO, application, client_of, schema_of
from tests.e2e.conftest import SECRET
from tests.e2e.raw import open_socket
from tests.e2e.tokens import token
from tests.message_app import MessageApp
from tests.servers import running
from tests.waiting import wait_until


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def principal(subject: str = "alice", *, seconds: float = 60, **claims: Any) -> Principal:
    expires_at = datetime.fromtimestamp(Clock.now + seconds, UTC)
    return Principal(subject, expires_at=expires_at, claims=claims)


def test_a_verified_token_is_found_until_it_expires() -> None:
    clock = Clock()
    verified = VerifiedTokens(now=clock)
    verified.add("a", principal())

    assert verified.find("a") == principal()
    clock.now += 59.9
    assert verified.find("a") == principal()
    clock.now += 0.1
    assert verified.find("a") is None


def test_a_token_without_expiry_is_cached_as_long_as_its_key_can_be() -> None:
    clock = Clock()
    verified = VerifiedTokens(seconds=300, now=clock)
    verified.add("a", Principal("alice"))
    verified.add("b", principal(seconds=10))

    clock.now += 10
    assert verified.find("a") == Principal("alice")
    assert verified.find("b") is None
    clock.now += 290
    assert verified.find("a") is None


def test_keys_that_change_bound_how_long_a_token_is_found() -> None:
    url = "https://keys.example/jwks.json"
    verified = VerifiedTokens.of(
        Settings(jwks_url=url, jwt_algorithm="RS256", jwks_cache=sys.float_info.min)
    )
    verified.add("a", Principal("alice"))

    assert verified.find("a") is None


@pytest.mark.parametrize("other", [None, 5, b"a", ["a"], "", "A", "a ", "\ud800"])
def test_only_the_very_token_is_found(other: Any) -> None:
    verified = VerifiedTokens(now=Clock())
    verified.add("a", principal())

    assert verified.find(other) is None


def test_the_size_of_claims_counts_and_the_oldest_tokens_are_evicted() -> None:
    clock = Clock()
    verified = VerifiedTokens(max_bytes=200_000, now=clock)
    heavy: dict[str, Any] = {"groups": [["member"] for _ in range(500)]}
    for number in range(20):
        verified.add(str(number), principal(str(number), **heavy))
        assert verified.find("0") is not None, "it was used just now"

    found = [number for number in range(20) if verified.find(str(number))]
    # Each list of one item takes 64 bytes, and a pointer to it.
    assert 3 <= len(found) <= 200_000 / (500 * 72)
    assert found[-1] == 19


def test_no_token_is_kept() -> None:
    text = f"secret-token-{time()}"
    verified = VerifiedTokens()
    before = sys.getrefcount(text)
    verified.add(text, principal())

    assert sys.getrefcount(text) == before


@pytest.mark.processes
async def test_a_token_that_was_verified_before_passes_while_its_address_waits() -> None:
    settings = Settings(jwt_secret=SECRET, max_failed_authentications=2)  # type: ignore[arg-type]
    app = application(GraphQLRouter(schema_of(), settings=settings))
    known, fresh, bad = token("known"), token("fresh"), token(secret="another, and long enough")
    async with running(app) as origin, client_of(origin) as client:

        async def status(text: str) -> int:
            headers = {"authorization": f"Bearer {text}"}
            answer = await client.post("/graphql", json={"query": HELLO}, headers=headers)
            return answer.status_code

        assert [await status(each) for each in (known, bad, bad, bad)] == [200, 401, 401, 429]
        assert [await status(each) for each in (known, fresh, known)] == [200, 429, 200]
        async with open_socket(f"ws://{origin}") as socket:
            await socket.init({"token": known})
        async with open_socket(f"ws://{origin}") as socket:
            await socket.send({"type": "connection_init", "payload": {"token": fresh}})
            assert (await socket.closed()).code == 1013


@pytest.mark.processes
async def test_a_token_that_was_verified_before_is_still_revoked() -> None:
    message_app = MessageApp()
    router = message_app.locked()
    known = {"authorization": f"Bearer {token(jti='one')}"}
    async with running(application(router)) as origin, client_of(origin) as client:
        body = {"query": "{ me }"}
        assert (await client.post("/graphql", json=body, headers=known)).status_code == 200
        assert router.revocations is not None
        await router.revocations.revoke(token_id="one")

        async def is_refused() -> bool:
            answer = await client.post("/graphql", json=body, headers=known)
            return "TOKEN_REVOKED" in answer.text

        await wait_until(is_refused)


@pytest.mark.processes
async def test_a_hook_of_the_application_decides_each_time() -> None:
    checked: list[str | None] = []

    def authenticate(given: str | None, connection: Any) -> Principal:
        checked.append(given)
        return Principal("alice")

    async with (
        running(application(MessageApp().router(authenticate=authenticate))) as origin,
        client_of(origin) as client,
    ):
        for _ in range(2):
            headers = {"authorization": "Bearer same"}
            await client.post("/graphql", json={"query": "{ me }"}, headers=headers)
    assert checked == ["same", "same"]
