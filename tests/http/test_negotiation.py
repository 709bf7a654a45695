"""The media type and the status code of an answer."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from strawberry.schema.config import StrawberryConfig

from gqlnotify import GraphQLRouter
from gqlnotify.execution import is_request_error, status_of
from gqlnotify.http.negotiation import GRAPHQL_RESPONSE, JSON, negotiate
from tests.applications import ALL_PROTOCOLS, COUNT, HELLO, events, http, parts, schema_of


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        ("", JSON),
        (",", JSON),
        (";q=1", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/html", JSON),
        (JSON, JSON),
        (GRAPHQL_RESPONSE, GRAPHQL_RESPONSE),
        (f"  {GRAPHQL_RESPONSE}  ;  charset=utf-8 ; q=0.3 ", GRAPHQL_RESPONSE),
        (f"{GRAPHQL_RESPONSE};Q=0.3, {JSON};Q=0.4", JSON),
        (f"{GRAPHQL_RESPONSE};q=0", JSON),
        (f"{GRAPHQL_RESPONSE};q=", JSON),
        (f"{GRAPHQL_RESPONSE};q=nan", JSON),
        (f"{GRAPHQL_RESPONSE};q=-1", JSON),
        (f"{GRAPHQL_RESPONSE}, */*", GRAPHQL_RESPONSE),
        (f"{GRAPHQL_RESPONSE};q=0.2, */*;q=0.9", JSON),
        (f"{GRAPHQL_RESPONSE};q=0.2, application/*;q=0.9", JSON),
        (f"{GRAPHQL_RESPONSE};q=0.2, {JSON};q=0.1, */*;q=0.9", GRAPHQL_RESPONSE),
    ],
)
def test_the_media_type_is_the_one_that_the_client_prefers(
    accept: str | None, expected: str
) -> None:
    assert negotiate(accept) == expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"data": {"a": 1}}, False),
        ({"data": None}, False),
        ({"data": None, "errors": []}, False),
        ({"data": None, "errors": [{"message": "syntax"}]}, True),
        ({"errors": [{"message": "syntax"}]}, True),
        ({"data": None, "errors": [{"message": "of a field", "path": ["a"]}]}, False),
        ({"data": {"a": None}, "errors": [{"message": "of a field", "path": ["a"]}]}, False),
    ],
)
def test_a_request_error_has_neither_data_nor_a_path(
    result: dict[str, Any], expected: bool
) -> None:
    assert is_request_error(result) is expected


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([None], 400),
        (["SOMETHING_ELSE"], 400),
        ([["not", "a", "string"]], 400),
        (["BAD_USER_INPUT"], 400),
        (["FORBIDDEN"], 400),
        (["TOO_MANY_TOPICS"], 400),
        (["EXECUTION_CANCELLED"], 500),
        (["EXECUTION_TIMEOUT"], 500),
        (["INTERNAL_SERVER_ERROR"], 500),
        (["BROKER_UNAVAILABLE"], 503),
        (["BAD_USER_INPUT", "EXECUTION_CANCELLED"], 500),
    ],
)
def test_a_request_error_has_the_status_of_the_side_that_is_at_fault(
    codes: list[object], expected: int
) -> None:
    errors: list[dict[str, Any]] = [{"extensions": {"code": code}} for code in codes]
    assert status_of({"data": None, "errors": errors}) == expected
    assert status_of({"data": None, "errors": [{**errors[0], "path": ["a"]}]}) == 200


URQL = (
    "application/graphql-response+json, application/graphql+json, application/json, "
    "text/event-stream, multipart/mixed"
)
APOLLO = 'multipart/mixed;boundary="graphql";subscriptionSpec=1.0,application/json'
ASKED = {
    "query": HELLO,
    "mutation": 'mutation { echo(text: "a") }',
    "subscription": COUNT,
}
STREAM = "text/event-stream"
PARTS = "multipart/mixed"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    router = GraphQLRouter(schema_of(), subscription_protocols=ALL_PROTOCOLS)
    async with http(router) as client:
        yield client


@pytest.mark.processes
@pytest.mark.parametrize(
    ("accept", "kind", "expected"),
    [
        (URQL, "query", GRAPHQL_RESPONSE),
        (URQL, "mutation", GRAPHQL_RESPONSE),
        (URQL, "subscription", STREAM),
        (APOLLO, "query", JSON),
        (APOLLO, "subscription", PARTS),
        ("Multipart/Mixed; subscriptionSpec=1.0", "query", JSON),
        ("Multipart/Mixed; subscriptionSpec=1.0", "subscription", PARTS),
        (f"{STREAM}, {JSON}", "query", JSON),
        (f"{JSON};q=0.5, {STREAM}", "query", STREAM),
        (f"{JSON};q=0.5, {STREAM};q=0.4", "query", JSON),
        (f"{STREAM};q=0.4, */*", "query", JSON),
        (STREAM, "query", STREAM),
        (f"{JSON}, {STREAM};q=0.1", "subscription", STREAM),
        (f"{STREAM};q=0, {JSON}", "subscription", JSON),
        (f"{STREAM};q=0.1, {APOLLO}", "subscription", PARTS),
        ("*/*", "query", JSON),
        ("*/*", "subscription", JSON),
        (JSON, "subscription", JSON),
    ],
)
async def test_an_operation_is_answered_as_the_client_likes_best(
    client: httpx.AsyncClient, accept: str, kind: str, expected: str
) -> None:
    answer = await client.post("/graphql", json={"query": ASKED[kind]}, headers={"accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == expected
    if kind == "subscription" and expected == JSON:
        (error,) = answer.json()["errors"]
        assert error["extensions"]["code"] == "BAD_USER_INPUT"
        for way in ("graphql-transport-ws", STREAM, "subscriptionSpec"):
            assert way in error["message"]
    elif expected == STREAM:
        assert "\r" not in answer.text
        assert events(answer.text)[0][0] == "next"
    elif expected == PARTS:
        assert answer.headers["content-type"] == (
            'multipart/mixed;boundary="graphql";subscriptionSpec=1.0'
        )
        assert answer.text.endswith("\r\n--graphql--\r\n")
        assert len(parts(answer.text)) == 2
    else:
        assert "errors" not in answer.json()
    if expected in {STREAM, PARTS}:
        assert "no-cache" in answer.headers["cache-control"]
        assert answer.headers["x-accel-buffering"] == "no"


@pytest.mark.processes
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_subscription_without_a_stream_leaves_no_traceback(
    client: httpx.AsyncClient, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    request: dict[str, Any] = {"json" if method == "POST" else "params": {"query": COUNT}}
    answer = await client.request(method, "/graphql", **request)
    assert answer.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain,application/json", 415),
        ("text/plain; application/json", 415),
        ("application/jsonp", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ],
)
async def test_a_body_is_read_as_json_only_if_its_content_type_says_so(
    client: httpx.AsyncClient, content_type: str, status: int
) -> None:
    content = json.dumps({"query": HELLO})
    headers = {"content-type": content_type}
    answer = await client.post("/graphql", content=content, headers=headers)
    assert answer.status_code == status


@pytest.mark.processes
@pytest.mark.parametrize(("accept", "status"), [(URQL, 200), (APOLLO, 200), (STREAM, 400)])
async def test_a_batch_is_only_answered_in_json(accept: str, status: int) -> None:
    batching = StrawberryConfig(batching_config={"max_operations": 2})
    router = GraphQLRouter(schema_of(config=batching), subscription_protocols=ALL_PROTOCOLS)
    async with http(router) as client:
        request = [{"query": HELLO}] * 2
        answer = await client.post("/graphql", json=request, headers={"accept": accept})
    assert answer.status_code == status
