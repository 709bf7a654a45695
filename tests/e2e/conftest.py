"""Servers for the end-to-end tests."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import DIRECT, Server, serving
from tests.waiting import SCALE

APP = "tests.e2e.app:app"
# For tests with larger documents and messages than real clients send.
ROOMY: dict[str, Any] = {
    "message_max_bytes": 2 * 2**20,
    "query_max_tokens": 100_000,
    "query_max_aliases": 10_000,
    "query_max_complexity": 10_000,
}
SECRET = "a secret for the end-to-end tests"


@pytest.fixture(scope="package", params=[DIRECT, ()], ids=["direct", "portable"])
def path(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The arguments with which uvicorn offers direct frames, or only ASGI."""
    arguments: tuple[str, ...] = request.param
    return arguments


@pytest.fixture(scope="package")
def server(path: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An open server that takes large messages."""
    with serving(APP, tmp_path_factory.mktemp("open"), *path, **ROOMY) as server:
        yield server


@pytest.fixture(scope="package")
def hasty(path: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with short deadlines, but long enough for a client on a busy machine."""
    with serving(
        APP,
        tmp_path_factory.mktemp("hasty"),
        *path,
        connection_init_wait=1 * SCALE,
        ping_interval=0.2,
        ping_timeout=1 * SCALE,
    ) as server:
        yield server


@pytest.fixture(scope="package")
def locked(path: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for tokens."""
    with serving(APP, tmp_path_factory.mktemp("locked"), *path, jwt_secret=SECRET) as server:
        yield server
