"""The task service over HTTP, with the clients urql and graphql-tools."""

from pathlib import Path

import pytest

from tests.e2e.conftest import SECRET
from tests.e2e.tokens import token
from tests.servers import run_node, serving

pytestmark = pytest.mark.processes

EXPECTED = {
    "query": {"me": {"subject": "alice"}},
    "mutation": {"createTask": {"__typename": "Task"}},
    "subscription": {"taskEvents": {"kind": "CREATED"}},
}


@pytest.mark.parametrize("client", ["urql", "executor"])
def test_a_client_over_http_gets_its_results(client: str, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/tasks.db"
    with serving("schema.app:app", tmp_path, jwt_secret=SECRET, database_url=database) as server:
        results = run_node("http.mjs", url=f"{server.http}/graphql", token=token())
    assert results[client] == {
        kind: {"data": data, "errors": None} for kind, data in EXPECTED.items()
    }
