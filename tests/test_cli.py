"""The command line, run as a user runs it: in a process of its own."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gqlnotify.auth import TokenVerifier

ROOT = Path(__file__).parent.parent
SECRET = "a secret that is long enough to be one"
COMMAND = [sys.executable, "-m", "gqlnotify"]


Settings = Mapping[str, str]


def environment(settings: Settings) -> Settings:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GQLNOTIFY_")}
    return {**inherited, "NO_COLOR": "1", "COLUMNS": "200", **settings}


def run(
    *arguments: str, settings: Settings | None = None, cwd: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(settings or {}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@contextmanager
def serving(
    *arguments: str, settings: Settings | None = None, cwd: Path = ROOT
) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [*COMMAND, "serve", *arguments],
        cwd=cwd,
        env=environment(settings or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.communicate()


def read_until(process: "subprocess.Popen[bytes]", text: str, seconds: float = 30) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    seen = ""
    while text not in seen:
        left = max(deadline - time.monotonic(), 0)
        ready, _, _ = select.select([process.stdout], [], [], left)
        assert ready, f"{text!r} did not come within {seconds} s; this did:\n{seen}"
        # Not readline(): what it leaves in its buffer, select() does not see.
        chunk = os.read(process.stdout.fileno(), 65536)
        assert chunk, f"the server ended before {text!r}:\n{seen}"
        seen += chunk.decode()
    return seen


def wait_for_http(url: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            httpx.get(url, headers={"accept": "text/html"}).raise_for_status()
        except httpx.HTTPError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.05)
        else:
            return


def test_token_prints_a_token_with_the_rights_asked_for_and_nothing_else() -> None:
    done = run(
        *("token", "--subject", "alice", "--subscribe", "tasks", "--subscribe", "tasks.*"),
        *("--publish", "tasks", "--expires-in", "60"),
        settings={"GQLNOTIFY_JWT_SECRET": SECRET},
    )

    assert done.returncode == 0
    assert done.stderr == ""
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.stdout)
    principal = TokenVerifier(SECRET).verify(done.stdout.strip())
    assert principal.subject == "alice"
    assert principal.subscribe == ("tasks", "tasks.*")
    assert principal.publish == ("tasks",)
    assert principal.expires_at is not None
    assert 0 < principal.expires_at.timestamp() - time.time() <= 60


def test_token_carries_the_audience_and_issuer_that_the_server_will_ask_for() -> None:
    done = run(
        *("token", "--subject", "alice"),
        settings={
            "GQLNOTIFY_JWT_SECRET": SECRET,
            "GQLNOTIFY_JWT_AUDIENCE": "tasks-api",
            "GQLNOTIFY_JWT_ISSUER": "us",
        },
    )

    verifier = TokenVerifier(SECRET, audience="tasks-api", issuer="us")
    assert verifier.verify(done.stdout.strip()).subject == "alice"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "GQLNOTIFY_JWT_SECRET is not set"),
        ({"GQLNOTIFY_JWT_SECRET": " "}, "empty"),
        ({"GQLNOTIFY_JWT_SECRET": "x", "GQLNOTIFY_JWT_ALGORITHM": "RS256"}, "private key"),
        ({"GQLNOTIFY_JWT_SECRET": "x", "GQLNOTIFY_JWT_ALGORITHM": "none"}, "JWT_ALGORITHM"),
    ],
)
def test_token_says_what_is_wrong_with_the_key(settings: dict[str, str], complaint: str) -> None:
    done = run("token", "--subject", "alice", settings=settings)

    assert done.returncode == 2
    assert done.stdout == ""
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "complaint"),
    [
        (["--host", "0.0.0.0"], {}, "GQLNOTIFY_JWT_SECRET is not set"),
        (["--host", "example.org"], {}, "GQLNOTIFY_JWT_SECRET is not set"),
        (["--workers", "2"], {"GQLNOTIFY_JWT_SECRET": SECRET}, "can't share events over memory://"),
        (["schema.app"], {}, "write it as module:attribute"),
        (["no.such.module:app"], {}, "There is no module 'no.such.module'"),
        ([], {"GQLNOTIFY_PING_INTERVAL": "-1"}, "GQLNOTIFY_PING_INTERVAL"),
        ([], {"GQLNOTIFY_BROKER_URL": "carrier-pigeon://"}, "carrier-pigeon"),
    ],
)
def test_serve_refuses_what_can_not_work_and_says_why(
    arguments: list[str], settings: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    database = {"GQLNOTIFY_DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db"}
    done = run("serve", "--port", "0", *arguments, settings={**database, **settings})

    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_finds_applications_in_the_working_directory_alone(tmp_path: Path) -> None:
    done = run("serve", cwd=tmp_path)

    assert done.returncode == 2
    assert f"There is no module 'schema.app' in {tmp_path}" in done.stderr
    assert "gqlnotify serve module:attribute" in done.stderr


def test_serve_without_a_secret_prints_a_token_that_works_and_where_graphiql_is(
    tmp_path: Path,
) -> None:
    database = {"GQLNOTIFY_DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db"}
    with serving("--port", "0", settings=database) as process:
        greeting = read_until(process, "Application startup complete")
        address = re.search(r"GraphiQL: +(http://127\.0\.0\.1:\d+/graphql)\n", greeting)
        token = re.search(r'"Bearer ([^"]+)"', greeting)
        assert address is not None
        assert token is not None
        wait_for_http(address[1])

        answers = [
            httpx.post(address[1], json={"query": "{ me { subject } }"}, headers=headers)
            for headers in ({}, {"authorization": f"Bearer {token[1]}"})
        ]

    assert answers[0].status_code == 401
    assert answers[1].json() == {"data": {"me": {"subject": "developer"}}}


def test_serve_takes_an_application_of_ones_own_from_the_working_directory(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text((ROOT / "examples" / "minimal.py").read_text())
    with serving(
        "mine:app", "--port", "0", settings={"GQLNOTIFY_JWT_SECRET": SECRET}, cwd=tmp_path
    ) as process:
        log = read_until(process, "Uvicorn running on")
        address = re.search(r"Uvicorn running on (http://\S+)", log)
        assert address is not None

        answer = httpx.post(f"{address[1]}/graphql", json={"query": "{ hello }"})

    assert answer.status_code == 401
    assert "GraphiQL" not in log


def test_serve_with_reload_keeps_the_secret_that_it_printed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text((ROOT / "examples" / "minimal.py").read_text())
    with serving("mine:app", "--port", "0", "--reload", cwd=tmp_path) as process:
        log = read_until(process, "Application startup complete")
        address = re.search(r"GraphiQL: +(http://\S+)", log)
        token = re.search(r'"Bearer ([^"]+)"', log)
        assert address is not None
        assert token is not None

        answer = httpx.post(
            address[1],
            json={"query": "{ hello }"},
            headers={"authorization": f"Bearer {token[1]}"},
        )

    assert answer.json() == {"data": {"hello": "world"}}
