"""Plain WebSockets of real server processes, and clients in JavaScript."""

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from tests.applications import client_of
from tests.e2e.conftest import SECRET
from tests.e2e.test_secrets import parts_of
from tests.e2e.tokens import token
from tests.plain.support import CLASSES, locked, plain, served, snippets
from tests.redis_servers import Link
from tests.servers import SERVE, Program, node, patience, serving

pytestmark = pytest.mark.processes

APP = "tests.plain.app:app"
NEWS = "/ws/notifications/news"
# As its users start it, with its own logging.
STOCK = Program("uvicorn {application} --port {port}", r"Uvicorn running on \S+:(\d+)")
EVENTS = 60
both = pytest.mark.parametrize("ws", CLASSES, ids=["direct", "portable"])


async def test_a_token_in_the_address_reaches_no_log(tmp_path: Path) -> None:
    good, bad = token(), token(secret="another secret")
    with serving(APP, tmp_path, program=STOCK, jwt_secret=SECRET, query_token=True) as server:
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


async def test_a_server_that_stops_sends_its_clients_away_with_1012(tmp_path: Path) -> None:
    settings = {"jwt_secret": SECRET, "drain_window": 0.2, "query_token": True}
    bearer = token()
    with serving(APP, tmp_path, program=SERVE, **settings) as server:
        async with plain(f"{server.ws}{NEWS}?token={bearer}") as client:
            await client.ready()
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            close = await client.closed()
        assert (close.code, close.reason) == (
            1012,
            "The server is about to stop. Reconnect with after",
        )
        assert NEWS in server.log
        assert not any(part in server.log for part in parts_of(bearer))
        assert not server.trouble


@both
async def test_nothing_is_lost_or_repeated_over_cuts_and_at_another_server(
    ws: Any, redis_url: str
) -> None:
    settings = {"broker_url": redis_url, "broker_prefix": token_hex(4), "prefix": "/ws"}
    async with served(ws, **settings) as first, served(ws, **settings) as second:
        with (
            Link(port_of(first.origin)) as link,
            node("snippet.mjs", code=following(link.port)) as follower,
        ):
            seen = [await line_of(follower)]
            for number in range(EVENTS):
                await second.topics.publish("news", number)
                if number % 5 == 0:
                    if number > EVENTS / 2:
                        link.lead_to(port_of(second.origin))
                    link.cut()
                    while (line := await line_of(follower)) != "ready":
                        seen.append(line)
            while seen[-1] != EVENTS - 1:
                seen.append(await line_of(follower))
    assert seen == ["ready", *range(EVENTS)]


@both
async def test_a_browser_sends_its_token_as_a_subprotocol_and_gets_bytes(ws: Any) -> None:
    async with locked(ws, prefix="/ws") as app:
        with node("snippet.mjs", code=snippets(app.origin)[1], token=token("alice")) as browser:
            assert await line_of(browser) == {"author": "alice", "bytes": [0, 10, 255]}


def port_of(origin: str) -> int:
    return int(origin.rpartition(":")[2])


async def line_of(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    async with patience():
        return json.loads(await asyncio.to_thread(process.stdout.readline))


def following(port: int) -> str:
    """Return the code of the page that follows a topic, which prints `ready` too."""
    printing = "console.log(message.type === 'event' ? message.data : 'ready');"
    code = snippets(f"127.0.0.1:{port}")[0]
    code = code.replace("if (message.type === 'event') console.log(message.data);", printing)
    assert printing in code
    return code.replace("500 + Math.random() * 500", "20")
