"""The command line: what serves or fails in a process of its own, the rest within this one."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread
from traceback import format_exception
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import httpx
import pytest
from typer.testing import CliRunner

from gqlnotify import Publisher
from gqlnotify.auth import TokenVerifier
from gqlnotify.cli import app
from gqlnotify.errors import BrokerUnavailable
from gqlnotify.settings import Settings as GqlnotifySettings
from tests.redis_servers import redis_server
from tests.waiting import PATIENCE

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent
SECRET = "a secret that is long enough to be one"
COMMAND = [sys.executable, "-m", "gqlnotify"]


Settings = Mapping[str, str]
Done = subprocess.CompletedProcess[str]


def environment(settings: Settings) -> Settings:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GQLNOTIFY_")}
    return {**inherited, "NO_COLOR": "1", "COLUMNS": "200", **settings}


def run(*arguments: str, settings: Settings | None = None, given: str = "") -> Done:
    """Run a command within this process: to import everything in another one takes a second."""
    with patch.dict(os.environ, environment(settings or {}), clear=True):
        done = CliRunner().invoke(app, arguments, input=given, prog_name="gqlnotify")
    told = done.stderr
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        told += "".join(format_exception(done.exception))
    return Done(arguments, done.exit_code, done.stdout, told)


def run_process(
    *arguments: str, settings: Settings | None = None, cwd: Path = ROOT, given: str = ""
) -> Done:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(settings or {}),
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
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
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.communicate()


def read_until(process: "subprocess.Popen[bytes]", text: str, seconds: float = PATIENCE) -> str:
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


def wait_for_http(url: str, seconds: float = PATIENCE) -> None:
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
    done = run_process(
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
        ({"GQLNOTIFY_JWT_SECRET": SECRET, "GQLNOTIFY_HISTORY_PER_TOPIC": "{"}, "history_per_topic"),
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
            "must be https",
        ),
        (["--workers", "2"], {"GQLNOTIFY_JWT_SECRET": SECRET}, "can't share events over memory://"),
        (["schema.app"], {}, "write it as module:attribute"),
        (["no.such.module:app"], {}, "There is no module 'no.such.module'"),
        ([], {"GQLNOTIFY_PING_INTERVAL": "-1"}, "GQLNOTIFY_PING_INTERVAL"),
        (
            [],
            {"GQLNOTIFY_JWT_AUDIENSE": "us"},
            "GQLNOTIFY_JWT_AUDIENSE is not a setting; did you mean GQLNOTIFY_JWT_AUDIENCE?",
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
def test_serve_refuses_what_can_not_work_and_says_why(
    arguments: list[str], settings: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    database = {"GQLNOTIFY_DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db"}
    done = run("serve", "--port", "0", *arguments, settings={**database, **settings})

    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_token_that_opens_nothing_is_printed_with_a_warning() -> None:
    for rights in ([], ["--subscribe", ""]):
        done = run(*("token", "--subject", "a", *rights), settings={"GQLNOTIFY_JWT_SECRET": SECRET})

        assert done.returncode == 0
        assert TokenVerifier(SECRET).verify(done.stdout.strip()).subject == "a"
        assert "this token opens no topic" in done.stderr


@pytest.mark.parametrize("subject", ["", " "])
def test_a_token_speaks_for_somebody(subject: str) -> None:
    done = run("token", "--subject", subject, settings={"GQLNOTIFY_JWT_SECRET": SECRET})

    assert (done.returncode, done.stdout) == (2, "")
    assert "The subject is empty" in done.stderr


def test_the_version_is_that_of_the_package() -> None:
    done = run("--version")

    assert (done.returncode, done.stdout) == (0, f"gqlnotify {version('gqlnotify')}\n")


def test_a_shell_can_complete_commands() -> None:
    done = run_process(
        settings={
            "_GQLNOTIFY_COMPLETE": "complete_bash",
            "COMP_WORDS": "gqlnotify t",
            "COMP_CWORD": "1",
        }
    )

    assert done.stdout.split() == ["token", "tail"]


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
def test_serve_says_in_one_line_what_an_operator_can_mend(
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
def test_serve_says_which_port_is_taken_before_anything_starts(
    more: list[str], redis_url: str
) -> None:
    settings = {"GQLNOTIFY_JWT_SECRET": SECRET, "GQLNOTIFY_BROKER_URL": redis_url}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--port", port, *more, settings=settings)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"gqlnotify: Can't listen on port {port} of 127.0.0.1: Address already in use; "
        "choose another with --port or --host\n"
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
def test_a_start_that_fails_for_want_of_a_service_is_told_in_one_line(
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


def test_a_start_that_fails_by_a_mistake_in_the_code_shows_where(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING.format(error="KeyError('oops')"))
    done = run_process(
        *("serve", "failing:app", "--port", "0"),
        settings={"GQLNOTIFY_JWT_SECRET": SECRET},
        cwd=tmp_path,
    )

    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert "KeyError: 'oops'" in done.stderr


def test_localhost_is_every_address_of_that_name(tmp_path: Path) -> None:
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
        # Another program's: it is no misspelling of ours.
        "GQLNOTIFY_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    }
    with serving("--port", "0", settings=settings) as process:
        told = read_until(process, "startup complete")

    assert "GQLNOTIFY_JWT_SECRET has 5 bytes, but HS256 needs 32 or more" in told
    assert "GQLNOTIFY_PORT_8000_TCP is not a setting" in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["token", "--subject", "a"],
        ["publish", "t", "1"],
        ["tail", "t"],
        ["revoke", "--subject", "a"],
    ],
)
def test_every_command_names_a_misspelt_setting(arguments: list[str]) -> None:
    done = run(*arguments, settings={"GQLNOTIFY_BROKER_ULR": "redis://127.0.0.1:1"})

    assert done.returncode == 2
    assert "did you mean GQLNOTIFY_BROKER_URL?" in done.stderr


def test_serve_finds_applications_in_the_working_directory_alone(tmp_path: Path) -> None:
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
    assert f"GraphiQL:  {address[1]}/graphql\n" in log
    assert "Bearer" not in log


def test_serve_runs_several_workers_on_a_broker_that_they_can_share(
    redis_url: str, tmp_path: Path
) -> None:
    settings = {
        "GQLNOTIFY_DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db",
        "GQLNOTIFY_BROKER_URL": redis_url,
    }
    with serving("--port", "0", "--workers", "2", settings=settings) as process:
        log = read_until(process, "Application startup complete")
        while log.count("Application startup complete") < 2:
            log += read_until(process, "Application startup complete")
        address = re.search(r"GraphiQL: +(http://\S+)", log)
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


# publish and tail


@pytest.fixture
def topic() -> str:
    return f"prices.{uuid4().hex}"


def on(url: str) -> Settings:
    return {"GQLNOTIFY_BROKER_URL": url, "GQLNOTIFY_BROKER_WAIT": "0"}


@contextmanager
def tailing(url: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `gqlnotify tail`, and yield it once it follows."""
    process = subprocess.Popen(
        [*COMMAND, "tail", *arguments],
        env=environment(on(url)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"Following ")
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_of(process: "subprocess.Popen[bytes]", last: Any) -> list[dict[str, Any]]:
    """Return what it printed, up to the line with this payload."""
    text = read_until(process, f'"payload": {json.dumps(last)}}}\n')
    return [json.loads(line) for line in text.splitlines()]


def assert_told(done: Done, status: int, complaint: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_publish_prints_the_cursor_and_nothing_else(redis_url: str, topic: str) -> None:
    done = run_process("publish", topic, '{"price": 7}', settings=on(redis_url))

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"[0-9]+-1\n", done.stdout)


def test_publish_takes_each_line_of_the_input_in_order(redis_url: str, topic: str) -> None:
    given = "\n".join(str(n) for n in range(600))
    done = run_process("publish", topic, "-", settings=on(redis_url), given=given)

    assert (done.returncode, done.stderr) == (0, "")
    cursors = done.stdout.split()
    epoch = cursors[0].split("-")[0]
    assert cursors == [f"{epoch}-{n}" for n in range(1, 601)]
    with tailing(redis_url, topic, "--after", f"{epoch}-0") as tail:
        assert [line["payload"] for line in lines_of(tail, 599)] == list(range(600))


def test_publish_under_an_id_again_has_no_effect(redis_url: str, topic: str) -> None:
    first, again = (
        run("publish", topic, value, "--id", "once", settings=on(redis_url)) for value in "12"
    )

    assert first.returncode == again.returncode == 0
    assert first.stdout == again.stdout


@pytest.mark.parametrize(
    ("arguments", "given", "complaint"),
    [
        (["prices", "{price: 7}"], "", "'{price: 7}' is not JSON"),
        (["prices", "NaN"], "", "would not arrive as it is"),
        (["prices", "-"], "1\n{\n", "'{' is not JSON"),
        (["prices..gold", "1"], "", "A topic name is made of"),
        (["prices.<metal>", "1"], "", "A topic name is made of"),
        (["prices", "1", "--id", ""], "", "An event id has 1 to"),
        (["prices", "1", "--id", "x" * 401], "", "An event id has 1 to"),
        (["prices", "-", "--id", "x"], "1\n2\n", "can't be shared by all lines"),
        (["prices", "-"], f'"{"x" * 131072}"', "at most 131072 bytes"),
        (["prices"], "", "Missing argument"),
    ],
)
def test_publish_says_what_is_wrong_with_what_it_was_given(
    redis_url: str, arguments: list[str], given: str, complaint: str
) -> None:
    done = run("publish", *arguments, settings=on(redis_url), given=given)

    assert_told(done, 2, complaint)


TOPICS = """
from dataclasses import dataclass
from gqlnotify import Topic

@dataclass
class Price:
    metal: str
    value: float

GOLD = Topic("app.gold", Price)
OTHERS = Topic("app.<metal>", int)
app = object()
"""


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("app.gold", '{"metal": "gold", "value": 7}', {"metal": "gold", "value": 7.0}),
        ("app.silver", "8", 8),
    ],
)
def test_publish_checks_the_value_against_the_topic_of_an_application(
    redis_url: str, tmp_path: Path, name: str, value: str, told: Any
) -> None:
    (tmp_path / "prices_app.py").write_text(TOPICS)
    done = run_process(
        *("publish", name, value, "--app", "prices_app:app"), settings=on(redis_url), cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    epoch, seq = done.stdout.strip().split("-")
    with tailing(redis_url, name, "--after", f"{epoch}-{int(seq) - 1}") as tail:
        [line] = lines_of(tail, told)
    assert line["payload"] == told


def test_publish_knows_the_topic_of_the_task_service_without_building_it(redis_url: str) -> None:
    done = run_process(
        "publish", "tasks", '{"kind": "X"}', "--app", "schema.app:app", settings=on(redis_url)
    )
    assert_told(done, 2, "is no event of 'tasks': it is not TaskEvent: kind enum, task missing")


@pytest.mark.parametrize(
    ("name", "value", "application", "complaint"),
    [
        ("app.gold", "7", "prices_app:app", "is no event of 'app.gold'"),
        ("app.gold", '{"metal": "gold"}', "prices_app:app", "value missing"),
        ("app.silver", '"x"', "prices_app:app", "is no event of 'app.silver'"),
        ("elsewhere", "7", "prices_app:app", "app.<metal>, app.gold"),
        ("app.gold", "7", "prices_app", "module:attribute"),
        ("app.gold", "7", "broken_app:app", "broken_app can't be imported: KeyError"),
        ("app.gold", "7", "no_such_app:app", "There is no module"),
    ],
)
def test_publish_refuses_what_the_topic_of_an_application_can_not_read(
    redis_url: str, tmp_path: Path, name: str, value: str, application: str, complaint: str
) -> None:
    (tmp_path / "prices_app.py").write_text(TOPICS)
    (tmp_path / "broken_app.py").write_text("{}['nothing']")
    arguments = ("publish", name, value, "--app", application)
    assert_told(run_process(*arguments, settings=on(redis_url), cwd=tmp_path), 2, complaint)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["prices..gold"], "A topic name is made of"),
        (["prices.<metal>"], "needs its parameters first"),
        (["prices", "--after", "yesterday"], "A cursor looks like"),
        ([], "Missing argument"),
    ],
)
def test_tail_says_what_is_wrong_with_what_it_was_given(
    redis_url: str, arguments: list[str], complaint: str
) -> None:
    assert_told(run("tail", *arguments, settings=on(redis_url)), 2, complaint)


