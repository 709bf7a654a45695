"""The code of the how-to pages runs, and does what the pages say."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
from pydantic import SecretStr

from gqlnotify import Principal, Settings, TopicManager, errors
from tests.applications import bearer, client_of, http, post, schema_of
from tests.e2e.conftest import SECRET
from tests.e2e.raw import Socket, open_socket
from tests.e2e.tokens import token
from tests.plain.support import plain, subscribers
from tests.servers import ROOT, patience, running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

HOW_TO = ROOT / "docs" / "how-to"
_BLOCK = re.compile(r"^```python(?: title=\"([\w.]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def page(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The code of the page that the test names, as a module."""
    file = HOW_TO / f"{request.param}.md"
    # Strawberry looks annotations up in the module, so it has to be one.
    module = ModuleType(f"how_to_{request.param.replace('-', '_')}")
    sys.modules[module.__name__] = module
    for title, code in _BLOCK.findall(file.read_text()):
        compiled = compile(code, str(file), "exec")
        # A block with a title is a file of its own, for a package that is not installed here.
        if not title:
            exec(compiled, vars(module))
    yield module
    del sys.modules[module.__name__]


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", [name], indirect=True)


@asynccontextmanager
async def socket_of(app: Any, path: str = "/graphql", **init: Any) -> AsyncIterator[Socket]:
    async with running(app) as origin, open_socket(f"ws://{origin}", path=path) as socket:
        await socket.init(init)
        yield socket


async def cursor(socket: Socket) -> str:
    return str((await socket.query("{ cursor }"))["cursor"])


@pytest.mark.parametrize("page", sorted(f.stem for f in HOW_TO.glob("*.md")), indirect=True)
def test_the_code_of_every_page_runs(page: ModuleType) -> None:
    assert page


def test_the_index_names_every_page() -> None:
    named = set(re.findall(r"\((\S+)\.md\)", (HOW_TO / "README.md").read_text()))
    pages = {f.stem for f in HOW_TO.glob("*.md") if f.name != "README.md"}
    assert {name for name in named if "/" not in name} == pages


