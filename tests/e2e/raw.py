"""A raw `graphql-transport-ws` connection, which can send what no client library would."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close
from websockets.typing import Subprotocol

from tests.servers import patience

MODERN = "graphql-transport-ws"


class Socket:
    """A client whose messages a test sends one by one."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, *messages: Any) -> None:
        for message in messages:
            await self.raw(json.dumps(message))

    async def raw(self, message: str | bytes) -> None:
        await self.connection.send(message)

    async def receive(self) -> dict[str, Any]:
        async with patience():
            text = await self.connection.recv()
        assert isinstance(text, str), "the protocol has no binary messages"
        message: dict[str, Any] = json.loads(text, parse_constant=_not_json)
        return message

    async def init(self, payload: Any = None) -> dict[str, Any]:
        init = {"type": "connection_init"}
        await self.send(init if payload is None else {**init, "payload": payload})
        message = await self._answer()
        assert message["type"] == "connection_ack", message
        return message

    async def subscribe(self, id_: Any, query: Any, **payload: Any) -> None:
        await self.send({"id": id_, "type": "subscribe", "payload": {"query": query, **payload}})

    async def complete(self, id_: str) -> None:
        await self.send({"id": id_, "type": "complete"})

    async def next(self, id_: str) -> dict[str, Any]:
        message = await self._answer()
        assert (message["type"], message["id"]) == ("next", id_), message
        result: dict[str, Any] = message["payload"]
        return result

    async def completed(self, id_: str) -> None:
        message = await self._answer()
        assert message == {"type": "complete", "id": id_}

    async def _answer(self) -> dict[str, Any]:
        # The server can ping at any time.
        while (message := await self.receive())["type"] == "ping":
            pass
        return message

    async def error(self, id_: str) -> list[dict[str, Any]]:
        message = await self._answer()
        assert (message["type"], message["id"]) == ("error", id_), message
        errors: list[dict[str, Any]] = message["payload"]
        assert errors
        assert all(isinstance(error["message"], str) for error in errors)
        return errors

    async def query(self, document: str, **payload: Any) -> Any:
        """Run a query or a mutation from its start to its end."""
        await self.subscribe("a query", document, **payload)
        result = await self.next("a query")
        await self.completed("a query")
        assert "errors" not in result, result
        return result["data"]

    async def is_silent(self) -> None:
        """Check that no other message arrives before the answer to a ping."""
        await self.send({"type": "ping", "payload": {"silent": True}})
        assert await self._answer() == {"type": "pong", "payload": {"silent": True}}

    async def closed(self) -> Close:
        """Read until the server closes, and return its close frame."""
        async with patience():
            while not self.connection.close_code:
                with suppress(ConnectionClosed):
                    await self.connection.recv()
        close = self.connection.protocol.close_rcvd
        assert close is not None, "the connection ended without a close frame (1006)"
        return close


def _not_json(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON: a browser fails on the whole message")


@asynccontextmanager
async def open_socket(
    origin: str, *, subprotocols: Sequence[str] = (MODERN,), path: str = "/graphql", **options: Any
) -> AsyncIterator[Socket]:
    async with connect(
        f"{origin}{path}",
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
        max_size=None,
        proxy=None,
        **options,
    ) as connection:
        yield Socket(connection)
        await _leave(connection)


async def _leave(connection: ClientConnection) -> None:
    """Close the connection, and read what is on its way: the server's close frame comes after it.

    A client that has stopped reading would wait ten seconds for that frame.
    """
    closing = asyncio.create_task(connection.close())
    with suppress(ConnectionClosed):
        async for _message in connection:
            pass
    await closing