def test_each_token_can_be_told_from_every_other() -> None:
    verifier = TokenVerifier(SECRET)
    made = [
        run("token", "--subject", "alice", settings={"GQLNOTIFY_JWT_SECRET": SECRET}).stdout
        for _ in range(2)
    ]
    one, other = (verifier.verify(text.strip()) for text in made)

    assert one.token_id
    assert one.token_id != other.token_id
    assert one.issued_at is not None
    assert abs(one.issued_at - time.time()) < 60


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--subject", "alice é"], {"subject": "alice é", "tokenId": None, "until": None}),
        (["--token-id", "a b"], {"subject": None, "tokenId": "a b", "until": None}),
        (
            ["--token-id", "a", "--expires-at", "4000000000"],
            {"subject": None, "tokenId": "a", "until": 4e9},
        ),
    ],
)
def test_revoke_publishes_what_is_revoked_and_since_when(
    redis_url: str, arguments: list[str], said: dict[str, Any]
) -> None:
    with tailing(redis_url, "gqlnotify.revocations") as tail:
        before = time.time()
        done = run_process("revoke", *arguments, settings=on(redis_url))
        line = json.loads(read_until(tail, "\n"))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == line["cursor"]
    assert before <= line["payload"].pop("at") <= time.time()
    assert line["payload"] == said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Say what to revoke"),
        (["--subject", ""], "Say what to revoke"),
        (["--subject", "a", "--expires-at", "4000000000"], "--expires-at is of a single token"),
        (["--token-id", "a", "--expires-at", "5"], "expires_at has passed"),
        (["--subject", "a", "--token-id", "b"], "Either --subject or --token-id"),
    ],
)
def test_revoke_wants_exactly_one_thing(
    redis_url: str, arguments: list[str], complaint: str
) -> None:
    assert_told(run("revoke", *arguments, settings=on(redis_url)), 2, complaint)


