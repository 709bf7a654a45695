"""Fixtures for the tests of several folders, and which tests start processes."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import hypothesis
import pytest

from tests.message_app import MessageApp
from tests.redis_servers import RedisServer, installed, redis_server

_FRAMEWORKS = ("fastapi", "starlette", "strawberry-graphql", "graphql-core", "uvicorn", "redis")
_STARTING_A_PROCESS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}

hypothesis.settings.register_profile("dev", max_examples=25, deadline=None)
hypothesis.settings.register_profile("deep", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


class _Processes:
    """Whether the running test may start processes: only if it is marked `processes`."""

    def __init__(self) -> None:
        self.allowed = True
        sys.addaudithook(self._look)

    def _look(self, event: str, _arguments: Sequence[object]) -> None:
        if not self.allowed and event in _STARTING_A_PROCESS:
            raise AssertionError(
                "This test starts a process: mark it, or its module, with "
                "pytest.mark.processes. `make unit` leaves such tests out"
            )


_processes = _Processes()


def pytest_configure() -> None:
    """Prepare this process, and the environment of those that the tests start."""
    # A shell has its background jobs ignore SIGINT.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Each client of httpx would read all certificate authorities, and no test needs one of them.
    os.environ.pop("SSL_CERT_FILE", None)
    os.environ["SSL_CERT_DIR"] = os.devnull


def pytest_report_header() -> str:
    """State the frameworks: `make compat` tests several versions."""
    return "frameworks: " + ", ".join(f"{name} {version(name)}" for name in _FRAMEWORKS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a fixture which starts a server."""
    for item in items:
        if _STARTED.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("processes")


def pytest_collection_finish() -> None:
    """Exclude modules, tests and schemas from garbage collection: they stay to the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _processes.allowed = item.get_closest_marker("processes") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    # After the last test of a session all servers stop.
    _processes.allowed = True


# The fixtures of all folders that start a server.
_STARTED = {
    "client",
    "cluster_url",
    "exchange",
    "hasty",
    "locked",
    "minimal",
    "postgres",
    "redis_program",
    "redis_url",
    "server",
}


@pytest.fixture
def message_app() -> MessageApp:
    return MessageApp()


@pytest.fixture
def no_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics close when their last subscriber leaves, and a start does not wait for its broker.

    A test can override both with settings of its own.
    """
    monkeypatch.setenv("GQLNOTIFY_TOPIC_LINGER", "0")
    monkeypatch.setenv("GQLNOTIFY_BROKER_WAIT", "0")


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis for tests that need just one: from the environment, or started here."""
    given = os.environ.get("GQLNOTIFY_TEST_REDIS_URL")
    if given:
        yield given
        return
    with redis_server() as server:
        yield server.url


@pytest.fixture(scope="session", params=["redis", "valkey"])
def redis_program(request: pytest.FixtureRequest) -> Path:
    """The program of each supported server; the test starts it."""
    return installed(request.param)


@pytest.fixture(scope="session")
def each_redis(redis_program: Path) -> Iterator[RedisServer]:
    """Each supported server, running; shared, so a test must not stop or pause it."""
    with redis_server(redis_program) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """A private PostgreSQL without a TCP port; its directory is its address."""
    programs = _postgres_programs()
    if programs is None:
        assert not os.environ.get("CI"), "the tests on PostgreSQL must run here"
        pytest.skip("PostgreSQL is not installed")
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    user = _unprivileged()
    if user:
        shutil.chown(directory, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(directory / "data"), *arguments]
        subprocess.run(command, check=True, user=user, cwd=directory, stdout=subprocess.DEVNULL)

    run("initdb", "--username=tasks", "--auth=trust", "--encoding=UTF8", "--no-sync")
    options = f"-k {directory} -c listen_addresses='' -c fsync=off"
    run("pg_ctl", "-w", "-l", str(directory / "log"), "-o", options, "start")
    try:
        yield directory
    finally:
        run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(directory)


def _postgres_programs() -> Path | None:
    found = shutil.which("pg_ctl")
    if found:
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")
    return max((path.parent for path in versions), default=None)


def _unprivileged() -> str | None:
    # PostgreSQL refuses to run as root.
    return "postgres" if os.geteuid() == 0 else None