def test_the_quoted_lines_are_in_the_configuration_of_the_proxy() -> None:
    page = (HOW_TO / "proxies.md").read_text()
    quoted = re.search(r"^```haproxy\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert quoted is not None
    assert set(quoted[1].splitlines()) <= set(
        (ROOT / "deploy" / "haproxy.cfg").read_text().splitlines()
    )


@of("topics-with-parameters")
async def test_members_of_a_family_are_apart(page: Any) -> None:
    async with socket_of(page.app) as socket:
        publish = 'mutation {{ setPrice(market: "{}", symbol: "X", value: 1) }}'
        after = await socket.query(publish.format("nyse"))
        await socket.query(publish.format("xetra"))
        await socket.query(publish.format("nyse"))
        variables = {"after": after["setPrice"]}
        read = 'subscription ($after: String) { prices(market: "nyse", after: $after) { value } }'
        await socket.subscribe("1", read, variables=variables)
        assert (await socket.next("1"))["data"] == {"prices": {"value": 1.0}}
        await socket.is_silent()
        await socket.subscribe("2", 'subscription { prices(market: "a.b") { value } }')
        [error] = await socket.error("2")
        assert error["extensions"]["code"] == "BAD_USER_INPUT"


@of("filter-and-map")
async def test_a_filter_runs_before_map(page: Any) -> None:
    async with socket_of(page.app) as socket:
        after = await cursor(socket)
        for number, project in enumerate(["house", "garden"]):
            add = f'addTask(id: {number}, project: "{project}", title: "dig")'
            await socket.query(f"mutation {{ {add} {{ id }} }}")
        read = 'taskNews(projects: ["garden"]) { text cursor }'
        await socket.subscribe("1", f"subscription {{ {read} }}", extensions={"after": after})
        result = await socket.next("1")
    news = {"text": "garden: dig", "cursor": result["extensions"]["cursor"]}
    assert result["data"] == {"taskNews": news}


@of("data-loaders")
async def test_the_context_of_the_page_can_be_used_and_the_viewer_can_not(page: Any) -> None:
    async with socket_of(page.app) as socket:
        after = {"extensions": {"after": await cursor(socket)}}
        await socket.query('mutation { say(authorId: 1, text: "hi") { text } }')

        await socket.subscribe("1", "subscription { messages { author } }", **after)
        assert (await socket.next("1"))["data"] == {"messages": {"author": "Ann"}}

        await socket.subscribe("2", "subscription { messages { isMine } }", **after)
        result = await socket.next("2")
        assert result["data"] is None
        [error] = result["errors"]
        assert error["path"] == ["messages", "isMine"]
        assert error["extensions"]["code"] == "NO_VIEWER"

        await socket.subscribe(
            "3", 'subscription { greetings(language: "de") { greeting } }', **after
        )
        assert (await socket.next("3"))["data"] == {"greetings": {"greeting": "Hallo"}}


@of("data-loaders")
async def test_a_resolver_per_viewer_knows_its_viewer(page: Any) -> None:
    router = page.GraphQLRouter(
        page.schema,
        topics=page.topics,
        context_getter=page.context,
        event_context=page.Context,
        authenticate=lambda token, _: Principal(str(token), subscribe=("*",), publish=("*",)),
    )
    app = page.FastAPI()
    app.include_router(router, prefix="/graphql")
    async with socket_of(app, token="1") as socket:
        after = {"extensions": {"after": await cursor(socket)}}
        for author in (1, 2):
            await socket.query(f'mutation {{ say(authorId: {author}, text: "hi") {{ text }} }}')
        await socket.subscribe("1", "subscription { myMessages { isMine author } }", **after)
        assert (await socket.next("1"))["data"] == {"myMessages": {"isMine": True, "author": "Ann"}}
        assert (await socket.next("1"))["data"] == {
            "myMessages": {"isMine": False, "author": "Bob"}
        }


@of("sessions")
async def test_a_session_is_open_for_its_event(page: Any) -> None:
    async with socket_of(page.app) as socket:
        after = await cursor(socket)
        await socket.query("mutation { publish(value: 21) }")
        await socket.subscribe(
            "1", "subscription { numbers { doubled } }", extensions={"after": after}
        )
        assert (await socket.next("1"))["data"] == {"numbers": {"doubled": 42}}
    await page.engine.dispose()


@of("chat")
async def test_a_room_has_people_and_an_inbox_has_one_reader(page: Any) -> None:
    rooms, writing = ("rooms.*",), ("rooms.*", "inbox.bob")
    app = page.FastAPI()
    router = page.GraphQLRouter(
        page.schema,
        topics=page.topics,
        may=page.may_use,
        authenticate=lambda name, _: Principal(name, None, rooms, writing, presence=rooms),
    )
    app.include_router(router, prefix="/graphql")
    people = '{ people(room: "a.b *") { name typing } }'
    async with running(app) as origin, open_socket(f"ws://{origin}") as ann:
        await ann.init({"token": "ann"})
        async with open_socket(f"ws://{origin}") as bob:
            await bob.init({"token": "bob"})
            await bob.subscribe("room", 'subscription { messages(room: "a.b *") { author text } }')
            await bob.subscribe("inbox", "subscription { inbox { author text } }")
            async with patience():
                await wait_until(lambda: _are(ann, people, [{"name": "bob", "typing": False}]))
                await bob.query('mutation { setTyping(room: "a.b *", typing: true) }')
                await wait_until(lambda: _are(ann, people, [{"name": "bob", "typing": True}]))
            await ann.query('mutation { say(room: "a.b *", text: "hi") { text } }')
            said = (await bob.next("room"))["data"]["messages"]
            await ann.query('mutation { whisper(to: "bob", text: "psst") { text } }')
            whispered = (await bob.next("inbox"))["data"]["inbox"]
    assert (said, whispered) == ({"author": "ann", "text": "hi"}, {"author": "ann", "text": "psst"})
    everything = Principal("eve", None, ("*",), ("*",), presence=("*",))
    closed = [page.may_use(everything, action, "inbox.bob") for action in ("subscribe", "presence")]
    assert closed == [False, False]
    assert page.may_use(everything, "subscribe", "inbox.eve")


async def _are(socket: Socket, query: str, people: list[Any]) -> bool:
    return bool((await socket.query(query))["people"] == people)


@of("authenticate-and-may")
async def test_the_hooks_decide(page: Any) -> None:
    async with socket_of(page.app, token="s3cr3t") as socket:
        assert await socket.query('mutation { say(room: "garden", text: "hi") }') == {"say": True}
        await socket.subscribe("1", 'subscription { messages(room: "cellar") }')
        [error] = await socket.error("1")
        assert error["extensions"]["code"] == "FORBIDDEN"


@of("authenticate-and-may")
@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (errors.Unauthenticated("no"), 401, 4401),
        (errors.TokenExpired("no"), 401, 4403),
        (ValueError("no"), 500, 4500),
    ],
)
async def test_clients_get_the_error_that_authenticate_raises(
    page: Any, raised: Exception, status: int, code: int
) -> None:
    def refuse(token: str | None, connection: object) -> Principal:
        raise raised

    app = page.FastAPI()
    router = page.GraphQLRouter(page.schema, topics=TopicManager(), authenticate=refuse)
    app.include_router(router, prefix="/graphql")
    async with running(app) as origin, open_socket(f"ws://{origin}") as socket:
        async with client_of(origin) as client:
            answer = await client.post("/graphql", json={"query": "{ hello }"})
        await socket.send({"type": "connection_init", "payload": {"token": ["no", "string"]}})
        assert (answer.status_code, (await socket.closed()).code) == (status, code)


