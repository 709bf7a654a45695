"""The page in a real Chromium, under its own policy, driven by roles and names."""

import json
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gqlnotify import TopicManager
from tests.chromium import Window, chromium
from tests.console.support import NUMBERS, SETTINGS, application, token
from tests.servers import running
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

PROTOCOL = Subprotocol("graphql-transport-ws")
TEXT = "document.querySelector('main').innerText"


async def subscribed(address: str, subject: str) -> ClientConnection:
    """Return a socket whose subscription runs."""
    socket = await connect(f"ws://{address}/graphql", subprotocols=[PROTOCOL], proxy=None)
    bearer = {"Authorization": f"Bearer {token(subject, subscribe='numbers')}"}
    query = {"query": "subscription Numbers { numbers }"}
    for message in (
        {"type": "connection_init", "payload": bearer},
        {"type": "subscribe", "id": "1", "payload": query},
    ):
        await socket.send(json.dumps(message))
    return socket


async def shows(window: Window, text: str) -> None:
    await wait_until(lambda: window.evaluate(f"{TEXT}.includes({json.dumps(text)})"))


async def test_an_operator_looks_at_everything_and_ends_a_connection(tmp_path: Path) -> None:
    topics = TopicManager(settings=SETTINGS)
    async with running(application(topics)) as address, chromium(tmp_path) as browser:
        socket = await subscribed(address, "alice")
        await topics.publish(NUMBERS, 41)
        window = await browser.open_window(f"http://{address}/console")
        # The page asks for a token, says why it refuses one, and takes the next.
        await window.fill("Token with the right admin", token("mallory", subscribe="*"))
        await shows(window, "This token has no right to use 'console'")
        await window.fill("Token with the right admin", token())

        await shows(window, "Deliveries a second")
        await shows(window, topics.survey.process.name)
        await window.click("link", "Topics")
        await window.click("link", "numbers")
        await shows(window, "41")
        await window.click("button", "Watch live")
        await shows(window, "Waiting for events…")
        await window.evaluate("document.querySelector('details').open = true")
        await window.evaluate("document.querySelector('textarea').value = '42'")
        await window.click("button", "Publish")
        await shows(window, "42")
        assert (await topics.cursor(NUMBERS)).seq == 2

        await window.click("link", "Operations")
        await shows(window, "Numbers")
        await window.click("link", "Connections")
        await shows(window, "alice")
        await window.evaluate("window.confirm = () => true")
        name = await window.evaluate(
            "[...document.querySelectorAll('.actions button')]"
            ".map((button) => button.ariaLabel).find((name) => name.includes('Disconnect alice'))"
        )
        await window.click("button", name)
        await socket.wait_closed()

        # The token is in this tab's storage alone, and not in the address.
        stored = "[Object.keys(sessionStorage), localStorage.length, document.cookie]"
        assert await window.evaluate(stored) == [["gqlnotify.console.token"], 0, ""]
        await window.click("button", "Forget the token")
        await shows(window, "Token with the right admin")
        assert await window.evaluate(stored) == [[], 0, ""]
        # An address with a token opens the console in a tab that is open already, too.
        await window.evaluate(f"location.hash = '#token={token()}'")
        await shows(window, "Deliveries a second")
        assert await window.evaluate("location.hash") == "#overview"
        await window.evaluate("location.hash = '#topics/%E0'")
        await shows(window, "A topic name consists of segments")
    assert socket.close_code == 1012
