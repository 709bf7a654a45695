"""A cookie can carry the token, but not for the pages of other sites."""

from typing import Any

import httpx
import pytest

from gqlnotify import GraphQLRouter, Settings
from tests.applications import ALL_PROTOCOLS, EVENT_STREAM, http
from tests.e2e.conftest import SECRET
from tests.e2e.tokens import token
from tests.message_app import MESSAGE_TEXTS, MessageApp

FRIEND = "https://friend.example"
ME = {"query": "{ me }"}


def router(message_app: MessageApp, **options: Any) -> GraphQLRouter[Any, Any]:
    options = {"jwt_secret": SECRET, "token_cookie": "session", **options}
    return message_app.router(settings=Settings(**options), subscription_protocols=ALL_PROTOCOLS)


def code_of(answer: httpx.Response) -> str:
    [error] = answer.json()["errors"]
    return str(error["extensions"]["code"])


def cookie(name: str = "session", **claims: Any) -> dict[str, str]:
    return {"cookie": f"{name}={token(**claims)}"}


PAGES: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"origin": "http://{host}"}, True),
    ({"sec-fetch-site": "same-origin"}, True),
    ({"sec-fetch-site": "none"}, True),
    ({"origin": "https://here.example", "sec-fetch-site": "same-origin"}, True),
    ({"origin": FRIEND, "sec-fetch-site": "cross-site"}, True),
    ({"origin": "https://evil.example"}, False),
    ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, False),
    ({"origin": "null"}, False),
    ({"sec-fetch-site": "cross-site"}, False),
    ({"sec-fetch-site": "same-site"}, False),
]


@pytest.mark.processes
async def test_only_pages_that_may_use_the_cookie(message_app: MessageApp) -> None:
    async with http(router(message_app, allowed_origins=(FRIEND,))) as client:
        host = client.base_url.netloc.decode()
        for page, enters in PAGES:
            headers = {name: value.format(host=host) for name, value in page.items()}
            headers |= cookie()
            for answer in (
                await client.get("/graphql", params=ME, headers=headers),
                await client.post("/graphql", json=ME, headers=headers),
            ):
                if enters:
                    assert answer.json() == {"data": {"me": "alice"}}, page
                else:
                    assert (answer.status_code, code_of(answer)) == (403, "FORBIDDEN"), page
                    assert "GQLNOTIFY_ALLOWED_ORIGINS" in answer.text


@pytest.mark.processes
async def test_the_header_comes_before_the_cookie(message_app: MessageApp) -> None:
    headers = {
        **cookie(),
        "authorization": f"Bearer {token(subject='bob')}",
        "origin": "https://evil.example",
    }
    async with http(router(message_app)) as client:
        answer = await client.post("/graphql", json=ME, headers=headers)
    assert answer.json() == {"data": {"me": "bob"}}


@pytest.mark.processes
async def test_without_the_cookie_there_is_no_token(message_app: MessageApp) -> None:
    async with http(router(message_app)) as client:
        for sent in (cookie("other"), {"cookie": "session="}, {}):
            answer = await client.post("/graphql", json=ME, headers=sent)
            assert (answer.status_code, code_of(answer)) == (401, "UNAUTHENTICATED")
    async with http(router(message_app, token_cookie=None)) as client:
        answer = await client.post("/graphql", json=ME, headers=cookie())
        assert (answer.status_code, code_of(answer)) == (401, "UNAUTHENTICATED")


@pytest.mark.processes
async def test_a_page_can_change_nothing_with_get(message_app: MessageApp) -> None:
    async with http(router(message_app)) as client:
        for accept in ({}, EVENT_STREAM):
            answer = await client.get(
                "/graphql",
                params={"query": 'mutation { say(text: "by an image") }'},
                headers={**cookie(), **accept},
            )
            assert "data" not in answer.text or '"data":null' in answer.text
    assert not message_app.topics.readers


@pytest.mark.processes
async def test_an_expired_cookie_refuses_the_stream(message_app: MessageApp) -> None:
    headers = {**EVENT_STREAM, **cookie(expires_in=-1)}
    async with http(router(message_app)) as client:
        answer = await client.get("/graphql", params={"query": MESSAGE_TEXTS}, headers=headers)
    # An EventSource gives up at any status but 200.
    assert (answer.status_code, code_of(answer)) == (401, "UNAUTHENTICATED")


def test_a_cookie_is_not_for_every_page(message_app: MessageApp) -> None:
    with pytest.raises(ValueError, match="Name the origins, or unset GQLNOTIFY_TOKEN_COOKIE"):
        router(message_app, allowed_origins=("*",))
