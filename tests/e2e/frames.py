"""A WebSocket client that returns frames as they arrived, and reads only on demand."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from websockets.frames import Close, Frame, Opcode

from tests.e2e.raw import MODERN
from tests.servers import patience

_REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
)
_EMPTY_BLOCK = b"\x00\x00\xff\xff"


@dataclass(frozen=True)
class Seen:
    """A frame as it was received."""

    first: int
    data: bytes

    @property
    def opcode(self) -> Opcode:
        return Opcode(self.first & 0x0F)

    @property
    def compressed(self) -> bool:
        return bool(self.first & 0x40)

    @property
    def text(self) -> bytes:
        """The payload of a data frame, decompressed without the context of earlier frames."""
        if not self.compressed:
            return self.data
        return zlib.decompressobj(-15).decompress(self.data + _EMPTY_BLOCK)

    @property
    def message(self) -> dict[str, Any]:
        assert self.opcode is Opcode.TEXT, self
        message: dict[str, Any] = json.loads(self.text)
        return message

    @property
    def close(self) -> Close:
        assert self.opcode is Opcode.CLOSE, self
        return Close.parse(self.data)


class FrameSocket:
    """A connection after its handshake."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.answer = answer

    async def send_frames(self, *frames: Frame) -> None:
        self._writer.write(b"".join(frame.serialize(mask=True) for frame in frames))
        await self._writer.drain()

    async def send(self, *messages: Any) -> None:
        texts = (json.dumps(message).encode() for message in messages)
        await self.send_frames(*(Frame(Opcode.TEXT, text) for text in texts))

    async def subscribe(self, id_: str, query: str, **payload: Any) -> None:
        await self.send({"id": id_, "type": "subscribe", "payload": {"query": query, **payload}})

    async def init(self) -> None:
        await self.send({"type": "connection_init"})
        assert (await self.frame()).message["type"] == "connection_ack"

    async def frame(self) -> Seen:
        """Return the next frame.

        Raises:
            IncompleteReadError: there is none; it contains the remaining bytes.
        """
        async with patience():
            first, size = await self._reader.readexactly(2)
            if size >= 126:
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
            return Seen(first, await self._reader.readexactly(size))

    async def frames(self, count: int) -> list[Seen]:
        return [await self.frame() for _ in range(count)]

    async def until_closed(self) -> list[Seen]:
        """Return all frames up to the server's close frame, after which nothing may follow."""
        seen = [await self.frame()]
        while seen[-1].opcode is not Opcode.CLOSE:
            seen.append(await self.frame())
        await self.send_frames(Frame(Opcode.CLOSE, seen[-1].data))
        await self.ended()
        return seen

    async def ended(self) -> None:
        """Return once the server has closed the connection, without another byte."""
        left = b""
        # Granian closes the connection without reading the answer to its close frame.
        async with patience():
            with suppress(ConnectionResetError):
                left = await self._reader.read()
        assert left == b"", left

    async def settled(self) -> None:
        """Check that no other message arrives before the answer to a ping."""
        await self.send({"type": "ping"})
        assert (await self.frame()).message == {"type": "pong"}

    def abort(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def frame_socket(
    address: str,
    *,
    path: str = "/graphql",
    subprotocol: str | None = MODERN,
    offer: str | None = None,
    buffer: int = 2**16,
) -> AsyncIterator[FrameSocket]:
    """Connect to `host:port`; `offer` is the extension's header, `buffer` the read-ahead."""
    host, port = address.removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=buffer)
    more = "" if subprotocol is None else f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    more += "" if offer is None else f"Sec-WebSocket-Extensions: {offer}\r\n"
    try:
        writer.write(_REQUEST.format(path=path, host=address, more=more).encode())
        async with patience():
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert answer.startswith("HTTP/1.1 101"), answer
        yield FrameSocket(reader, writer, answer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
