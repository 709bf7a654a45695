"""The page of examples/board in two windows: `make example-test` builds the page first."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.chromium import Browser, Window, chromium
from tests.redis_servers import Link
from tests.servers import ROOT, Server, patience, serving
from tests.waiting import wait_until

BOARD = ROOT / "examples" / "board"

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        not (BOARD / "dist").is_dir(), reason="`make example-test` builds the page first"
    ),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(params=["memory", "redis"])
def board(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    monkeypatch.setenv("BOARD_DATABASE", str(tmp_path / "board.db"))
    in_redis = request.param == "redis"
    broker_url = request.getfixturevalue("redis_url") if in_redis else "memory://"
    with serving(
        "server:app",
        tmp_path,
        "--app-dir",
        str(BOARD),
        broker_url=broker_url,
        broker_prefix=tmp_path.name,
    ) as server:
        yield server


@pytest.fixture
def two_boards(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Server, Server]]:
    """Two servers with one database and one Redis."""
    monkeypatch.setenv("BOARD_DATABASE", str(tmp_path / "board.db"))

    def server(name: str) -> AbstractContextManager[Server]:
        (directory := tmp_path / name).mkdir()
        settings: Any = {"broker_url": redis_url, "broker_prefix": tmp_path.name}
        return serving("server:app", directory, "--app-dir", str(BOARD), **settings)

    with server("first") as first, server("second") as second:
        yield first, second


@pytest.fixture
def rarely_asking_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A board whose server does not ask what a page has received, once it follows."""
    monkeypatch.setenv("BOARD_DATABASE", str(tmp_path / "board.db"))
    with serving("server:app", tmp_path, "--app-dir", str(BOARD), ack_interval=3600) as server:
        yield server


async def enter(browser: Browser, address: str, name: str) -> Window:
    window = await browser.open_window(address)
    await window.fill("Your name", name)
    await shows(window, "[role=status]", "Live")
    return window


async def shows(window: Window, selector: str, *texts: str) -> None:
    """Wait until the elements that match have these texts, and no others."""
    async with patience():
        await wait_until(lambda: _are(window, selector, texts))


async def _are(window: Window, selector: str, texts: tuple[str, ...]) -> bool:
    return tuple(await window.texts(selector)) == texts


async def test_each_window_shows_what_the_other_does(browser: Browser, board: Server) -> None:
    ann = await enter(browser, board.http, "Ann")
    bob = await enter(browser, board.http, "Bob")

    await ann.fill("New task", "Water the plants")
    await bob.press("button", "Start: Water the plants")
    await shows(bob, ":focus p", "Water the plants")
    await bob.fill("Message", "The plants are mine")

    for window in (ann, bob):
        await shows(window, "section[aria-label=Doing] .card p", "Water the plants")
        await shows(window, ".card small", "Bob")
        await shows(window, ".message p", "The plants are mine")


PEOPLE = "[aria-label=People] li"


async def test_each_window_shows_who_comes_types_and_goes(browser: Browser, board: Server) -> None:
    ann = await enter(browser, board.http, "Ann")
    await shows(ann, PEOPLE, "Ann (you)")
    bob = await enter(browser, board.http, "Bob")
    for window, people in ((ann, ("Ann (you)", "Bob")), (bob, ("Ann", "Bob (you)"))):
        await shows(window, PEOPLE, *people)

    await bob.type("Message", "Is any")
    await shows(ann, PEOPLE, "Ann (you)", "Bob is typing…")
    await bob.fill("Message", "body here?")
    await shows(ann, ".message p", "Is anybody here?")
    await shows(ann, PEOPLE, "Ann (you)", "Bob")

    await bob.close()
    await shows(ann, ".notice", "Bob joined", "Bob left")
    await shows(ann, PEOPLE, "Ann (you)")


async def test_a_window_that_reconnects_soon_has_not_left(browser: Browser, board: Server) -> None:
    ann = await enter(browser, board.http, "Ann")
    bob = await enter(browser, board.http, "Bob")
    await shows(ann, PEOPLE, "Ann (you)", "Bob")
    for _ in range(3):
        await bob.click("button", "Cut the line")
        await bob.click("button", "Restore the line")
        await shows(bob, "[role=status]", "Live")
    eve = await enter(browser, board.http, "Eve")
    await shows(ann, PEOPLE, "Ann (you)", "Bob", "Eve")
    await eve.close()
    await shows(ann, ".notice", "Bob joined", "Eve joined", "Eve left")


async def test_the_people_of_a_killed_server_leave_once_if_they_do_not_come_back(
    browser: Browser, two_boards: tuple[Server, Server]
) -> None:
    first, second = two_boards
    ann = await enter(browser, first.http, "Ann")
    await shows(ann, PEOPLE, "Ann (you)")
    bob = await enter(browser, second.http, "Bob")
    await shows(ann, PEOPLE, "Ann (you)", "Bob")
    await enter(browser, first.http, "Eve")
    await bob.fill("Message", "It is late")
    await shows(ann, PEOPLE, "Ann (you)", "Bob", "Eve")

    second.stop(signal.SIGKILL)
    first.stop(signal.SIGKILL)
    first.start()
    # Ann and Eve reconnect to the first server, long before their old one counts as dead.
    await shows(ann, ".notice", "Bob joined", "Eve joined", "Bob left")
    await shows(ann, PEOPLE, "Ann (you)", "Eve")
    await shows(ann, ".message p", "It is late")


