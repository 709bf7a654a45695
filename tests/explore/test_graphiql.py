"""GraphiQL in a real Chromium that can reach no other host, under the policy of its page."""

import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex

import httpx
import pytest
import strawberry
from fastapi import FastAPI

from gqlnotify import GraphQLRouter
from gqlnotify.http import graphiql
from tests.applications import Query
from tests.cli.support import read_until, serving
from tests.e2e.conftest import SECRET
from tests.e2e.tokens import token
from tests.explore.browser import Page, chromium
from tests.servers import NO_TLS, SERVE, Server, running
from tests.servers import serving as server_of

pytestmark = pytest.mark.processes

TABS = "[...document.querySelectorAll('.graphiql-tab-button')].map((tab) => tab.textContent)"
EVENTS = "[...document.querySelectorAll('.feed-event')].map((event) => event.innerText)"
STATE = "document.querySelector('.feed-head span')?.textContent"
EDITOR = "document.querySelector('.graphiql-query-editor .view-lines')?.innerText ?? ''"
STORED = "[localStorage.length, sessionStorage.length, document.cookie]"


@pytest.fixture
def built() -> None:
    if not os.environ.get("EXPLORE"):
        pytest.skip("make explore builds GraphiQL and runs this")
    assert any(graphiql.FOLDER.glob("page-*.js.gz")), "make graphiql builds the page"


@pytest.fixture
def printed(tmp_path: Path) -> Iterator[str]:
    """The address that `gqlnotify serve` prints."""
    database = {"GQLNOTIFY_DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db"}
    with serving("--port", "0", settings=database) as process:
        greeting = read_until(process, "Application startup complete")
        address = re.search(r"GraphiQL: +(\S+)", greeting)
        assert address is not None
        yield address[1]


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with chromium(tmp_path / "profile") as page:
        yield page


async def open_tab(page: Page, number: int, document: str) -> None:
    await page.click(f".graphiql-tab:nth-of-type({number}) .graphiql-tab-button")
    await page.until(f"({EDITOR}).includes({document!r})")


@pytest.mark.usefixtures("built")
async def test_one_page_shows_the_events_of_its_own_mutations(printed: str, page: Page) -> None:
    address, _, printed_token = printed.partition("#token=")
    await page.open(printed)

    assert await page.until(f"{TABS}.length && {TABS}") == ["Tasks", "TaskEvents", "CreateTask"]
    assert await page.run("location.href") == address
    await open_tab(page, 2, "subscription")
    await page.click(".graphiql-execute-button")
    await page.until(f"{STATE} === 'connected'")
    await open_tab(page, 3, "mutation")
    for number in (1, 2):
        await page.click(".graphiql-execute-button")
        await page.until(f"{EVENTS}.length === {number}")
    events = await page.run(EVENTS)

    # What is wrong is underlined, without an image from a `data:` URL.
    await page.click(".graphiql-query-editor .native-edit-context, .graphiql-query-editor textarea")
    await page.type("wrong")
    await page.until("!!document.querySelector('.squiggly-error')")
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3}\n\d+-2\n", events[0])
    assert '"kind":"CREATED"' in events[0]
    assert await page.run(STORED) == [0, 0, ""]
    assert page.complaints == []
    origin = address.removesuffix("/graphql").removeprefix("http")
    assert {url.partition(origin)[0] for url in page.requests} == {"http", "ws"}
    assert not any(printed_token in url for url in page.requests[1:])


@pytest.mark.usefixtures("built")
async def test_the_page_asks_for_a_token_and_then_fetches_the_schema(
    printed: str, page: Page
) -> None:
    address, _, printed_token = printed.partition("#token=")
    await page.open(address)

    await page.click("input[name=token]")
    await page.type(printed_token)
    await page.click(".closed button")

    assert await page.until(f"{TABS}.length && {TABS}") == ["Tasks", "TaskEvents", "CreateTask"]
    assert await page.run(STORED) == [0, 0, ""]


@pytest.mark.usefixtures("built")
async def test_a_restart_of_the_server_loses_no_event(
    tmp_path: Path, page: Page, redis_url: str
) -> None:
    settings = {
        "jwt_secret": SECRET,
        "broker_url": redis_url,
        "broker_prefix": token_hex(8),
        "database_url": f"sqlite:///{tmp_path}/tasks.db",
    }
    with server_of("schema.app:app", tmp_path, program=SERVE, **settings) as server:
        await page.open(f"{server.http}/graphql#token={token()}")
        await open_tab(page, 2, "subscription")
        await page.click(".graphiql-execute-button")
        await page.until(f"{STATE} === 'connected'")
        await create(server, "first")
        await page.until(f"{EVENTS}.length === 1")

        server.stop()
        await page.until(f"{STATE}?.startsWith('connection lost')")
        server.start()
        await create(server, "second")

        await page.until(f"{EVENTS}.length === 2")
        assert '"title":"second"' in (await page.run(EVENTS))[0]


async def create(server: Server, title: str) -> None:
    query = "mutation ($title: String!) { createTask(input: {title: $title}) { id } }"
    body = {"query": query, "variables": {"title": title}}
    async with httpx.AsyncClient(verify=NO_TLS) as http:
        headers = {"authorization": f"Bearer {token()}"}
        answer = await http.post(f"{server.http}/graphql", json=body, headers=headers)
    assert answer.json()["data"]["createTask"]["id"]


async def test_without_its_files_the_page_says_what_to_do(
    tmp_path: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphiql, "FOLDER", tmp_path / "missing")
    app = FastAPI()
    app.include_router(GraphQLRouter(strawberry.Schema(Query)), prefix="/graphql")
    async with running(app) as origin:
        await page.open(f"http://{origin}/graphql")
        shown = await page.until("document.querySelector('h1') && document.body.innerText")
    assert "make graphiql" in shown
