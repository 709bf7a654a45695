"""A cheap WebSocket client: a thousand of them run on one core, and each can misbehave."""

import asyncio
import json
import socket
import struct
import zlib
from typing import Any, Self

MODERN = "graphql-transport-ws"
_REQUEST = (
    "GET /graphql HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
)
_DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
_EMPTY_BLOCK = b"\x00\x00\xff\xff"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_HANDSHAKE_SECONDS = 60.0


class Gone(Exception):
    """The connection has ended; `code` is that of the close frame, or None without one."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code


class Peer:
    """One connection. It answers pings while it reads."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        # Servers other than ours keep the compression context between messages.
        self._inflate = zlib.decompressobj(-15).decompress

    @classmethod
    async def dial(cls, port: int, *, buffer: int = 2**16) -> Self:
        """Connect, and send nothing yet; `buffer` is the read-ahead of the kernel and of us.

        Raises:
            OSError: the server can't be reached.
        """
        end = socket.socket()
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        try:
            await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", port))
            return cls(*await asyncio.open_connection(sock=end, limit=buffer))
        except BaseException:
            end.close()
            raise

    @classmethod
    async def connect(
        cls, port: int, *, protocol: str = MODERN, deflate: bool = False, buffer: int = 2**16
    ) -> Self:
        """Connect and shake hands.

        Raises:
            OSError: the server can't be reached, or does not answer in time.
            Gone: the server refuses.
        """
        peer = await cls.dial(port, buffer=buffer)
        more = f"Sec-WebSocket-Protocol: {protocol}\r\n" + _DEFLATE * deflate
        peer.write(_REQUEST.format(host=f"127.0.0.1:{port}", more=more).encode())
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                answer = await peer._reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            peer.cut()
            raise
        except (asyncio.IncompleteReadError, OSError) as error:
            peer.cut()
            raise Gone(None, "in the handshake") from error
        if not answer.startswith(b"HTTP/1.1 101"):
            peer.cut()
            raise Gone(int(answer.split(b" ", 2)[1]), "in the handshake")
        return peer

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)

    def text(self, text: str | bytes, *, opcode: int = _TEXT) -> None:
        """Send one frame, masked with zeros."""
        data = text.encode() if isinstance(text, str) else text
        size = len(data)
        length = (
            bytes([0x80 | size])
            if size < 126
            else struct.pack("!BH", 0xFE, size)
            if size < 65536
            else struct.pack("!BQ", 0xFF, size)
        )
        self._writer.write(bytes([0x80 | opcode]) + length + b"\0\0\0\0" + data)

    def send(self, *messages: Any) -> None:
        """Send messages."""
        for message in messages:
            self.text(json.dumps(message))

    def init(self, token: Any) -> None:
        """Send `connection_init`."""
        self.send({"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}})

    def subscribe(
        self, id_: str, query: str, *, after: str | None = None, **variables: Any
    ) -> None:
        """Start an operation."""
        payload: dict[str, Any] = {"query": query, "variables": variables}
        if after is not None:
            payload["extensions"] = {"after": after}
        self.send({"id": id_, "type": "subscribe", "payload": payload})

    async def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            Gone: there is none.
        """
        while True:
            first, data = await self._frame()
            opcode = first & 0x0F
            if opcode == _CLOSE:
                self.text(data, opcode=_CLOSE)
                self._writer.close()
                raise Gone(struct.unpack_from("!H", data)[0] if data else None, str(data[2:]))
            if opcode == _PING:
                self.text(data, opcode=_PONG)
                continue
            if first & 0x40:
                data = self._inflate(data + _EMPTY_BLOCK)
            message: dict[str, Any] = json.loads(data)
            if message["type"] != "ping":
                return message
            self.send({"type": "pong"})

    async def expect(self, type_: str) -> dict[str, Any]:
        """Return the next message of a type; skip those before it.

        Raises:
            Gone: there is none.
        """
        while (message := await self.receive())["type"] != type_:
            pass
        return message

    async def gone(self) -> Gone:
        """Read to the end, and return it."""
        try:
            while True:
                await self.receive()
        except Gone as gone:
            return gone

    async def _frame(self) -> tuple[int, bytes]:
        try:
            first, size = await self._reader.readexactly(2)
            if size >= 126:
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
            return first, await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError) as error:
            self._writer.close()
            raise Gone(None) from error

    @property
    def is_cut(self) -> bool:
        """Whether a write has noticed that the server closed the connection."""
        return self._writer.transport.is_closing()

    def cut(self) -> None:
        """Vanish: the server gets a reset."""
        end = self._writer.get_extra_info("socket")
        if not self._writer.transport.is_closing():
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def hang_up(self) -> None:
        """Send a close frame and do not wait for the answer."""
        self.text(struct.pack("!H", 1000), opcode=_CLOSE)
        self._writer.close()
