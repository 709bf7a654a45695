"""A client of `graphql-transport-ws` that decides itself how it answers pings."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from tests.conformance.resume.contract import Viewer
from tests.conformance.resume.results import Failure, Results, within

Message = Mapping[str, Any]
Answer = Callable[[Message], Message | None]


def echo(ping: Message) -> Message:
    """Answer with the payload of the ping, as most clients do."""
    return {**ping, "type": "pong"}


def bare(_ping: Message) -> Message:
    """Answer without a payload."""
    return {"type": "pong"}


def silent(_ping: Message) -> None:
    """Answer nothing."""


def positions_of(ping: Message) -> Mapping[str, Any]:
    """Return the positions that an acknowledging ping names."""
    payload = ping.get("payload")
    ours = payload.get("gqlnotify") if isinstance(payload, dict) else None
    cursors = ours.get("cursors") if isinstance(ours, dict) else None
    return cursors if isinstance(cursors, dict) else {}


class Operation(Results):
    """A subscription on a socket."""

    def __init__(self, id_: str, patience: float) -> None:
        super().__init__(patience)
        self.id = id_


class Socket:
    """One connection. It answers each ping as `answer` says."""

    def __init__(self, connection: ClientConnection, patience: float) -> None:
        self.messages: list[Message] = []
        self.answer: Answer = echo
        self.close_code: int | None = None
        self.closed = asyncio.Event()
        self._connection = connection
        self._patience = patience
        self._operations: dict[str, Operation] = {}
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def send(self, **message: Any) -> None:
        """Send a message. A connection that the server has closed takes it too."""
        with suppress(ConnectionClosed):
            await self._connection.send(json.dumps(message))

    async def subscribe(self, payload: Mapping[str, Any], *, id_: str | None = None) -> Operation:
        """Start an operation, with a random UUID or the given id."""
        operation = Operation(id_ or str(uuid4()), self._patience)
        self._operations[operation.id] = operation
        await self.send(id=operation.id, type="subscribe", payload=payload)
        return operation

    async def first(
        self, what: str, wanted: Callable[[Message], object], *, after: int = 0
    ) -> Message:
        """Return the first message that is wanted, of those after the first `after`."""
        begin = after

        def told() -> str:
            seen = self.messages[begin:]
            return f"{len(seen)} messages, the last of them {seen[-3:]}"

        async with within(self._patience, what, told):
            while True:
                for message in self.messages[after:]:
                    if wanted(message):
                        return message
                if self.closed.is_set():
                    raise Failure(what, f"the server has closed: {self.close_code}")
                after = len(self.messages)
                self._changed.clear()
                await self._changed.wait()

    async def asked(self, operation: Operation, *, after: int = 0) -> Message:
        """Return the first ping that names `operation`, of the messages after the first `after`."""
        what = f"an acknowledging ping that names the operation {operation.id}"
        return await self.first(what, lambda each: operation.id in _asked_ids(each), after=after)

    async def heard(self) -> None:
        """Return when the server has handled what was sent to it."""
        mark = {"mark": str(uuid4())}
        await self.send(type="ping", payload=mark)
        await self.first(
            "a pong with the payload of the ping",
            lambda each: each["type"] == "pong" and each.get("payload") == mark,
        )

    async def acknowledges(self, operation: Operation) -> None:
        """Wait until the server has asked about all that has arrived, and has got the answer."""
        await self.asked(operation, after=self.place_of_last(operation))
        await self.heard()

    def place_of_last(self, operation: Operation) -> int:
        """Return how many messages there were with the last result of the operation."""
        id_ = operation.id
        return max(n for n, each in enumerate(self.messages, 1) if _is_next(each, id_))

    async def cut(self) -> None:
        """End the connection as a broken line would, without a close frame."""
        self._reading.cancel()
        self._connection.transport.abort()
        await asyncio.wait([self._reading])

    async def _read(self) -> None:
        try:
            async for text in self._connection:
                await self._take(json.loads(text))
        except (ConnectionClosed, ValueError):
            pass
        finally:
            self.close_code = self._connection.close_code
            self.closed.set()
            self._changed.set()
            for operation in self._operations.values():
                operation.end(({"message": f"closed with {self.close_code}"},))

    async def _take(self, message: Message) -> None:
        self.messages.append(message)
        self._changed.set()
        operation = self._operations.get(message.get("id", ""))
        match message.get("type"):
            case "ping":
                answer = self.answer(message)
                if answer is not None:
                    await self.send(**answer)
            case "next" if operation is not None:
                operation.push(message.get("payload"))
            case "error" if operation is not None:
                operation.end(message.get("payload") or ())
            case "complete" if operation is not None:
                operation.end()


def _asked_ids(message: Message) -> Mapping[str, Any]:
    return positions_of(message) if message.get("type") == "ping" else {}


def _is_next(message: Message, id_: str) -> bool:
    return message.get("type") == "next" and message.get("id") == id_


@asynccontextmanager
async def open_socket(url: str, viewer: Viewer, patience: float) -> AsyncIterator[Socket]:
    """Connect and wait for the acknowledgement. The connection is cut at the end."""
    try:
        async with asyncio.timeout(patience):
            connection = await connect(
                "ws" + url.removeprefix("http"),
                subprotocols=[Subprotocol("graphql-transport-ws")],
                max_size=None,
                proxy=None,
                ping_interval=None,
                compression=None,
            )
    except (OSError, TimeoutError, WebSocketException) as error:
        raise Failure("a WebSocket connection", f"{error!r}") from None
    socket = Socket(connection, patience)
    try:
        payload = viewer.connection_init
        await socket.send(
            type="connection_init", **({} if payload is None else {"payload": payload})
        )
        await socket.first("connection_ack", lambda each: each.get("type") == "connection_ack")
        yield socket
    finally:
        await socket.cut()
