"""The code of docs/outbox.md runs, and does what the page says."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, MetaData
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import CreateTable

from gqlnotify.outbox import outbox_table
from tests.e2e.raw import open_socket
from tests.servers import ROOT, running

BLOCKS = re.compile(r'^```python title="([\w.]+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
PAGE = (ROOT / "docs" / "outbox.md").read_text()
CODE = dict(BLOCKS.findall(PAGE))


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = ModuleType(name)
    # Strawberry looks annotations up in the module.
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(CODE[f"{name}.py"], f"{name}.py", "exec"), made.__dict__)
    return made


@pytest.mark.processes
async def test_the_shop_publishes_what_it_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shop = module("shop", monkeypatch)
    async with running(shop.app) as address, open_socket(f"ws://{address}") as socket:
        await socket.init()
        await socket.subscribe("1", "subscription { orders { id dish } }")
        async with httpx.AsyncClient(base_url=f"http://{address}") as http:
            place = {"query": 'mutation { place(dish: "soup") { id } }'}
            (await http.post("/graphql", json=place)).raise_for_status()
        result = await socket.next("1")
    assert result["data"] == {"orders": {"id": 1, "dish": "soup"}}


@pytest.mark.processes
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_the_migration_creates_the_table(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = module("migration", monkeypatch)
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        assert await connection.run_sync(differences_after, migration) == []
        await connection.exec_driver_sql(
            "INSERT INTO gqlnotify_outbox (topic, payload) VALUES ('orders', '1')"
        )
    await engine.dispose()


def test_the_page_names_the_defaults_of_sqlite() -> None:
    table = str(CreateTable(outbox_table(MetaData())).compile(dialect=sqlite.dialect()))
    for default in re.findall(r"DEFAULT (\(.*\))", table):
        assert f'`sa.text("{default}")`' in PAGE
    assert table.count("DEFAULT") == 2
    assert "id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT" in table


def differences_after(connection: Connection, migration: Any) -> list[Any]:
    context = MigrationContext.configure(connection)
    with Operations.context(context):
        migration.upgrade()
    metadata = MetaData()
    outbox_table(metadata)
    differences: list[Any] = compare_metadata(context, metadata)
    return differences
