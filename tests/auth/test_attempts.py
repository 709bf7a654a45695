"""An address can try a limited number of bad tokens."""

from time import time
from typing import Any

import pytest

from gqlnotify import GraphQLRouter, Settings
from gqlnotify.auth.attempts import FailedAttempts
from gqlnotify.errors import TooManyAttempts
from tests.applications import HELLO, application, bearer, client_of, post, schema_of
from tests.e2e.conftest import SECRET
from tests.e2e.raw import open_socket
from tests.e2e.tokens import token
from tests.servers import running


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail(attempts: FailedAttempts, address: str, times: int) -> None:
    for _ in range(times):
        attempts.check(address)
        attempts.failed(address)


def test_an_address_has_its_failures_a_minute_and_then_waits() -> None:
    clock = Clock()
    attempts = FailedAttempts(20, now=clock)
    fail(attempts, "192.0.2.1", 20)

    with pytest.raises(TooManyAttempts) as refusal:
        attempts.check("192.0.2.1")
    assert refusal.value.extensions["retryAfter"] == 3
    attempts.check("192.0.2.2")
    attempts.check(None)

    clock.now += 3
    fail(attempts, "192.0.2.1", 1)
    with pytest.raises(TooManyAttempts):
        attempts.check("192.0.2.1")
    clock.now += 60
    fail(attempts, "192.0.2.1", 20)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("x" * 100, "x" * 1000, True),
        ("somebody", "else", False),
    ],
)
def test_an_address_is_what_a_customer_has(one: str, other: str, same: bool) -> None:
    attempts = FailedAttempts(1, now=Clock())
    attempts.failed(one)
    if same:
        with pytest.raises(TooManyAttempts):
            attempts.check(other)
    else:
        attempts.check(other)


def test_a_bounded_number_of_addresses_is_remembered() -> None:
    attempts = FailedAttempts(1, max_addresses=2, now=Clock())
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3"):
        attempts.failed(address)

    assert len(attempts) == 2
    attempts.check("192.0.2.2")
    with pytest.raises(TooManyAttempts):
        attempts.check("192.0.2.1")


@pytest.mark.processes
async def test_an_address_with_too_many_bad_tokens_has_to_wait() -> None:
    settings = Settings(jwt_secret=SECRET, max_failed_authentications=2)  # type: ignore[arg-type]
    app = application(GraphQLRouter(schema_of(), settings=settings))
    async with running(app) as origin, client_of(origin) as client:
        for _ in range(3):
            assert (await client.post("/graphql", json={"query": HELLO})).status_code == 401
            old = {"authorization": f"Bearer {token(expires_in=-5)}"}
            answer = await client.post("/graphql", json={"query": HELLO}, headers=old)
            assert answer.status_code == 401
            early = {"authorization": f"Bearer {token(nbf=time() + 60)}"}
            answer = await client.post("/graphql", json={"query": HELLO}, headers=early)
            assert answer.status_code == 401
            assert answer.json()["errors"][0]["extensions"]["code"] == "TOKEN_NOT_YET_VALID"
            async with open_socket(f"ws://{origin}") as socket:
                await socket.send({"type": "connection_init", "payload": early})
                assert (await socket.closed()).code == 4403
        assert await post(client, HELLO, headers=bearer()) == {"data": {"hello": "world"}}

        # A forged token with an old or future time still counts.
        refused: list[tuple[int, Any]] = [
            (401, {"expires_in": -5}),
            (401, {"nbf": time() + 60}),
            (429, {}),
        ]
        for status, times in refused:
            bad = token(secret="another, and long enough it is", **times)
            headers = {"authorization": f"Bearer {bad}"}
            answer = await client.post("/graphql", json={"query": HELLO}, headers=headers)
            assert answer.status_code == status
        good = bearer(subject="somebody who was not here before")
        answer = await client.post("/graphql", json={"query": HELLO}, headers=good)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert answer.json()["errors"][0]["extensions"]["code"] == "TOO_MANY_ATTEMPTS"
        async with open_socket(f"ws://{origin}") as socket:
            await socket.send({"type": "connection_init", "payload": good})
            assert (await socket.closed()).code == 1013
