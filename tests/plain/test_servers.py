"""Plain WebSockets of real server processes: logs, restarts and drains."""

import json
import signal
from pathlib import Path

import pytest

from gqlnotify import Publisher, Settings
from tests.applications import client_of
from tests.e2e.conftest import SECRET
from tests.e2e.test_secrets import parts_of
from tests.e2e.tokens import token
from tests.plain.support import plain, snippets
from tests.servers import DIRECT, SERVE, Program, Server, node, serving

pytestmark = pytest.mark.processes

APP = "tests.plain.app:app"
NEWS = "/ws/notifications/news"
# As its users start it, with its own logging.
STOCK = Program("uvicorn {application} --port {port}", r"Uvicorn running on \S+:(\d+)")
EVENTS = 60


@pytest.mark.parametrize("program", [STOCK, SERVE], ids=["uvicorn", "serve"])
async def test_a_token_in_the_address_reaches_no_log(tmp_path: Path, program: Program) -> None:
    good, bad = token(), token(secret="another secret")
    with serving(APP, tmp_path, program=program, jwt_secret=SECRET, query_token=True) as server:
        for name in ("token", "%74oken"):
            async with plain(f"{server.ws}{NEWS}?{name}={good}") as client:
                await client.ready()
            async with plain(f"{server.ws}{NEWS}?{name}={bad}") as client:
                assert (await client.closed()).code == 1008
        async with client_of(f"127.0.0.1:{server.port}") as http:
            await http.get(NEWS, params={"token": good})
        server.stop()
        assert server.log.count(NEWS) >= 5
        for part in (*parts_of(good), *parts_of(bad)):
            assert part not in server.log
        assert not server.trouble


@pytest.mark.parametrize("arguments", [DIRECT, ()], ids=["direct", "portable"])
def test_nothing_is_lost_or_repeated_over_cuts_and_a_crash(
    tmp_path: Path, redis_url: str, arguments: tuple[str, ...]
) -> None:
    prefix = f"plain-{len(arguments)}"
    settings = Settings(broker_url=redis_url, broker_prefix=prefix)
    with (
        serving(APP, tmp_path, *arguments, broker_url=redis_url, broker_prefix=prefix) as server,
        node("snippet.mjs", code=following(server)) as follower,
        Publisher(settings=settings) as publisher,
    ):
        assert follower.stdin is not None
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline()) == "ready"
        for number in range(EVENTS):
            publisher.publish_sync("news", number)
            if number % 5 == 0:
                print("cut", file=follower.stdin, flush=True)
            if number == EVENTS // 2:
                server.stop(signal.SIGKILL)
                server.start()
        seen: list[int] = []
        while not seen or seen[-1] != EVENTS - 1:
            line = json.loads(follower.stdout.readline())
            seen += [line] if line != "ready" else []
        assert seen == list(range(EVENTS))


def following(server: Server) -> str:
    """Return the code of the page that follows a topic, which prints `ready` too."""
    code = snippets(f"127.0.0.1:{server.port}")[0]
    printing = "console.log(message.type === 'event' ? message.data : 'ready');"
    changed = code.replace("if (message.type === 'event') console.log(message.data);", printing)
    changed = changed.replace("500 + Math.random() * 500", "20")
    assert printing in changed
    return changed


def test_a_browser_sends_its_token_as_a_subprotocol_and_gets_bytes(tmp_path: Path) -> None:
    with serving(APP, tmp_path, jwt_secret=SECRET) as server:
        code = snippets(f"127.0.0.1:{server.port}")[1]
        with node("snippet.mjs", code=code, token=token("alice")) as browser:
            assert browser.stdout is not None
            line = json.loads(browser.stdout.readline())
    assert line == {"author": "alice", "bytes": [0, 10, 255]}


async def test_a_server_that_stops_sends_its_clients_away_with_1012(tmp_path: Path) -> None:
    with serving(APP, tmp_path, program=SERVE, jwt_secret=SECRET, drain_window=0.2) as server:
        async with plain(server.ws + NEWS, token=token()) as client:
            await client.ready()
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            close = await client.closed()
        assert (close.code, close.reason) == (
            1012,
            "The server is about to stop. Reconnect with after",
        )
        assert not server.trouble
