"""`gqlnotify serve` serves an application, or says in one line why it can't."""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.cli.support import ROOT, SECRET, read_until, run, run_process, serving, wait_for_http

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("arguments", "settings", "complaint"),
    [
        (["--host", "0.0.0.0"], {}, "GQLNOTIFY_JWT_SECRET is not set"),
        (["--host", "example.org"], {}, "GQLNOTIFY_JWT_SECRET is not set"),
        ([], {"GQLNOTIFY_JWT_SECRET": " "}, "key is empty"),
        (
            [],
            {"GQLNOTIFY_JWT_SECRET": SECRET, "GQLNOTIFY_JWKS_URL": "https://example.org/k"},
            "GQLNOTIFY_JWT_SECRET and GQLNOTIFY_JWKS_URL are both set",
        ),
        ([], {"GQLNOTIFY_JWKS_URL": "https://example.org/k"}, "HS256 needs a secret"),
        (
            [],
            {"GQLNOTIFY_JWKS_URL": "http://example.org/k", "GQLNOTIFY_JWT_ALGORITHM": "RS256"},
            "must use https",
        ),
        (["--workers", "2"], {"GQLNOTIFY_JWT_SECRET": SECRET}, "can't share events over memory://"),
        (["schema.app"], {}, "Write it as module:attribute"),
        (["no.such.module:app"], {}, "There is no module 'no.such.module'"),
        ([], {"GQLNOTIFY_PING_INTERVAL": "-1"}, "GQLNOTIFY_PING_INTERVAL"),
        (
            [],
            {"GQLNOTIFY_JWT_AUDIENSE": "us"},
            "GQLNOTIFY_JWT_AUDIENSE is not a setting; did you mean GQLNOTIFY_JWT_AUDIENCE?",
        ),
        (
            [],
            {"GQLNOTIFY_DATABASE_ULR": "sqlite:///x"},
            "GQLNOTIFY_DATABASE_ULR is not a setting; did you mean GQLNOTIFY_DATABASE_URL?",
        ),
        (
            [],
            {"GQLNOTIFY_OUTBOX_LAG": "1"},
            "GQLNOTIFY_OUTBOX_LAG is not a setting; did you mean GQLNOTIFY_OUTBOX_MAX_LAG?",
        ),
        (
            ["--host", "0.0.0.0"],
            {"GQLNOTIFY_JWT_SECRET": "x" * 31},
            "GQLNOTIFY_JWT_SECRET has 31 bytes, but HS256 needs 32 or more",
        ),
        (
            ["--host", "::"],
            {"GQLNOTIFY_JWT_SECRET": "x" * 63, "GQLNOTIFY_JWT_ALGORITHM": "HS512"},
            "HS512 needs 64 or more",
        ),
        ([], {"GQLNOTIFY_BROKER_URL": "carrier-pigeon://"}, "carrier-pigeon"),
    ],
)
def test_serve_refuses_a_configuration_that_can_not_work_and_says_why(
    arguments: list[str], settings: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    database = {"GQLNOTIFY_DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db"}
    done = run("serve", "--port", "0", *arguments, settings={**database, **settings})

    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "complaint"),
    [
        (["--host", "203.0.113.7"], {}, "Can't listen on port 0 of 203.0.113.7: Cannot assign"),
        (["--host", "nowhere.invalid"], {}, "Can't listen on port 0 of nowhere.invalid"),
        (
            ["--reload"],
            {"DATABASE_URL": "mysql://a"},
            "GQLNOTIFY_DATABASE_URL must start with sqlite",
        ),
        (
            ["--workers", "2"],
            {"DATABASE_URL": "sqlite:///no/where/t.db"},
            "there is no directory no/where",
        ),
        ([], {"DATABASE_URL": "postgresql://a:hunter2@b:c/d"}, "is not the URL of a database"),
        (
            [],
            {"PERSISTED_OPERATIONS": "/no/file.json"},
            "No such file or directory: '/no/file.json'",
        ),
    ],
)
def test_serve_explains_in_one_line_what_an_operator_can_fix(
    arguments: list[str],
    settings: dict[str, str],
    complaint: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    defaults = {
        "JWT_SECRET": SECRET,
        "BROKER_URL": redis_url,
        "DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db",
    }
    named = {f"GQLNOTIFY_{name}": value for name, value in {**defaults, **settings}.items()}
    done = run_process("serve", "--port", "0", *arguments, settings=named)

    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("gqlnotify: ")
    assert complaint in line
    assert "hunter2" not in line


@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--reload"]], ids=" ".join)
def test_serve_names_a_port_in_use_before_anything_starts(more: list[str], redis_url: str) -> None:
    settings = {"GQLNOTIFY_JWT_SECRET": SECRET, "GQLNOTIFY_BROKER_URL": redis_url}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--port", port, *more, settings=settings)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"gqlnotify: Can't listen on port {port} of 127.0.0.1: Address already in use. "
        "Choose another one with --port or --host\n"
    )


