"""GraphQL over HTTP as its draft specifies it, against a real server."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.servers import NO_TLS, Server, run_node

JSON = "application/json"
RESPONSE = "application/graphql-response+json"
HELLO = {"query": "{ hello }"}


@pytest.fixture(scope="module")
def audit(server: Server) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = run_node("audit.mjs", http=f"{server.http}/graphql")
    return results


@pytest.mark.parametrize("word", ["MUST", "SHOULD", "MAY"])
def test_the_audit_of_graphql_http_finds_nothing(audit: list[dict[str, Any]], word: str) -> None:
    audited = [result for result in audit if result["name"].startswith(word)]
    assert audited
    assert [result for result in audited if result["status"] != "ok"] == []


def test_the_audit_is_whole(audit: list[dict[str, Any]]) -> None:
    assert len(audit) >= 60


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    before = len(server.trouble)
    async with httpx.AsyncClient(base_url=server.http, trust_env=False, verify=NO_TLS) as client:
        yield client
    assert server.trouble[before:] == []


def media_type(answer: httpx.Response) -> str:
    return answer.headers["content-type"].partition(";")[0]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (JSON, JSON),
        (RESPONSE, RESPONSE),
        (f"{RESPONSE}; charset=utf-8", RESPONSE),
        (RESPONSE.upper(), RESPONSE),
        (f"{RESPONSE}, {JSON}", RESPONSE),
        (f"{JSON}, {RESPONSE}", RESPONSE),
        (f"{RESPONSE}, {JSON};q=0.9, */*;q=0.1", RESPONSE),
        (f"{RESPONSE};q=0.5, {JSON}", JSON),
        (f"{RESPONSE};q=0.5, {JSON};q=0.4", RESPONSE),
        (f"{RESPONSE};q=0, {JSON}", JSON),
        (f"{RESPONSE};q=0, */*", JSON),
        (f"{RESPONSE};q=0.2, */*;q=0.9", JSON),
        (f"text/html, {RESPONSE};q=nonsense", JSON),
    ],
)
@pytest.mark.parametrize("query", ["{ hello }", "{ unknown }"])
async def test_the_media_type_is_negotiated(
    client: httpx.AsyncClient, accept: str | None, expected: str, query: str
) -> None:
    request = client.build_request("POST", "/graphql", json={"query": query})
    request.headers.pop("accept", None)
    if accept is not None:
        request.headers["accept"] = accept
    answer = await client.send(request)
    assert media_type(answer) == expected
    failed = query == "{ unknown }"
    assert answer.status_code == (400 if failed and expected == RESPONSE else 200)
    assert ("data" in answer.json()) is not (failed and expected == RESPONSE)


@pytest.mark.parametrize("accept", [JSON, RESPONSE])
async def test_an_error_of_a_field_is_a_partial_success(
    client: httpx.AsyncClient, accept: str
) -> None:
    answer = await client.post(
        "/graphql", json={"query": "{ hello fails }"}, headers={"accept": accept}
    )
    assert answer.status_code == 200
    assert answer.json()["data"] == {"hello": "world", "fails": None}


@pytest.mark.parametrize(
    "query",
    ["{", "", "{ unknown }", "query A { hello } query B { hello }", "query ($a: Int!) { hello }"],
)
async def test_an_operation_that_cannot_run_is_a_bad_request(
    client: httpx.AsyncClient, query: str
) -> None:
    answer = await client.post("/graphql", json={"query": query}, headers={"accept": RESPONSE})
    assert answer.status_code == 400
    assert answer.json().keys() == {"errors"}


async def test_a_mutation_by_get_is_not_allowed(client: httpx.AsyncClient) -> None:
    params = {"query": 'mutation { open(gate: "by get") }'}
    for accept in (JSON, RESPONSE):
        answer = await client.get("/graphql", params=params, headers={"accept": accept})
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
        assert answer.json()["errors"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_another_method_is_not_allowed(client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, "/graphql")
    assert answer.status_code == 405
    assert answer.headers["allow"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/x-www-form-urlencoded", ""]
)
async def test_another_content_type_is_not_supported(
    client: httpx.AsyncClient, content_type: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = await client.post("/graphql", content=json.dumps(HELLO).encode(), headers=headers)
    assert answer.status_code == 415
    assert answer.json()["errors"]


async def test_the_charset_may_be_named(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    answer = await client.post("/graphql", content=json.dumps(HELLO).encode(), headers=headers)
    assert answer.json() == {"data": {"hello": "world"}}


BAD_BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"[1]",
    b"[null]",
    b'["{ hello }"]',
    b"1",
    b"true",
    b'"{ hello }"',
    b"{}",
    b"\xff\xfe",
    b'{"query": "\xff"}',
    b'{"query": NaN}',
    b'{"query": null}',
    b'{"query": 1}',
    b'{"query": ["{ hello }"]}',
    b'{"query": {"a": 1}}',
    b'{"query": "{ hello }", "variables": NaN}',
    b'{"query": "{ hello }", "variables": []}',
    b'{"query": "{ hello }", "variables": "{}"}',
    b'{"query": "{ hello }", "extensions": "x"}',
    b'{"query": "{ hello }", "extensions": []}',
    b'{"query": "{ hello }", "operationName": 1}',
    b'{"query": "{ hello }", "operationName": {}}',
    b'{"query": "{ hello }", "operationName": []}',
    b'{"query": "{ hello }", "n": ' + b"9" * 5000 + b"}",
    b"[" * 20_000,
    b'{"query":' * 20_000,
    b'{"query": "{ hello }", "variables": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: ascii(body)[:40])
@pytest.mark.parametrize("accept", [JSON, RESPONSE])
async def test_a_bad_body_is_a_bad_request(
    client: httpx.AsyncClient, body: bytes, accept: str
) -> None:
    headers = {"content-type": JSON, "accept": accept}
    answer = await client.post("/graphql", content=body, headers=headers)
    assert answer.status_code == 400
    assert media_type(answer) == accept
    assert answer.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    "params",
    [
        {"query": "{ hello }", "variables": "{"},
        {"query": "{ hello }", "variables": "[]"},
        {"query": "{ hello }", "variables": "1"},
        {"query": "{ hello }", "variables": "[" * 5_000},
        {"query": "{ hello }", "extensions": "1"},
    ],
    ids=lambda params: ascii(params)[:60],
)
async def test_bad_parameters_are_a_bad_request(
    client: httpx.AsyncClient, params: dict[str, str]
) -> None:
    answer = await client.get("/graphql", params=params, headers={"accept": RESPONSE})
    assert answer.status_code == 400
    assert answer.json()["errors"]


async def test_parameters_of_get_are_read(client: httpx.AsyncClient) -> None:
    params = {
        "query": "query A($text: String!) { echo(text: $text) } query B { hello }",
        "variables": '{"text": "é"}',
        "operationName": "A",
    }
    answer = await client.get("/graphql", params=params, headers={"accept": RESPONSE})
    assert answer.json() == {"data": {"echo": "é"}}


@pytest.mark.parametrize("opening", ["{ hello ", "{", "{ echo(text: [", "query ($a: ["])
async def test_a_query_nested_ten_thousand_deep_is_a_bad_request(
    client: httpx.AsyncClient, opening: str
) -> None:
    answer = await client.post(
        "/graphql", json={"query": opening * 10_000}, headers={"accept": RESPONSE}
    )
    assert answer.status_code == 400
    assert answer.json()["errors"]


async def test_a_lone_surrogate_is_echoed_unchanged(client: httpx.AsyncClient) -> None:
    body = json.dumps(
        {"query": "query ($t: String!) { echo(text: $t) }", "variables": {"t": "\ud800"}}
    )
    answer = await client.post("/graphql", content=body.encode(), headers={"content-type": JSON})
    assert json.loads(answer.text) == {"data": {"echo": "\ud800"}}


@pytest.mark.parametrize("accept", [JSON, RESPONSE, "*/*"])
async def test_no_token_is_unauthorised(locked: Server, accept: str) -> None:
    async with httpx.AsyncClient(base_url=locked.http, trust_env=False, verify=NO_TLS) as client:
        for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "Basic eDp5"}):
            answer = await client.post(
                "/graphql", json=HELLO, headers={"accept": accept, **headers}
            )
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert media_type(answer) == (RESPONSE if accept == RESPONSE else JSON)
            assert answer.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