async def test_only_two_windows_show_a_private_message(browser: Browser, board: Server) -> None:
    ann, bob, eve = [await enter(browser, board.http, name) for name in ("Ann", "Bob", "Eve")]
    await bob.fill("Message", "Hello")
    await shows(ann, "option", "Everyone", "Bob", "Eve")
    await ann.choose("To", "Bob")
    await ann.fill("Message to Bob only", "psst")
    await shows(bob, ".message p", "Hello", "psst")
    await bob.fill("Message", "I heard that")
    await shows(ann, ".message p", "Hello", "psst", "I heard that")
    await shows(eve, ".message p", "Hello", "I heard that")
    assert "psst" not in str(eve.received)


async def test_what_a_window_missed_while_its_line_was_cut_arrives_once(
    browser: Browser, board: Server
) -> None:
    ann = await enter(browser, board.http, "Ann")
    bob = await enter(browser, board.http, "Bob")
    await ann.fill("New task", "Seen by both")
    await shows(bob, ".card p", "Seen by both")

    await bob.click("button", "Cut the line")
    await shows(bob, "[role=status]", "Offline")
    await bob.fill("Message", "Written without a line")
    await shows(bob, ".waiting", "Written without a line waits for the line")
    await ann.fill("New task", "Missed by Bob")
    await ann.fill("Message", "Are you there?")
    await shows(ann, ".message p", "Are you there?")
    assert await bob.texts(".card p") == ["Seen by both"]
    await bob.click("button", "Restore the line")

    for window in (ann, bob):
        await shows(window, "[role=status]", "Live")
        await shows(window, ".card p", "Seen by both", "Missed by Bob")
        await shows(window, ".message p", "Are you there?", "Written without a line")
    await shows(bob, ".waiting")


def events(window: Window) -> list[Any]:
    """Return the changes of tasks and messages that the window was sent."""
    payloads = [message["payload"] for message in window.received if message["type"] == "next"]
    lists = [payload for payload in payloads if "list" in payload["data"]]
    return [payload for payload in lists if payload["data"]["list"]["change"]]


def titles(window: Window) -> list[tuple[str, bool]]:
    """Return the tasks that the window was sent, and whether they were marked as repeats."""
    return [
        (event["data"]["list"]["change"]["title"], event["extensions"].get("redelivered", False))
        for event in events(window)
    ]


def has_acknowledged(window: Window) -> bool:
    """Return whether the window has answered the ping for all that it was sent."""
    cursor = events(window)[-1]["extensions"]["cursor"]
    return any(message["type"] == "pong" and cursor in str(message) for message in window.sent)


async def test_the_server_sends_only_what_a_window_missed(browser: Browser, board: Server) -> None:
    ann = await enter(browser, board.http, "Ann")
    bob = await enter(browser, board.http, "Bob")
    await ann.fill("New task", "Seen")
    await shows(bob, ".card p", "Seen")
    async with patience():
        await wait_until(lambda: has_acknowledged(bob))
    await bob.click("button", "Cut the line")
    await ann.fill("New task", "Missed")
    await shows(ann, ".card p", "Seen", "Missed")
    await bob.click("button", "Restore the line")
    await shows(bob, ".card p", "Seen", "Missed")
    assert titles(bob) == [("Seen", False), ("Missed", False)]


async def test_an_event_that_is_sent_again_is_shown_once(
    browser: Browser, rarely_asking_board: Server
) -> None:
    ann = await enter(browser, rarely_asking_board.http, "Ann")
    bob = await enter(browser, rarely_asking_board.http, "Bob")
    await ann.fill("New task", "Seen")
    await shows(bob, ".card p", "Seen")
    await bob.click("button", "Cut the line")
    await bob.click("button", "Restore the line")
    await ann.fill("New task", "Seen later")
    await shows(bob, ".card p", "Seen", "Seen later")
    sent = [message for message in bob.received if "'title': 'Seen'" in str(message)]
    assert len(sent) > 1, "It was not sent again, in a snapshot or as a change"


async def test_a_window_follows_again_after_its_network_failed(
    browser: Browser, board: Server
) -> None:
    ann = await enter(browser, board.http, "Ann")
    with Link(board.port) as link:
        bob = await enter(browser, f"http://127.0.0.1:{link.port}", "Bob")
        link.refuse()
        link.cut()
        await shows(bob, "[role=status]", "Offline, reconnecting…")
        await ann.fill("New task", "Missed by Bob")
        await shows(ann, ".card p", "Missed by Bob")
        link.accept()
        await shows(bob, ".card p", "Missed by Bob")
        await ann.fill("New task", "Seen live")
        await shows(bob, ".card p", "Missed by Bob", "Seen live")


async def test_a_restart_of_the_server_loses_nothing(browser: Browser, board: Server) -> None:
    ann = await enter(browser, board.http, "Ann")
    bob = await enter(browser, board.http, "Bob")
    await bob.click("button", "Cut the line")
    await shows(bob, "[role=status]", "Offline")
    await ann.fill("New task", "Before the restart")
    await ann.fill("Message", "It restarts")
    await shows(ann, ".message p", "It restarts")

    board.stop()
    await shows(ann, "[role=status]", "Offline, reconnecting…")
    board.start()
    await bob.click("button", "Restore the line")
    await shows(bob, "[role=status]", "Live")
    await bob.fill("New task", "After the restart")

    for window in (ann, bob):
        await shows(window, ".card p", "Before the restart", "After the restart")
        await shows(window, ".message p", "It restarts")


async def test_a_session_that_the_server_does_not_know_asks_for_a_name_again(
    browser: Browser, board: Server
) -> None:
    ann = await enter(browser, board.http, "Ann")
    await ann.evaluate('sessionStorage.setItem(\'session\', \'{"name": "Ann", "token": "x"}\')')
    await ann.evaluate("location.reload()")
    await shows(ann, "button", "Sign in")
