"""A client that knows nothing of cursors: it keeps its operation's id, and echoes pings."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from websockets.exceptions import ConnectionClosed

from tests.e2e.raw import Socket, open_socket
from tests.e2e.tokens import token
from tests.waiting import wait_until

DOCUMENT = "subscription { messages { text } }"


class StockClient:
    """One operation of a client, on one connection after the other."""

    def __init__(self, document: str = DOCUMENT, *, subject: str = "alice", **payload: Any) -> None:
        self.id = str(uuid4())
        self.document, self.subject, self.payload = document, subject, payload
        self.received: list[dict[str, Any]] = []
        self.pings: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.answers = True
        self.is_completed = False
        self.last_pong: dict[str, Any] | None = None
        self._socket: Socket | None = None

    @asynccontextmanager
    async def connected(self, origin: str, **options: Any) -> AsyncIterator[Socket]:
        """Subscribe on a new connection. It ends with the block, and the server notices."""
        self.pings.clear()
        async with open_socket(f"ws://{origin}", **options) as socket:
            await socket.init({"token": token(sub=self.subject)})
            await socket.subscribe(self.id, self.document, **self.payload)
            self._socket = socket
            reading = asyncio.create_task(self._read(socket))
            try:
                yield socket
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    async def armed(self) -> None:
        """Wait for the ping that says that a reconnect would miss nothing."""
        await wait_until(lambda: any(self.id in ping["cursors"] for ping in self.pings))

    async def gets(self, *texts: str) -> None:
        """Wait until exactly these texts have arrived since the last call."""
        await wait_until(lambda: len(self.received) >= len(texts))
        taken = self.take()
        assert taken == [*texts], taken

    def take(self) -> list[str]:
        """Return the texts that have arrived since the last call. Repeats begin with `again: `."""
        received, self.received = self.received, []
        return [_text(result) for result in received]

    async def acknowledges(self, cursor: str) -> None:
        """Wait until the server has asked about `cursor`, and has got the answer."""
        await wait_until(lambda: any(cursor in ping["cursors"].values() for ping in self.pings))
        await self.is_heard()

    async def is_heard(self) -> None:
        """Wait until the server has handled everything that was sent to it."""
        mark = {"mark": str(uuid4())}
        assert self._socket is not None
        await self._socket.send({"type": "ping", "payload": mark})
        await wait_until(lambda: self.last_pong == mark)

    async def _read(self, socket: Socket) -> None:
        try:
            async for text in socket.connection:
                await self._handle(socket, json.loads(text))
        except ConnectionClosed:
            pass
        finally:
            self.close_code = socket.connection.close_code

    async def _handle(self, socket: Socket, message: dict[str, Any]) -> None:
        match message["type"]:
            case "next":
                self.received.append(message["payload"])
            case "ping":
                if "payload" in message:
                    self.pings.append(message["payload"]["gqlnotify"])
                if self.answers:
                    await socket.send({**message, "type": "pong"})
            case "complete":
                self.is_completed = True
            case "error":
                self.errors += message["payload"]
            case "pong":
                self.last_pong = message.get("payload")


def _text(result: dict[str, Any]) -> str:
    if "errors" in result:
        return str(result["errors"][0]["extensions"]["code"])
    [field] = result["data"].values()
    text = field["text"] if isinstance(field, dict) else field
    return f"again: {text}" if result["extensions"].get("redelivered") else text