def test_revoke_refuses_what_would_push_out_an_earlier_revocation(redis_url: str) -> None:
    small = {"GQLNOTIFY_HISTORY_PER_TOPIC": '{"gqlnotify.*": {"length": 4}}'}
    small |= {**on(redis_url), "GQLNOTIFY_BROKER_PREFIX": f"small-{uuid4().hex}"}
    for n in range(3):
        assert run("revoke", "--token-id", f"{n}", settings=small).returncode == 0
    done = run_process("revoke", "--token-id", "3", settings=small)
    assert done.returncode == 0
    assert "3 revocations are remembered, and there is room for 4" in done.stderr
    done = run("revoke", "--token-id", "one too many", settings=small)
    assert_told(done, 2, "4 revocations are remembered, and one more would push out the oldest")


def test_token_makes_none_that_every_server_would_refuse() -> None:
    settings = {"GQLNOTIFY_JWT_SECRET": SECRET, "GQLNOTIFY_JWT_MAX_LIFETIME": "600"}
    arguments = ["token", "--subject", "alice", "--expires-in"]

    assert run(*arguments, "600", settings=settings).returncode == 0
    assert_told(run(*arguments, "601", settings=settings), 2, "GQLNOTIFY_JWT_MAX_LIFETIME")


@pytest.mark.parametrize(
    "command", [["publish", "prices", "1"], ["tail", "prices"], ["revoke", "--subject", "alice"]]
)
@pytest.mark.parametrize(
    ("url", "status", "complaint"),
    [
        ("", 2, "set GQLNOTIFY_BROKER_URL"),
        ("memory://", 2, "set GQLNOTIFY_BROKER_URL"),
        ("carrier-pigeon://:hunter2@loft", 2, "redis+sentinel://"),
        ("redis+sentinel://:hunter2@127.0.0.1:1", 2, "needs the service's name"),
        ("redis://:hunter2@127.0.0.1:1", 1, "can't be reached"),
        ("redis+cluster://:hunter2@127.0.0.1:1", 1, "can't be reached"),
        ("redis+sentinel://:hunter2@127.0.0.1:1/master", 1, "can't be reached"),
    ],
)
def test_publish_and_tail_say_what_is_wrong_with_the_broker_and_tell_no_password(
    command: list[str], url: str, status: int, complaint: str
) -> None:
    assert_told(run(*command, settings=on(url)), status, complaint)


