"""What is compressed, for which peers, and how often."""

import json
import zlib
from secrets import token_hex
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from gqlnotify.server.websocket import WebSocketProtocol
from tests.e2e.service import SUBSCRIBE, Service, ready, served, text_of
from tests.server.support import DEFLATE
from tests.servers import patience, running

pytestmark = pytest.mark.processes


@pytest.fixture
def deflations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The window bits of each zlib compressor that was created."""
    made: list[int] = []
    original = zlib.compressobj

    def compressobj(level: int, method: int, bits: int, *more: Any) -> Any:
        made.append(bits)
        return original(level, method, bits, *more)

    monkeypatch.setattr(zlib, "compressobj", compressobj)
    return made


async def test_a_large_event_is_compressed_once_for_all_peers(
    direct: Service, deflations: list[int]
) -> None:
    async with (
        direct.socket(offer=DEFLATE) as one,
        direct.socket(offer=DEFLATE) as other,
        direct.socket() as plain,
    ):
        for socket in (one, other, plain):
            await ready(socket, "a", "1", "2")
        for text in ("x" * 5000, "é😀" * 5000):
            await direct.publish("a", text)
            for socket in (one, other):
                frames = await socket.frames(2)
                assert [frame.compressed for frame in frames] == [True, True]
                assert [text_of(frame) for frame in frames] == [text, text]
            frames = await plain.frames(2)
            assert [frame.compressed for frame in frames] == [False, False]
            assert [text_of(frame) for frame in frames] == [text, text]
        assert deflations == [-12, -12]


async def test_small_messages_are_not_compressed(direct: Service, deflations: list[int]) -> None:
    async with direct.socket(offer=DEFLATE) as socket:
        await ready(socket, "a", "1")
        await direct.publish("a", "x" * 100, "y" * 5000, "z" * 100)
        frames = await socket.frames(3)
        assert [frame.compressed for frame in frames] == [False, True, False]
        assert [text_of(frame)[0] for frame in frames] == ["x", "y", "z"]
        assert deflations == [-12]


@pytest.mark.parametrize(
    ("above", "compressed"), [(0, [False, False]), (10_000, [False, True]), (1, [True, True])]
)
async def test_the_threshold_is_a_setting(above: int, compressed: list[bool]) -> None:
    async with (
        served(WebSocketProtocol, compress_above=above) as service,
        service.socket(offer=DEFLATE) as socket,
    ):
        await ready(socket, "a", "1")
        await service.publish("a", "x" * 5000, "x" * 50_000)
        assert [frame.compressed for frame in await socket.frames(2)] == compressed


@pytest.mark.parametrize("bits", range(9, 16))
async def test_a_peer_can_ask_for_any_window_size(direct: Service, bits: int) -> None:
    offer = f"permessage-deflate; server_max_window_bits={bits}"
    async with direct.socket(offer=offer) as socket:
        assert f"server_max_window_bits={min(bits, 12)}" in socket.answer
        await ready(socket, "a", "1")
        text = token_hex(50_000)
        await direct.publish("a", text)
        frame = await socket.frame()
        assert frame.compressed == (bits >= 12)
        assert text_of(frame) == text


async def test_without_compression_in_uvicorn_none_is_negotiated() -> None:
    service = Service(WebSocketProtocol)
    protocol = service.taps.protocol
    async with (
        running(service.app, ws=protocol, ws_per_message_deflate=False) as service.address,
        service.socket(offer=DEFLATE) as socket,
    ):
        assert "permessage-deflate" not in socket.answer
        await ready(socket, "a", "1")
        await service.publish("a", "x" * 5000)
        assert not (await socket.frame()).compressed


@pytest.mark.parametrize("bits", range(9, 16))
async def test_the_python_client_reads_all_sizes_with_any_window(
    direct: Service, bits: int
) -> None:
    factory = ClientPerMessageDeflateFactory(
        server_max_window_bits=bits, client_max_window_bits=bits
    )
    sent = ["a" * size + token_hex(size // 7) + "é😀" for size in (1, 900, 1100, 4097, 70_000)]
    async with (
        patience(),
        connect(
            f"ws://{direct.address}/graphql",
            subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
            extensions=[factory],
            compression=None,
            proxy=None,
            max_size=None,
        ) as client,
    ):
        await client.send('{"type": "connection_init"}')
        await client.recv()
        for id_ in ("1", "2"):
            payload = {"query": SUBSCRIBE, "variables": {"name": "a"}}
            await client.send(json.dumps({"id": id_, "type": "subscribe", "payload": payload}))
        await client.send('{"type": "ping"}')
        await client.recv()
        await direct.publish("a", *sent, *sent)
        got: dict[str, list[str]] = {"1": [], "2": []}
        for _ in range(4 * len(sent)):
            message = json.loads(await client.recv())
            got[message["id"]].append(message["payload"]["data"]["notes"]["text"])
    assert got == {"1": sent * 2, "2": sent * 2}
