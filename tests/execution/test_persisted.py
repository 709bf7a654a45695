"""Documents that the operator has listed: clients can name them, or may use no others."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from strawberry.schema.config import StrawberryConfig

from gqlnotify import GraphQLRouter, Settings
from gqlnotify.execution.persisted import PersistedOperations, read
from tests.applications import (
    COUNT,
    EVENT_STREAM,
    HELLO,
    MULTIPART,
    SSE,
    post,
    schema_of,
)
from tests.applications import events as server_sent
from tests.applications import parts as multiparts
from tests.e2e.raw import Socket
from tests.execution import both_ways

OTHER = "{ nested { hello } }"


def hash_of(document: str) -> str:
    return sha256(document.encode()).hexdigest()


def apollo(name: str) -> dict[str, Any]:
    return {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": name}}}


NAMINGS = [apollo, lambda name: {"documentId": name}, lambda name: {"id": name, "query": ""}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "operations.json"
    path.write_text(json.dumps({hash_of(text): text for text in (HELLO, COUNT)}))
    return path


def router_with(file: Path, **settings: Any) -> GraphQLRouter[Any, Any]:
    return GraphQLRouter(
        schema_of(config=StrawberryConfig(batching_config={"max_operations": 5})),
        settings=Settings(persisted_operations=file, **settings),
        subscription_protocols=("graphql-transport-ws", SSE, "multipart-subscription"),
    )


async def ask(socket: Socket, payload: dict[str, Any]) -> dict[str, Any]:
    await socket.send({"id": "1", "type": "subscribe", "payload": payload})
    return await socket.receive()


@pytest.mark.processes
@pytest.mark.parametrize("naming", NAMINGS)
async def test_a_document_can_be_named_on_every_transport(naming: Any, file: Path) -> None:
    async with both_ways(router_with(file)) as (client, socket):
        hello, count = naming(hash_of(HELLO)), naming(hash_of(COUNT))
        assert (await client.post("/graphql", json=hello)).json() == {"data": {"hello": "world"}}
        parameters = {k: v if isinstance(v, str) else json.dumps(v) for k, v in hello.items()}
        by_get = await client.get("/graphql", params=parameters)
        assert by_get.json() == {"data": {"hello": "world"}}
        batch = await client.post("/graphql", json=[hello, {"query": HELLO}, naming("no")])
        assert [answer["data"] for answer in batch.json()] == [{"hello": "world"}] * 2 + [None]
        assert await ask(socket, hello) == {
            "id": "1",
            "type": "next",
            "payload": {"data": {"hello": "world"}},
        }
        by_sse = await client.post("/graphql", json=count, headers=EVENT_STREAM)
        assert server_sent(by_sse.text)[0][1]["data"] == {"count": 1}
        by_parts = await client.post("/graphql", json=count, headers=MULTIPART)
        assert multiparts(by_parts.text)[0]["data"] == {"count": 1}


@pytest.mark.processes
@pytest.mark.parametrize("naming", NAMINGS)
async def test_an_unknown_name_gets_the_error_that_clients_know(naming: Any, file: Path) -> None:
    async with both_ways(router_with(file)) as (client, socket):
        answer = (await client.post("/graphql", json=naming("0" * 64))).json()
        message = await ask(socket, naming("0" * 64))
        for error in (answer["errors"][0], message["payload"][0]):
            assert error["message"] == "PersistedQueryNotFound"
            assert error["extensions"]["code"] == "PERSISTED_QUERY_NOT_FOUND"
        assert await socket.query(OTHER) == {"nested": {"hello": "world"}}


@pytest.mark.processes
async def test_where_only_persisted_ones_are_allowed_no_other_gets_through(file: Path) -> None:
    async with both_ways(router_with(file, only_persisted=True)) as (client, socket):
        assert await post(client, HELLO) == {"data": {"hello": "world"}}
        assert await socket.query(HELLO) == {"hello": "world"}
        for document in (OTHER, HELLO + " ", "{ __typename }", "not GraphQL {"):
            for smuggled in ({}, apollo(hash_of(HELLO)), {"documentId": hash_of(HELLO)}):
                payload = {"query": document, **smuggled}
                answer = (await client.post("/graphql", json=payload)).json()
                message = await ask(socket, payload)
                for error in (answer["errors"][0], message["payload"][0]):
                    assert error["extensions"]["code"] == "OPERATION_NOT_ALLOWED"
        by_sse = await client.post("/graphql", json={"query": OTHER}, headers=EVENT_STREAM)
        assert "OPERATION_NOT_ALLOWED" in by_sse.text


def test_apollos_manifest_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    operations = [{"id": hash_of(HELLO), "body": HELLO, "name": "A", "type": "query"}]
    manifest = {"format": "apollo-persisted-query-manifest", "version": 1}
    path.write_text(json.dumps({**manifest, "operations": operations}))

    assert read(path) == {hash_of(HELLO): HELLO}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ('{"a": 1}', "a must be a document"),
        ('{"a": "{"}', "a: Syntax Error"),
        (json.dumps({"0" * 64: HELLO}), "0 is not the SHA-256"),
        ('{"format": "apollo-persisted-query-manifest", "version": 2}', "version 1"),
        (
            '{"format": "apollo-persisted-query-manifest", "version": 1, "operations": [{}]}',
            "operation 0",
        ),
    ],
)
def test_a_bad_file_is_refused_at_the_start(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "operations.json"
    path.write_text(content)

    with pytest.raises(ValueError, match=says) as refusal:
        GraphQLRouter(schema_of(), settings=Settings(persisted_operations=path))
    assert str(path) in str(refusal.value)


def test_requiring_persisted_documents_needs_a_list() -> None:
    with pytest.raises(ValueError, match="persisted_operations"):
        GraphQLRouter(schema_of(), settings=Settings(only_persisted=True))
    with pytest.raises(ValueError, match="persisted_operations"):
        PersistedOperations({}, only=True)