@pytest.mark.parametrize("command", [["publish", "prices", "1"], ["tail", "prices"]])
def test_publish_and_tail_tell_no_password_that_redis_refuses(command: list[str]) -> None:
    with redis_server(password="right") as server:
        url = server.url.replace(":right@", ":hunter2@")
        assert_told(run(*command, settings=on(url)), 1, "can't be reached or refuses")


def test_tail_prints_each_event_as_it_comes_one_json_object_a_line(
    redis_url: str, topic: str
) -> None:
    with tailing(redis_url, topic) as tail, Publisher(redis_url) as publisher:
        # One by one: what is not flushed at once does not come before the next one is published.
        first = publisher.publish_sync(topic, {"metal": "Gałązka\nzłota"}, event_id="x")
        assert json.loads(read_until(tail, "\n")) == {
            "topic": topic,
            "cursor": str(first),
            "id": "x",
            "payload": {"metal": "Gałązka\nzłota"},
        }
        second = publisher.publish_sync(topic, None)
        assert json.loads(read_until(tail, "\n")) == {
            "topic": topic,
            "cursor": str(second),
            "id": None,
            "payload": None,
        }


def test_tail_follows_several_topics(redis_url: str, topic: str) -> None:
    other = f"{topic}.other"
    with tailing(redis_url, topic, other, topic) as tail, Publisher(redis_url) as publisher:
        assert tail.stderr is not None
        assert tail.stderr.readline().startswith(b"Following ")
        seen = []
        for name in (topic, other):
            publisher.publish_sync(name, 1)
            seen.append(json.loads(read_until(tail, "\n"))["topic"])

    assert seen == [topic, other]


