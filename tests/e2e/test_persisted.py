"""A server that only answers the operations on its list, and a client that names them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import APP
from tests.e2e.test_graphql_ws_client import NUMBERS, following
from tests.execution.test_persisted import apollo, hash_of
from tests.servers import Server, serving

pytestmark = pytest.mark.processes

PUBLISH = 'mutation ($value: Int!) { publish(name: "listed", value: $value) }'


def named(document: str) -> dict[str, Any]:
    """Return the `extensions` with which Apollo's clients name a document."""
    extensions: dict[str, Any] = apollo(hash_of(document))["extensions"]
    return extensions


@pytest.fixture(scope="module")
def listed(path: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory: Path = tmp_path_factory.mktemp("listed")
    file = directory / "operations.json"
    file.write_text(json.dumps({hash_of(text): text for text in (NUMBERS, PUBLISH)}))
    with serving(APP, directory, *path, persisted_operations=file, only_persisted=True) as server:
        yield server


def publish(server: Server, value: int) -> str:
    with following(server, "", variables={"value": value}, extensions=named(PUBLISH)) as lines:
        return str(lines.read()["next"]["data"]["publish"])


def test_a_client_follows_and_resumes_an_operation_that_it_names(listed: Server) -> None:
    first, *_ = [publish(listed, value) for value in (1, 2)]
    extensions = {**named(NUMBERS), "after": first}
    with following(listed, "", variables={"name": "listed"}, extensions=extensions) as lines:
        assert lines.read()["next"]["data"] == {"numbers": {"value": 2}}
        publish(listed, 3)
        assert lines.read()["next"]["data"] == {"numbers": {"value": 3}}


def test_a_client_that_asks_for_another_document_is_refused(listed: Server) -> None:
    with following(listed, "{ hello }") as lines:
        [error] = lines.read()["error"]
    assert error["extensions"]["code"] == "OPERATION_NOT_ALLOWED"
