"""The page of GraphiQL and its files come from the router, at each place it can be mounted."""

import gzip
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin

import httpx
import pytest
import strawberry
from fastapi import FastAPI
from starlette.types import ASGIApp
from strawberry.fastapi import GraphQLRouter as StrawberryRouter
from typing_extensions import override

from gqlnotify import GraphQLRouter
from gqlnotify.http import graphiql
from tests.applications import Query

SCRIPT = b"import './chunk-1.js'"
HTML = {"accept": "text/html"}


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphiql, "FOLDER", tmp_path)
    for name in ("page-1.css", "page-1.js", "chunk-1.js", "data-1.woff2"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(SCRIPT))
    (tmp_path / ".installed").touch()


@pytest.fixture
def not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphiql, "FOLDER", tmp_path / "missing")


def router(**options: Any) -> GraphQLRouter[Any, Any]:
    return GraphQLRouter(strawberry.Schema(Query), **options)


def including(router: GraphQLRouter[Any, Any], prefix: str = "") -> FastAPI:
    app = FastAPI()
    app.include_router(router, prefix=prefix)
    return app


def mounting(path: str, inner: FastAPI) -> FastAPI:
    app = FastAPI()
    app.mount(path, inner)
    return app


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def assert_serves_the_page(client: httpx.AsyncClient, address: str, shown: str) -> None:
    """Open the page at `address`, and what it names as a browser does that sees it at `shown`."""
    page = await client.get(address, headers=HTML)
    named = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert len(named) == 2
    for each in named:
        path = unquote(urljoin(f"http://test{shown}", each)).removeprefix("http://test")
        assert path.startswith(shown.rstrip("/") + "/graphiql/")
        file = await client.get(address.rstrip("/") + path.removeprefix(shown.rstrip("/")))
        assert file.content == SCRIPT


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("app", "address"),
    [
        (including(router(path="/graphql")), "/graphql"),
        (including(router(), "/graphql"), "/graphql"),
        (including(router(prefix="/graphql")), "/graphql"),
        (including(router(path="/"), "/graphql"), "/graphql/"),
        (including(router(path="/")), "/"),
        (mounting("/api", including(router(path="/graphql"))), "/api/graphql"),
        (mounting("/graphql", including(router(path="/"))), "/graphql/"),
        (including(router(path="/a b:c")), "/a b:c"),
        (including(router(path="/{name}")), "/tenant"),
    ],
)
async def test_the_page_names_files_that_are_there(app: FastAPI, address: str) -> None:
    async with client_of(app) as client:
        await assert_serves_the_page(client, address, address)


@pytest.mark.usefixtures("built")
async def test_the_page_works_behind_a_proxy_that_removes_a_prefix() -> None:
    app = including(router(path="/graphql"))
    app.root_path = "/prefix"
    async with client_of(app) as client:
        await assert_serves_the_page(client, "/graphql", "/prefix/graphql")


@pytest.mark.usefixtures("built")
async def test_the_page_allows_nothing_but_its_own_origin() -> None:
    async with client_of(including(router(path="/graphql"))) as client:
        page = await client.get("/graphql", headers=HTML)
    assert page.headers["content-security-policy"].startswith("default-src 'self'; ")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "http" not in page.text
    assert page.headers["cache-control"] == "no-cache"


@pytest.mark.usefixtures("built")
async def test_a_file_is_compressed_and_kept_by_browsers() -> None:
    async with client_of(including(router(path="/graphql"))) as client:
        for accepted, encoding in (("gzip, br", "gzip"), ("identity", None)):
            file = await client.get(
                "/graphql/graphiql/page-1.js", headers={"accept-encoding": accepted}
            )
            assert file.content == SCRIPT
            assert file.headers.get("content-encoding") == encoding
            assert file.headers["content-type"].startswith("text/javascript")
            assert "immutable" in file.headers["cache-control"]
        font = await client.get("/graphql/graphiql/data-1.woff2")
    assert font.headers["content-type"] == "font/woff2"


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    "name", ["page-2.js", "page-1.js.gz", ".installed", "*", "..%2Fassets", "..%5Cx", "%00"]
)
async def test_nothing_else_is_served(name: str) -> None:
    async with client_of(including(router(path="/graphql"))) as client:
        assert (await client.get(f"/graphql/graphiql/{name}")).status_code == 404


@pytest.mark.usefixtures("not_built")
async def test_without_its_files_the_page_says_how_to_build_them() -> None:
    async with client_of(including(router(path="/graphql"))) as client:
        page = await client.get("/graphql", headers=HTML)
    assert page.status_code == 200
    assert "make graphiql" in page.text
    assert "<script" not in page.text


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("ide", ["apollo-sandbox", "pathfinder"])
async def test_another_ide_is_served_as_strawberry_does(ide: Any) -> None:
    ours = router(graphql_ide=ide)
    theirs: Any = StrawberryRouter(strawberry.Schema(Query), graphql_ide=ide)
    pages = []
    for each in (ours, theirs):
        async with client_of(including(each, "/graphql")) as client:
            page = await client.get("/graphql", headers=HTML)
            pages.append((page.status_code, page.text))
            assert (await client.get("/graphql/graphiql/page-1.js")).status_code == 404
    assert pages[0] == pages[1]


class WithHtml(GraphQLRouter[Any, Any]):
    @property
    @override
    def graphql_ide_html(self) -> str:
        return "a page of its own"


@pytest.mark.usefixtures("built")
async def test_a_subclass_may_have_a_page_of_its_own() -> None:
    async with client_of(including(WithHtml(strawberry.Schema(Query)), "/graphql")) as client:
        assert (await client.get("/graphql", headers=HTML)).text == "a page of its own"


def test_the_files_are_not_in_the_openapi_document() -> None:
    assert list(including(router(path="/graphql")).openapi()["paths"]) == ["/graphql"]