@of("tokens")
async def test_a_token_of_the_page_is_accepted_until_it_is_revoked(page: Any) -> None:
    token = page.make_token("alice", ["garden"])
    assert page.subject_of(token) == "alice"
    router = page.GraphQLRouter(schema_of(), settings=Settings(jwt_secret=page.SECRET))
    async with http(router, headers={"authorization": f"Bearer {token}"}) as client:
        assert await post(client, "{ hello }") == {"data": {"hello": "world"}}
        await page.log_out_everywhere(router, "alice")
        [error] = (await post(client, "{ hello }"))["errors"]
        assert error["extensions"]["code"] == "TOKEN_REVOKED"


@of("mounting-and-gunicorn")
async def test_a_mounted_router_delivers(page: Any) -> None:
    async with (
        running(page.app) as origin,
        client_of(origin) as client,
        open_socket(f"ws://{origin}", path="/api/graphql") as socket,
    ):
        await socket.init()
        after = await cursor(socket)
        await client.post("/news", params={"text": "hello"})
        await socket.subscribe("1", "subscription { news }", extensions={"after": after})
        assert (await socket.next("1"))["data"] == {"news": "hello"}


@of("change-event-types")
def test_the_tests_of_the_page_pass(page: Any) -> None:
    page.test_events_of_the_last_version_can_be_read()
    page.test_fields_of_the_next_version_do_no_harm()


@of("errors")
async def test_an_error_of_ones_own_reaches_clients_of_every_transport(page: Any) -> None:
    order = 'mutation {{ order(article: "pen", count: {}) }}'
    expected = {
        "message": "Only 2 of pen are left",
        "extensions": {"code": "OUT_OF_STOCK", "left": 2},
    }
    text = (HOW_TO / "errors.md").read_text()
    assert json.dumps(expected) in text
    async with (
        running(page.app) as origin,
        client_of(origin) as client,
        open_socket(f"ws://{origin}") as socket,
    ):
        await socket.init()
        await socket.subscribe("1", order.format(3))
        answers = [await post(client, order.format(3)), await socket.next("1")]
        assert (await post(client, order.format(1)))["data"] == {"order": 1}
    for answer in answers:
        [error] = answer["errors"]
        assert {key: error[key] for key in expected} == expected


@of("errors")
async def test_the_text_of_an_internal_error_stays_in_the_log(
    page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(dict[str, int]):
        def get(self, *_: object) -> int:
            raise errors.InternalError("what happened")

    monkeypatch.setattr(page, "stock", Broken())
    async with running(page.app) as origin, client_of(origin) as client:
        [error] = (await post(client, '{ inStock(article: "pen") }'))["errors"]
    assert error["message"] == "Internal server error"
    assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}


@of("plain-websocket")
async def test_clients_without_graphql_follow_publish_and_have_routes(page: Any) -> None:
    settings = Settings(jwt_secret=SecretStr(SECRET))
    page.topics = TopicManager(settings=settings)
    chat = page.FastAPI()
    router = page.topic_router(page.topics, settings=settings, publish=page.publish_line)
    chat.include_router(router, prefix="/ws")
    async with (
        running(chat) as origin,
        plain(f"ws://{origin}/ws/secure/room", token=token("bob")) as bob,
    ):
        await bob.ready()
        await bob.send("hi")
        await bob.send("5")
        answers = [await bob.receive() for _ in range(3)]
        assert [each["message"] for each in answers if each["type"] == "error"] == ["Send a text"]
        lines = page.follow(f"ws://{origin}/ws/notifications/room", token("ann"))
        waiting = asyncio.ensure_future(anext(lines))
        await wait_until(lambda: subscribers(page.topics, "room") == 2)
        await page.topics.publish(page.Topic("room", page.Line), page.Line("cleo", "hello"))
        async with patience():
            assert await waiting == {"author": "cleo", "text": "hello"}
        await lines.aclose()


@of("plain-websocket")
async def test_a_route_knows_the_subject_of_the_token(page: Any) -> None:
    settings = Settings(jwt_secret=SecretStr(SECRET))
    sockets = page.topic_router(TopicManager(settings=settings), settings=settings)
    page.shop.dependency_overrides[page.sockets.admit] = sockets.admit
    async with running(page.shop) as origin, client_of(origin) as client:
        answer = await client.get("/me", headers=bearer(subject="alice"))
        assert answer.json() == "alice"
        answer = await client.get("/me")
        assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (
            401,
            "UNAUTHENTICATED",
        )
