"""The examples do what they say."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.raw import Socket, open_socket
from tests.servers import Server, serving


@pytest.fixture(scope="module")
def minimal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("minimal")
    examples = Path(__file__).parent.parent / "examples"
    with serving("minimal:app", directory, "--app-dir", str(examples)) as server:
        yield server


async def say(socket: Socket, text: str) -> None:
    said = await socket.query(f'mutation {{ say(author: "ann", text: "{text}") {{ text }} }}')
    assert said == {"say": {"text": text}}


async def publish_until_received(ann: Socket, bob: Socket) -> dict[str, Any]:
    # A client can't see when its subscription has started.
    hearing = asyncio.create_task(bob.next("1"))
    while not hearing.done():
        await say(ann, "hi")
        await asyncio.wait([hearing], timeout=0.02)
    return await hearing


async def test_a_message_of_one_client_reaches_the_other(minimal: Server) -> None:
    async with open_socket(minimal.ws) as ann, open_socket(minimal.ws) as bob:
        await ann.init()
        await bob.init()
        assert await bob.query("{ hello }") == {"hello": "world"}
        await bob.subscribe("1", "subscription { messages { author text } }")
        result = await publish_until_received(ann, bob)
        assert result["data"] == {"messages": {"author": "ann", "text": "hi"}}
        await say(ann, "still there?")

    async with open_socket(minimal.ws) as bob:
        await bob.init()
        after = result["extensions"]["cursor"]
        await bob.subscribe("1", f'subscription {{ messages(after: "{after}") {{ text }} }}')
        while (heard := await bob.next("1"))["data"] == {"messages": {"text": "hi"}}:
            pass
        assert heard["data"] == {"messages": {"text": "still there?"}}
    assert minimal.trouble == []


def test_its_page_opens_in_a_browser(minimal: Server) -> None:
    page = httpx.get(f"{minimal.http}/graphql", headers={"accept": "text/html"})
    assert "GraphiQL" in page.text
