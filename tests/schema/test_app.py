import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from threading import enumerate as enumerate_threads

import httpx
import pytest
from fastapi import FastAPI

from schema.app import create_app
from schema.database import Database, async_url
from schema.settings import TaskSettings
from tests.schema.client import SECRET, Client
from tests.schema.conftest import serving, until


@pytest.fixture
def module() -> Iterator[object]:
    kept = sys.modules.pop("schema.app")
    yield import_module("schema.app")
    sys.modules["schema.app"] = kept


def test_the_application_needs_a_secret_and_says_so(
    module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GQLNOTIFY_JWT_SECRET", raising=False)
    with pytest.raises(RuntimeError, match=r"GQLNOTIFY_JWT_SECRET.*gqlnotify serve"):
        getattr(module, "app")  # noqa: B009


def test_the_application_will_do_with_an_address_of_keys(tmp_path: Path) -> None:
    settings = TaskSettings(
        jwt_secret=None,
        jwks_url="https://keys.example.org/jwks.json",
        jwt_algorithm="RS256",
        database_url=f"sqlite:///{tmp_path}/tasks.db",
    )
    assert isinstance(create_app(settings), FastAPI)


def test_the_application_is_built_once_from_the_environment(
    module: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GQLNOTIFY_JWT_SECRET", SECRET)
    monkeypatch.setenv("GQLNOTIFY_DATABASE_URL", f"sqlite:///{tmp_path}/tasks.db")
    app = getattr(module, "app")  # noqa: B009
    assert isinstance(app, FastAPI)
    assert getattr(module, "app") is app  # noqa: B009


def test_the_module_has_no_other_late_names(module: object) -> None:
    assert not hasattr(module, "application")


async def test_the_root_leads_to_graphql(settings: TaskSettings) -> None:
    transport = httpx.ASGITransport(create_app(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://tasks") as http:
        answer = await http.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/graphql")


@pytest.mark.processes
async def test_a_restart_keeps_the_tasks(settings: TaskSettings, socket: Path) -> None:
    async with serving(create_app(settings), socket) as client:
        task = await client.create("kept")
    async with serving(create_app(settings), socket) as client:
        assert await client.data("task", {"id": task["id"]}) == task


@pytest.mark.processes
async def test_two_applications_share_a_process_and_nothing_else(
    settings: TaskSettings, socket: Path, tmp_path: Path
) -> None:
    other = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/other.db"})
    async with (
        serving(create_app(settings), socket) as one,
        serving(create_app(other), socket.with_name("other")) as two,
    ):
        await one.create()
        assert len((await one.data("tasks"))["edges"]) == 1
        assert (await two.data("tasks"))["edges"] == []


@pytest.mark.parametrize("name", ["task", "tasks", "me", "createTask"])
async def test_nothing_is_answered_without_a_token(client: Client, name: str) -> None:
    variables = {"id": "1", "input": {"title": "x"}}
    error = await client.error(name, variables, bearer="not-a-token")
    assert error["extensions"]["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("task", {"id": "1"}),
        ("tasks", {}),
        ("createTask", {"input": {"title": "x"}}),
        ("deleteTask", {"id": "1"}),
    ],
)
async def test_a_failure_of_the_service_tells_nothing_of_its_inside(
    client: Client, tmp_path: Path, name: str, variables: dict[str, object]
) -> None:
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as connection:
        connection.execute("DROP TABLE tasks")
    failure = {"message": "Internal server error", "extensions": {"code": "INTERNAL_SERVER_ERROR"}}
    told = {key: (await client.error(name, variables))[key] for key in failure}
    assert told == failure
    async with client.stream(name, variables) as stream:
        [error] = (await stream.result())["errors"]
        assert {key: error[key] for key in failure} == failure


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/tasks"])
def test_a_database_that_can_not_keep_the_promises_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"file|must start with"):
        Database(url)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("tasks.db", "is not the URL of a database"),
        ("postgresql://a:hunter2@host:port/x", "is not the URL of a database"),
        ("postgresql+carrierpigeon://a:hunter2@host/x", "can't be used"),
        ("sqlite:////no/such/place/x", "there is no directory /no/such/place"),
    ],
)
def test_a_database_that_can_not_be_used_is_refused_by_the_name_of_its_setting(
    url: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as refusal:
        Database(url)
    assert "GQLNOTIFY_DATABASE_URL" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("url", ["sqlite:////proc/x", "postgresql://a:hunter2@127.0.0.1:1/x"])
async def test_a_database_that_can_not_be_opened_says_so_without_its_password(url: str) -> None:
    database = Database(url)
    with pytest.raises(OSError, match="GQLNOTIFY_DATABASE_URL") as refusal:
        await database.create()
    await database.close()
    assert "hunter2" not in str(refusal.value)
    # The driver does not wait for the thread of a connection that failed; it outlives the loop.
    await until(lambda: not any("_connection_worker" in each.name for each in enumerate_threads()))


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///x", "aiosqlite"),
        ("sqlite+aiosqlite:///x", "aiosqlite"),
        ("postgres://host/x", "asyncpg"),
        ("postgresql://host/x", "asyncpg"),
        ("postgresql+asyncpg://host/x", "asyncpg"),
    ],
)
def test_a_database_url_needs_no_driver(url: str, driver: str) -> None:
    assert async_url(url).get_driver_name() == driver


async def test_pages_of_allowed_origins_may_use_all_of_the_service(settings: TaskSettings) -> None:
    origin = "https://friend.example"
    allowing = settings.model_copy(update={"allowed_origins": (origin,)})
    transport = httpx.ASGITransport(create_app(allowing))
    asking = {"origin": origin, "access-control-request-method": "POST"}
    async with httpx.AsyncClient(transport=transport, base_url="http://tasks") as http:
        for path in ("/graphql", "/tasks"):
            answer = await http.options(path, headers=asking)
            assert answer.headers["access-control-allow-origin"] == origin


async def test_no_page_of_the_service_loads_scripts_from_other_hosts(
    settings: TaskSettings,
) -> None:
    transport = httpx.ASGITransport(create_app(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://tasks") as http:
        assert (await http.get("/openapi.json")).status_code == 200
        assert (await http.get("/redoc")).status_code == 404
        for path in ("/graphql", "/docs"):
            page = await http.get(path, headers={"accept": "text/html"})
            assert page.status_code == 200
            assert "//" not in page.text
