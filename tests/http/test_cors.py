"""One setting says which pages may open a socket and send requests."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gqlnotify import GraphQLRouter, Settings, add_cors
from tests.applications import ALL_PROTOCOLS, EVENT_STREAM, schema_of

FRIEND = "https://friend.example"
QUERY = {"query": "{ hello }"}


def client_of(*allowed: str) -> httpx.AsyncClient:
    settings = Settings(allowed_origins=allowed)
    app = FastAPI()
    add_cors(app, settings)
    router: Any = GraphQLRouter(
        schema_of(), path="/graphql", settings=settings, subscription_protocols=ALL_PROTOCOLS
    )
    app.include_router(router)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def ask(client: httpx.AsyncClient, origin: str) -> httpx.Response:
    """Ask as a browser does before a request with a token."""
    wanted = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return await client.options("/graphql", headers=wanted)


@pytest.mark.parametrize("written", [FRIEND, "https://FRIEND.example:443/"])
async def test_a_page_of_a_listed_origin_may_send_requests_and_cookies(written: str) -> None:
    async with client_of(written) as client:
        asked = await ask(client, FRIEND)
        answer = await client.post("/graphql", json=QUERY, headers={"origin": FRIEND})

    assert asked.status_code == 200
    assert "authorization" in asked.headers["access-control-allow-headers"]
    for each in (asked, answer):
        assert each.headers["access-control-allow-origin"] == FRIEND
        assert each.headers["access-control-allow-credentials"] == "true"


async def test_a_stream_may_be_read_too() -> None:
    async with client_of(FRIEND) as client:
        answer = await client.post(
            "/graphql",
            json={"query": "subscription { count }"},
            headers={**EVENT_STREAM, "origin": FRIEND},
        )
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["access-control-allow-origin"] == FRIEND


@pytest.mark.parametrize(
    "origin", ["https://other.example", "http://friend.example", "https://friend.example:444"]
)
@pytest.mark.parametrize("allowed", [(), (FRIEND,)])
async def test_a_page_of_another_origin_may_not(allowed: tuple[str, ...], origin: str) -> None:
    async with client_of(*allowed) as client:
        asked = await ask(client, origin)
        answer = await client.post("/graphql", json=QUERY, headers={"origin": origin})
    assert asked.status_code in {400, 405}
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("allowed", [("*",), (FRIEND, "*")])
async def test_no_page_may_send_cookies_if_all_may_send_requests(allowed: tuple[str, ...]) -> None:
    async with client_of(*allowed) as client:
        for answer in (
            await ask(client, "https://other.example"),
            await client.post("/graphql", json=QUERY, headers={"origin": FRIEND, "cookie": "a=b"}),
        ):
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers


async def test_what_is_no_origin_is_refused() -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        add_cors(FastAPI(), Settings(allowed_origins=("friend.example",)))