def test_tail_has_a_form_for_people(redis_url: str, topic: str) -> None:
    with tailing(redis_url, topic, "--format", "text") as tail, Publisher(redis_url) as publisher:
        cursor = publisher.publish_sync(topic, {"text": "Gałązka \x9b31m\u202e"})
        line = read_until(tail, "\n")

    when, _, shown = line.partition(f"  {topic}  ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", when)
    assert shown == f'{cursor}  {{"text": "Gałązka \\x9b31m\\u202e"}}\n'


def test_a_cursor_is_of_one_topic() -> None:
    done = run("tail", "a", "b", "--after", "1-1", settings=on("redis://127.0.0.1:1"))

    assert_told(done, 2, "--after is a cursor of one topic")


def test_tail_begins_behind_the_cursor_or_with_now(redis_url: str, topic: str) -> None:
    with Publisher(redis_url) as publisher:
        cursors = publisher.publish_many_sync((topic, n) for n in range(5))
        with (
            tailing(redis_url, topic, "--after", str(cursors[2])) as behind,
            tailing(redis_url, topic) as now,
        ):
            publisher.publish_sync(topic, 5)

            assert [line["payload"] for line in lines_of(behind, 5)] == [3, 4, 5]
            assert [line["payload"] for line in lines_of(now, 5)] == [5]


