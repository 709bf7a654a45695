"""What an orchestrator is told, while the broker and the database come and go."""

import json
import logging
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

import schema.database
from schema.app import create_app
from schema.database import async_url
from schema.health import health
from schema.settings import TaskSettings
from tests.redis_servers import RedisServer, redis_server
from tests.schema.client import PATIENCE, SECRET, token
from tests.schema.conftest import until
from tests.servers import running

pytestmark = pytest.mark.processes

READY = (200, {"broker": "ok", "database": "ok", "outbox": "ok", "revocations": "ok"})
NO_BROKER = (503, {"broker": "unavailable", "database": "ok", "outbox": "ok", "revocations": "ok"})
LATE = (
    503,
    {"broker": "unavailable", "database": "ok", "outbox": "unavailable", "revocations": "ok"},
)
NO_DATABASE = (
    503,
    {"broker": "ok", "database": "unavailable", "outbox": "unavailable", "revocations": "ok"},
)
SECONDS = 2.0
"""What a check may take; an answer needs little more."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@asynccontextmanager
async def serving(
    database_url: str, broker_url: str, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(
        TaskSettings(
            jwt_secret=SECRET,  # type: ignore[arg-type]  # pydantic makes it secret
            database_url=database_url,
            broker_url=broker_url,
            broker_timeout=1,
            **settings,
        )
    )
    async with running(app) as address, http(address) as client:
        yield client


@pytest.fixture
async def service(server: RedisServer, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(f"sqlite:///{tmp_path}/tasks.db", server.url) as client:
        yield client


def http(address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE)


async def ready(client: httpx.AsyncClient) -> tuple[int, Any]:
    answer = await client.get("/readyz")
    return answer.status_code, answer.json()


async def until_ready_says(client: httpx.AsyncClient, expected: tuple[int, Any]) -> None:
    async def says() -> bool:
        return await ready(client) == expected

    await until(says)


async def alive(client: httpx.AsyncClient) -> bool:
    answer = await client.get("/healthz")
    return answer.status_code == 200 and answer.json() == {"status": "ok"}


async def test_a_service_that_has_all_it_needs_is_alive_and_ready(
    service: httpx.AsyncClient,
) -> None:
    assert await alive(service)
    assert await ready(service) == READY


async def test_health_is_told_without_a_token_and_kept_out_of_the_api_s_description(
    service: httpx.AsyncClient,
) -> None:
    paths = (await service.get("/openapi.json")).json()["paths"]

    assert not {"/healthz", "/readyz"} & set(paths)


async def test_while_redis_is_stopped_the_service_is_alive_and_not_ready(
    service: httpx.AsyncClient, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    with caplog.at_level(logging.WARNING, "schema.health"):
        assert await ready(service) == NO_BROKER
    assert await alive(service)
    assert any("broker" in record.message for record in caplog.records)
    server.start()
    await until_ready_says(service, READY)


async def test_a_silent_redis_is_told_within_two_seconds(
    service: httpx.AsyncClient, server: RedisServer
) -> None:
    server.pause()
    began = time.monotonic()
    assert await ready(service) == NO_BROKER
    assert time.monotonic() - began < SECONDS + 1
    assert await alive(service)
    server.resume()
    await until_ready_says(service, READY)


async def test_while_an_event_waits_too_long_to_be_published_the_service_is_not_ready(
    server: RedisServer, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    async with serving(url, server.url, outbox_max_lag=0.3) as service:
        assert await ready(service) == READY
        server.stop()
        await create_a_task(service)
        await until_ready_says(service, LATE)
        assert (await service.get("/metrics")).text.count("gqlnotify_outbox_rows 1.0") == 1
        server.start()
        await until_ready_says(service, READY)


async def test_while_the_disk_is_full_the_service_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema.database, "_WRITE_SECONDS", 0)
    async with serving(f"sqlite:///{tmp_path}/tasks.db", "memory://") as service:
        assert await ready(service) == READY
        # What the process writes to any file beyond this size is refused, as by a full disk.
        with files_of_at_most(4096):
            assert (await ready(service))[1]["database"] == "unavailable"
            answer = await ask_for_a_task(service)
            assert "errors" in answer.json()
        await create_a_task(service)
        assert await ready(service) == READY


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_while_postgresql_takes_no_writes_the_service_is_not_ready(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema.database, "_WRITE_SECONDS", 0)
    administrator = create_async_engine(async_url(database_url), isolation_level="AUTOCOMMIT")
    name = make_url(database_url).database
    async with serving(database_url, "memory://") as service:
        await until_ready_says(service, READY)
        async with administrator.connect() as connection:
            await connection.exec_driver_sql(
                f"ALTER DATABASE {name} SET default_transaction_read_only = on"
            )
            await connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            )
        await administrator.dispose()
        assert (await ready(service))[1]["database"] == "unavailable"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Refuse this process every write beyond `size` bytes of a file."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def create_a_task(client: httpx.AsyncClient) -> None:
    answer = await ask_for_a_task(client)
    assert "errors" not in answer.json(), answer.text


async def ask_for_a_task(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post(
        "/graphql",
        json={"query": 'mutation { createTask(input: { title: "a task" }) { id } }'},
        headers={"authorization": f"Bearer {token()}"},
    )


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_while_the_database_refuses_the_service_is_alive_and_not_ready(
    database_url: str, postgres: Path
) -> None:
    async with serving(database_url, "memory://") as service:
        await until_ready_says(service, READY)
        await refuse_connections(database_url, postgres, refused=True)
        assert await ready(service) == NO_DATABASE
        assert await alive(service)
        await refuse_connections(database_url, postgres, refused=False)
        await until_ready_says(service, READY)


async def refuse_connections(database_url: str, postgres: Path, *, refused: bool) -> None:
    name = make_url(database_url).database
    administrator = create_async_engine(
        f"postgresql+asyncpg://tasks@/postgres?host={postgres}", isolation_level="AUTOCOMMIT"
    )
    async with administrator.connect() as connection:
        allowed = "false" if refused else "true"
        await connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}")
        await connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
            {"name": name},
        )
    await administrator.dispose()


async def test_the_answer_says_which_part_failed_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def works() -> None:
        return

    async def fails() -> None:
        raise RuntimeError("redis://:hunter2@10.0.0.7 refused")

    app = FastAPI()
    app.include_router(health(broker=works, database=fails))
    async with running(app) as address, http(address) as client:
        answer = await client.get("/readyz")

    assert answer.status_code == 503
    assert json.loads(answer.text) == {"broker": "ok", "database": "unavailable"}
    assert "database: redis://" in caplog.text


async def test_all_parts_that_fail_are_named_and_none_holds_up_the_others() -> None:
    async def hangs() -> None:
        await until(lambda: False, patience=60)

    app = FastAPI()
    app.include_router(health(broker=hangs, database=hangs))
    async with running(app) as address, http(address) as client:
        began = time.monotonic()
        answer = await client.get("/readyz")
        taken = time.monotonic() - began

    assert answer.json() == {"broker": "unavailable", "database": "unavailable"}
    assert SECONDS <= taken < SECONDS + 1
