"""What a client gets of 3 000 prices if it reads nothing for a while."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import APP
from tests.e2e.frames import FrameSocket, frame_socket
from tests.e2e.raw import Socket, open_socket
from tests.servers import Server, serving

SYMBOLS = 10
COUNT = 3000
SIZE = 8000  # so that no buffer on the way holds all of them
PRICES = """subscription ($name: String!, $whole: Boolean!, $perViewer: Boolean!) {
  prices(name: $name, whole: $whole, perViewer: $perViewer) { symbol value padding }
}"""
TRADE = """mutation ($name: String!, $count: Int!) {
  trade(name: $name, symbols: %d, count: $count, size: %d)
}""" % (SYMBOLS, SIZE)  # noqa: UP031 - braces


@pytest.fixture(scope="module")
def exchange(path: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose history holds all events."""
    directory: Path = tmp_path_factory.mktemp("exchange")
    with serving(APP, directory, *path, history_length=2 * COUNT) as server:
        yield server
        assert server.trouble == [], server.log


@pytest.fixture
async def trader(exchange: Server) -> AsyncIterator[Socket]:
    async with open_socket(exchange.ws) as trader:
        await trader.init()
        yield trader


async def read_late(exchange: Server, trader: Socket, name: str, **variables: Any) -> list[Any]:
    """Return the payloads for a client that reads the first one, and the others later."""
    async with frame_socket(exchange.ws, buffer=1024) as socket:
        await socket.init()
        await socket.subscribe("1", PRICES, variables={"name": name, **variables})
        await socket.settled()
        await trader.query(TRADE, variables={"name": name, "count": 1})
        first = await payload(socket)
        assert (first["data"]["prices"]["value"], "conflated" in first["extensions"]) == (0, False)
        await trader.query(TRADE, variables={"name": name, "count": COUNT})
        got = [await payload(socket)]
        while got[-1]["data"]["prices"]["value"] != COUNT - 1:
            got.append(await payload(socket))
        await trader.query(TRADE, variables={"name": name, "count": 1})
        assert (await payload(socket))["data"]["prices"]["value"] == 0
    return got


async def payload(socket: FrameSocket) -> Any:
    while (message := (await socket.frame()).message)["type"] == "ping":
        await socket.send({"type": "pong"})
    assert message["type"] == "next", message
    return message["payload"]


@pytest.mark.parametrize("per_viewer", [False, True])
async def test_a_client_that_lagged_gets_the_latest_of_each_key_and_how_many_were_skipped(
    exchange: Server, trader: Socket, per_viewer: bool
) -> None:
    name = f"latest-{per_viewer}"
    got = await read_late(exchange, trader, name, whole=False, perViewer=per_viewer)

    values = [result["data"]["prices"]["value"] for result in got]
    assert values == sorted(set(values))
    assert values[-SYMBOLS:] == list(range(COUNT - SYMBOLS, COUNT))
    assert len(got) < COUNT / 2
    left_out = [result["extensions"].get("conflated", 0) for result in got]
    assert len(got) + sum(left_out) == COUNT
    # Each number counts the events between two cursors.
    places = [int(result["extensions"]["cursor"].split("-")[1]) for result in got]
    before = [1, *places[:-1]]
    assert left_out == [here - there - 1 for there, here in zip(before, places, strict=True)]


async def test_without_latest_by_a_client_gets_every_event(
    exchange: Server, trader: Socket
) -> None:
    got = await read_late(exchange, trader, "all", whole=True, perViewer=False)

    assert [result["data"]["prices"]["value"] for result in got] == list(range(COUNT))
    assert not any("conflated" in result["extensions"] for result in got)