FAILING = """
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(app):
    raise {error}
    yield

app = FastAPI(lifespan=lifespan)
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_that_fails_without_a_service_is_explained_in_one_line(
    workers: str, redis_url: str, tmp_path: Path
) -> None:
    error = "ConnectionRefusedError('no\\n service')"
    (tmp_path / "failing.py").write_text(FAILING.format(error=error))
    settings = {"GQLNOTIFY_JWT_SECRET": SECRET, "GQLNOTIFY_BROKER_URL": redis_url}
    done = run_process(
        *("serve", "failing:app", "--port", "0", "--workers", workers),
        settings=settings,
        cwd=tmp_path,
    )

    assert done.returncode == 2
    assert "ConnectionRefusedError: no service (failing.py, line 7)" in done.stderr
    assert "gqlnotify: failing:app can't start: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "startup complete" not in done.stderr


def test_a_start_that_fails_by_a_bug_shows_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING.format(error="KeyError('oops')"))
    done = run_process(
        *("serve", "failing:app", "--port", "0"),
        settings={"GQLNOTIFY_JWT_SECRET": SECRET},
        cwd=tmp_path,
    )

    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert "KeyError: 'oops'" in done.stderr


def test_localhost_listens_on_every_address_of_that_name(tmp_path: Path) -> None:
    settings = {
        "GQLNOTIFY_JWT_SECRET": SECRET,
        "GQLNOTIFY_DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db",
    }
    with serving("--host", "localhost", "--port", "0", settings=settings) as process:
        log = read_until(process, "Uvicorn running on")
        log += read_until(process, "\n") if not log.endswith("\n") else ""
        port = re.search(r"Uvicorn running on http://localhost:(\d+)", log)
        assert port is not None
        for address in addresses_here("localhost"):
            with socket.create_connection((address, int(port[1])), timeout=5):
                pass


def addresses_here(name: str) -> Iterator[str]:
    """Yield the addresses of `name` that this machine has."""
    for family, *_, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
        with suppress(OSError), socket.socket(family) as probe:
            probe.bind((address[0], 0))
            yield str(address[0])


def test_serve_warns_of_a_short_secret_on_a_loopback_address(tmp_path: Path) -> None:
    settings = {
        "GQLNOTIFY_JWT_SECRET": "short",
        "GQLNOTIFY_DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db",
        # A variable of another program, not a misspelt setting of ours.
        "GQLNOTIFY_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    }
    with serving("--port", "0", settings=settings) as process:
        log = read_until(process, "startup complete")

    assert "GQLNOTIFY_JWT_SECRET has 5 bytes, but HS256 needs 32 or more" in log
    assert "GQLNOTIFY_PORT_8000_TCP is not a setting" in log


SETTINGS_OF_ITS_OWN = """
import strawberry
from fastapi import FastAPI
from gqlnotify import GraphQLRouter, Settings

class ShopSettings(Settings):
    broker_urls: str = ""

@strawberry.type
class Query:
    @strawberry.field
    def urls(self) -> str:
        return settings.broker_urls

