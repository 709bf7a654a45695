"""No log and no answer contains a token or the secret."""

import base64
from pathlib import Path
from typing import Any

import httpx
import pytest
from jose import jwt

from tests.applications import client_of
from tests.auth.forging import RSA_PRIVATE
from tests.e2e.conftest import SECRET
from tests.e2e.raw import open_socket
from tests.e2e.tokens import token
from tests.servers import DIRECT, Server, serving

pytestmark = pytest.mark.processes

APPLICATION = "tests.e2e.secretive:app"
HELLO = {"query": "{ hello }"}
PASSWORD = "hunter2"
HOW: list[dict[str, Any]] = [{"method": "POST", "json": HELLO}, {"method": "GET", "params": HELLO}]


def some_tokens() -> dict[str, str]:
    return {
        "good": token(password="swordfish"),
        "expired": token(expires_in=-600),
        "forged": token(secret="another secret"),
        "of another family": jwt.encode({"sub": "alice"}, RSA_PRIVATE, algorithm="RS256"),
        "without rights": token(topics="everything"),
        "too long": token(pad="x" * 9000),
        "none at all": "c2VjcmV0LXRoaW5n.c2VjcmV0LXRoaW5n.c2VjcmV0LXRoaW5n",
        "garbled": token()[:-1] + "é",
    }


def parts_of(bearer: str) -> list[str]:
    """Return the texts that must appear nowhere; the header of a token is not secret."""
    return [part[-16:] for part in bearer.split(".")[1:] if len(part) > 8]


def claims_of(bearer: str) -> str:
    part = bearer.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()


async def answers(server: Server, bearer: str) -> str:
    """Send `bearer` in every possible way, and return all answers."""
    text = ""
    for fail in ({}, {"x-fail": "1"}):
        headers = httpx.Headers({"authorization": f"Bearer {bearer}", **fail}, encoding="utf-8")
        for how in HOW:
            async with httpx.AsyncClient(
                base_url=server.http, trust_env=False, verify=False
            ) as client:
                answer = await client.request(url="/graphql", headers=headers, **how)
            text += answer.text + str(answer.headers)
        for payload in ({"Authorization": f"Bearer {bearer}"}, {"token": bearer}):
            async with open_socket(server.ws, additional_headers=fail) as socket:
                await socket.send({"type": "connection_init", "payload": payload})
                await socket.send({"type": "subscribe", "id": "1", "payload": HELLO})
                await socket.send({"type": "no such type"})
                text += (await socket.closed()).reason
    return text


async def test_tokens_and_secrets_reach_no_log_and_no_answer(tmp_path: Path) -> None:
    with serving(
        APPLICATION,
        tmp_path,
        *DIRECT,
        "--log-level",
        "debug",
        jwt_secret=SECRET,
        broker_url="memory://",
        database_url=f"postgresql://tasks:{PASSWORD}@localhost/tasks",
    ) as server:
        bearers = some_tokens()
        output = "".join([await answers(server, bearer) for bearer in bearers.values()])
        output += server.log

    assert "the hook fails" in server.log
    assert "The token is not valid" in output
    assert PASSWORD not in server.log
    for secret in (SECRET, "swordfish", *[p for b in bearers.values() for p in parts_of(b)]):
        assert secret not in output, secret
    for name in ("good", "expired", "forged"):
        assert claims_of(bearers[name]) not in output


async def test_a_token_in_the_query_string_is_ignored(tmp_path: Path) -> None:
    with serving(APPLICATION, tmp_path, jwt_secret=SECRET) as server:
        path = f"/graphql?token={token()}&access_token={token()}&authorization=Bearer%20{token()}"
        async with client_of(server.http.removeprefix("http://")) as client:
            assert (await client.post(path, json=HELLO)).status_code == 401
        async with open_socket(server.ws, path=path) as socket:
            await socket.send({"type": "connection_init"})
            assert (await socket.closed()).code == 4401
