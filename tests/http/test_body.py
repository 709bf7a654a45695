"""How much of a request's body is read."""

import json
from collections.abc import AsyncIterator

import pytest

from gqlnotify import GraphQLRouter, Settings
from tests.applications import HELLO, application, client_of, post, schema_of
from tests.servers import running

pytestmark = pytest.mark.processes

LIMIT = 1000
JSON = {"content-type": "application/json"}


def body_of(size: int) -> bytes:
    empty = json.dumps({"query": HELLO, "padding": ""}).encode()
    return empty.replace(b'""', b'"' + b"x" * (size - len(empty)) + b'"')


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_and_one_below_it_is_not(chunked: bool) -> None:
    router = GraphQLRouter(schema_of(), settings=Settings(body_max_bytes=LIMIT))
    async with running(application(router)) as origin, client_of(origin) as client:
        for size, status in ((LIMIT, 200), (LIMIT + 1, 413), (50 * LIMIT, 413)):
            body = body_of(size)
            content = in_chunks(body) if chunked else body
            answer = await client.post("/graphql", content=content, headers=JSON)
            assert answer.status_code == status
            if status == 413:
                assert answer.json()["errors"][0]["extensions"]["code"] == "BODY_TOO_BIG"
        assert await post(client, HELLO) == {"data": {"hello": "world"}}


async def test_an_upload_counts() -> None:
    router = GraphQLRouter(
        schema_of(), settings=Settings(upload_max_bytes=LIMIT), multipart_uploads_enabled=True
    )
    async with running(application(router)) as origin, client_of(origin) as client:
        form = {
            "operations": json.dumps(
                {"query": "mutation ($f: Upload!) { read(file: $f) }", "variables": {"f": None}}
            ),
            "map": json.dumps({"0": ["variables.f"]}),
        }
        small = await client.post("/graphql", data=form, files={"0": b"small"})
        large = await client.post("/graphql", data=form, files={"0": b"x" * LIMIT})
    assert small.json() == {"data": {"read": "small"}}
    assert large.status_code == 413
    assert "GQLNOTIFY_UPLOAD_MAX_BYTES" in large.json()["errors"][0]["message"]


async def test_ordinary_uploads_and_bodies_pass_by_default() -> None:
    router = GraphQLRouter(schema_of(), multipart_uploads_enabled=True)
    async with running(application(router)) as origin, client_of(origin) as client:
        request = {"query": "mutation ($f: Upload!) { read(file: $f) }", "variables": {"f": None}}
        form = {"operations": json.dumps(request), "map": json.dumps({"0": ["variables.f"]})}
        upload = await client.post("/graphql", data=form, files={"0": b"x" * 9_000_000})
        body = await client.post("/graphql", content=body_of(1_000_000), headers=JSON)
    assert len(upload.json()["data"]["read"]) == 9_000_000
    assert body.json() == {"data": {"hello": "world"}}