settings = ShopSettings()
app = FastAPI()
app.include_router(GraphQLRouter(strawberry.Schema(Query), settings=settings), prefix="/graphql")
"""


def test_serve_knows_the_settings_that_an_application_defines(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SETTINGS_OF_ITS_OWN)
    settings = {
        # It looks like a misspelt setting of the library, and is none.
        "GQLNOTIFY_BROKER_URLS": "a b",
        "GQLNOTIFY_DATABASE_URL": "sqlite:///x",
        "GQLNOTIFY_JWT_SECRET": SECRET,
    }
    with serving("shop:app", "--port", "0", settings=settings, cwd=tmp_path) as process:
        log = read_until(process, "startup complete")

    assert "GQLNOTIFY_BROKER_URLS" not in log
    assert log.count("GQLNOTIFY_DATABASE_URL is not a setting and has no effect") == 1
    wrong = {**settings, "GQLNOTIFY_BROKER_URLZ": "c"}
    done = run_process("serve", "shop:app", "--port", "0", settings=wrong, cwd=tmp_path)
    assert done.returncode == 2
    assert "gqlnotify: GQLNOTIFY_BROKER_URLZ is not a setting; did you mean" in done.stderr


def test_serve_looks_for_applications_only_in_the_working_directory(tmp_path: Path) -> None:
    done = run_process("serve", cwd=tmp_path)

    assert done.returncode == 2
    assert f"There is no module 'schema.app' in {tmp_path}" in done.stderr
    assert "gqlnotify serve module:attribute" in done.stderr


def test_serve_without_a_secret_prints_a_token_that_works_and_where_graphiql_is(
    tmp_path: Path,
) -> None:
    database = {"GQLNOTIFY_DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db"}
    with serving("--port", "0", settings=database) as process:
        greeting = read_until(process, "Application startup complete")
        address = re.search(r"GraphiQL: +(http://127\.0\.0\.1:\d+/graphql)#token=(\S+)\n", greeting)
        token = re.search(r'"Bearer ([^"]+)"', greeting)
        assert address is not None
        assert token is not None
        assert address[2] == token[1]
        wait_for_http(address[1])

        answers = [
            httpx.post(address[1], json={"query": "{ me { subject } }"}, headers=headers)
            for headers in ({}, {"authorization": f"Bearer {token[1]}"})
        ]

    assert answers[0].status_code == 401
    assert answers[1].json() == {"data": {"me": {"subject": "developer"}}}


def test_serve_imports_an_application_from_the_working_directory(
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
    assert f"GraphiQL:  {address[1]}/graphql\n" in log
    assert "Bearer" not in log


def test_serve_names_the_variable_that_the_settings_of_an_application_refuse(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(
        "from gqlnotify import Settings\n"
        "class Mine(Settings):\n"
        "    colours: int = 3\n"
        "app = Mine()\n"
    )
    settings = {"GQLNOTIFY_JWT_SECRET": SECRET, "GQLNOTIFY_COLOURS": "many"}
    done = run_process("serve", "mine:app", "--port", "0", settings=settings, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith("gqlnotify: GQLNOTIFY_COLOURS: Input should be a valid integer")


def test_serve_runs_several_workers_on_a_shared_broker(redis_url: str, tmp_path: Path) -> None:
    settings = {
        "GQLNOTIFY_DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db",
        "GQLNOTIFY_BROKER_URL": redis_url,
    }
    with serving("--port", "0", "--workers", "2", settings=settings) as process:
        log = read_until(process, "Application startup complete")
        while log.count("Application startup complete") < 2:
            log += read_until(process, "Application startup complete")
        address = re.search(r"GraphiQL: +(http://[^\s#]+)", log)
        token = re.search(r'"Bearer ([^"]+)"', log)
        assert address is not None
        assert token is not None

        headers = {"authorization": f"Bearer {token[1]}"}
        query = {"query": "{ me { subject } }"}
        answers = [httpx.post(address[1], json=query, headers=headers) for _ in range(8)]

    assert {answer.status_code for answer in answers} == {200}


def test_serve_with_reload_keeps_the_secret_that_it_printed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text((ROOT / "examples" / "minimal.py").read_text())
    with serving("mine:app", "--port", "0", "--reload", cwd=tmp_path) as process:
        log = read_until(process, "Application startup complete")
        address = re.search(r"GraphiQL: +(http://[^\s#]+)", log)
        token = re.search(r'"Bearer ([^"]+)"', log)
        assert address is not None
        assert token is not None

        # The application has started, but its process may not listen yet.
        with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as http:
            answer = http.post(
                address[1],
                json={"query": "{ hello }"},
                headers={"authorization": f"Bearer {token[1]}"},
            )

    assert answer.json() == {"data": {"hello": "world"}}


APPLICATION_THAT_SHOWS_THE_COLLECTOR = """
import gc
from fastapi import FastAPI

app = FastAPI()

@app.get("/")
def frozen() -> dict[str, int]:
    return {"frozen": gc.get_freeze_count(), "threshold": gc.get_threshold()[0]}
"""


def test_serve_does_not_garbage_collect_the_application_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(APPLICATION_THAT_SHOWS_THE_COLLECTOR)
    settings = {"GQLNOTIFY_JWT_SECRET": SECRET}
    with serving("mine:app", "--port", "0", settings=settings, cwd=tmp_path) as process:
        log = read_until(process, "Uvicorn running on")
        log += read_until(process, "\n") if not log.endswith("\n") else ""
        address = re.search(r"Uvicorn running on (http://\S+)", log)
        assert address is not None
        answer = httpx.get(address[1])

    assert answer.json()["frozen"] > 10_000
    assert answer.json()["threshold"] == 1000
