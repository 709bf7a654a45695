"""Random documents and bodies for the task service over HTTP."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.schema.client import SECRET, token
from tests.servers import DIRECT, PATIENCE, ROOT, Server, serving

pytestmark = pytest.mark.processes

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
TYPES = (
    "application/json",
    "text/plain",
    "multipart/form-data",
    "application/graphql",
    "x",
    "é",
    "",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory: Path = tmp_path_factory.mktemp("tasks")
    database_url = f"sqlite:///{directory}/tasks.db"
    with serving(
        "schema.app:app", directory, *DIRECT, jwt_secret=SECRET, database_url=database_url
    ) as server:
        yield server


@pytest.fixture(autouse=True)
def quiet_log(service: Server) -> Iterator[None]:
    yield
    assert service.trouble == []
    assert "Traceback" not in service.log


@pytest.mark.parametrize("bearer", [True, False], ids=["with a token", "without one"])
def test_no_document_of_the_schema_brings_more_than_an_error_with_a_code(
    service: Server, bearer: bool, tmp_path: Path
) -> None:
    # In a process of its own: schemathesis registers checks and scalars for the whole process.
    command = [sys.executable, "-m", "schemathesis.cli", "run"]
    schema = str(ROOT / "schema" / "schema.graphql")
    options = ["--url", f"{service.http}/graphql", "--checks", "answers_cleanly", "--no-color"]
    limits = ["--max-examples", str(EXAMPLES), "--generation-database", "none"]
    headers = ["--header", f"Authorization: Bearer {token()}"] if bearer else []
    run = subprocess.run(
        [*command, schema, *options, *limits, *headers],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.fuzz.http_hooks",
            "PYTHONPATH": str(ROOT),
        },
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    generated = re.search(r"(\d+) generated", run.stdout)
    assert generated
    print(generated[0])
    assert int(generated[1]) >= 2 * EXAMPLES


def test_no_body_brings_more_than_a_4xx_in_json(service: Server) -> None:
    rng = Random()
    with httpx.Client(base_url=service.http, trust_env=False, timeout=PATIENCE) as client:
        for _ in range(30 * EXAMPLES):
            method = rng.choice(["POST"] * 6 + ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
            body, headers = _body(rng), _headers(rng)
            answer = client.request(method, _target(rng), content=body, headers=headers)
            assert answer.status_code < 500, (method, body[:200], headers, answer.text)
            if answer.status_code >= 400 and answer.content:
                assert "json" in answer.headers["content-type"], (method, body[:200], answer.text)
                assert answer.json()


def _target(rng: Random) -> str:
    queries = ("", "?query={__typename}", "?query=", "?query=%ff", "?variables=[", "?extensions=1")
    return f"/graphql{rng.choice(queries)}"


def _body(rng: Random) -> bytes:
    good = b'{"query":"{ tasks { eventCursor } }","variables":{}}'
    at = rng.randrange(len(good))
    return rng.choice(
        [
            b"",
            b"null",
            b"[]",
            b"[" * 50_000,
            b'"\xff"',
            b'{"query":1}',
            b'{"query":"{ tasks }","variables":[]}',
            b"--x\r\nContent-Disposition: form-data; name=operations\r\n\r\n{\r\n--x--\r\n",
            rng.randbytes(rng.choice((1, 50, 5000))),
            b"x" * 300_000,
            good[:at] + rng.randbytes(3) + good[at + rng.randrange(4) :],
        ]
    )


def _headers(rng: Random) -> dict[bytes, bytes]:
    kind = rng.choice(TYPES) + rng.choice(["", "; charset=utf-8", "; charset=no", "; boundary=x"])
    accept = rng.choice(
        ["*/*", "application/json", "text/html", "", "text/event-stream", "a/b;q=x"]
    )
    bearer = rng.choice([token(), "", "x", "x.y.z", "\xff", "x" * 9000])
    headers = {"Content-Type": kind, "Accept": accept, "Authorization": f"Bearer {bearer}".strip()}
    if rng.random() < 0.05:
        headers["X-Long"] = "x" * 40_000
    return {name.encode(): value.encode("latin-1") for name, value in headers.items()}