class Numbering:
    """Publishes numbers, each until it is known to be published, from a thread of its own."""

    def __init__(self, url: str, topic: str) -> None:
        self.count = 0
        self._url, self._topic = url, topic
        self._enough = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> "Numbering":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def wait_for_more(self, more: int) -> None:
        wanted, deadline = self.count + more, time.monotonic() + 30
        while self.count < wanted:
            assert time.monotonic() < deadline, "the publisher does not get on"
            time.sleep(0.005)

    def _run(self) -> None:
        settings = GqlnotifySettings(broker_timeout=2, history_length=100_000)
        with Publisher(self._url, settings=settings) as publisher:
            while not self._enough.is_set():
                try:
                    publisher.publish_sync(self._topic, self.count, event_id=str(self.count))
                except BrokerUnavailable:
                    time.sleep(0.02)
                else:
                    self.count += 1
                    time.sleep(0.001)


def test_tail_survives_restarts_and_crashes_of_redis_without_loss(topic: str) -> None:
    with redis_server(persistent=True) as server, tailing(server.url, topic) as tail:
        with Numbering(server.url, topic) as numbers:
            for end in (server.stop, server.kill, server.stop, server.kill):
                numbers.wait_for_more(30)
                end()
                server.start()
            numbers.wait_for_more(30)
        lines = lines_of(tail, numbers.count - 1)

        assert [line["payload"] for line in lines] == list(range(numbers.count))
        assert tail.poll() is None


def test_tail_ends_with_status_3_where_the_history_does_not_reach_back(topic: str) -> None:
    with redis_server() as server, Publisher(server.url) as publisher:
        cursor = publisher.publish_sync(topic, 1)
        server.ask("FLUSHALL")
        done = run("tail", topic, "--after", str(cursor), settings=on(server.url))

    assert_told(done, 3, "does not reach back")


def test_tail_ends_with_status_3_when_redis_loses_what_it_may_not_have_printed(
    topic: str,
) -> None:
    with (
        redis_server() as server,
        Publisher(server.url) as publisher,
        tailing(server.url, topic) as tail,
    ):
        publisher.publish_sync(topic, 1)
        read_until(tail, "\n")
        server.ask("FLUSHALL")
        publisher.publish_sync(topic, 2)
        _, complaint = tail.communicate(timeout=PATIENCE)

    assert tail.returncode == 3
    assert b"gqlnotify: " in complaint
    assert b"Traceback" not in complaint


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_tail_ends_quietly_when_it_is_asked_to(redis_url: str, topic: str, how: int) -> None:
    with tailing(redis_url, topic) as tail, Publisher(redis_url) as publisher:
        publisher.publish_sync(topic, 1)
        read_until(tail, "\n")
        tail.send_signal(how)
        output, complaint = tail.communicate(timeout=PATIENCE)

    assert tail.returncode in {0, -signal.SIGTERM}
    assert (output, complaint) == (b"", b"")


def test_tail_ends_quietly_when_nobody_reads_on(redis_url: str, topic: str) -> None:
    with Publisher(redis_url) as publisher:
        first, *_ = publisher.publish_many_sync((topic, n) for n in range(1000))
    tail = subprocess.Popen(
        [*COMMAND, "tail", topic, "--after", f"{first.epoch}-0"],
        env=environment(on(redis_url)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    head = subprocess.run(
        ["head", "-1"], stdin=tail.stdout, capture_output=True, check=True, timeout=PATIENCE
    )
    assert tail.stdout is not None
    tail.stdout.close()
    _, complaint = tail.communicate(timeout=PATIENCE)

    assert json.loads(head.stdout)["payload"] == 0
    assert complaint.decode().splitlines() == [f"Following {topic} after {first.epoch}-0"]
