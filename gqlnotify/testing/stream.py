"""The results of one operation of a client under test."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from typing_extensions import override

from gqlnotify.testing.clock import settle
from gqlnotify.testing.errors import OperationFailed

if TYPE_CHECKING:
    from gqlnotify.testing.client import Client

_SECONDS_TO_LISTEN = 0.05
_TURNS_TO_LISTEN = 1000
_SECONDS_OF_SILENCE = 0.02

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """One result of an operation.

    Attributes:
        data: the result's data.
        cursor: the cursor of the event, if it has one.
        redelivered: whether the server says that the client may have this event already.
        conflated: how many events the server has skipped right before this one.
        extensions: everything that came in `extensions`.
    """

    data: dict[str, Any]
    cursor: str | None = None
    redelivered: bool = False
    conflated: int = 0
    extensions: Json = field(default_factory=dict, repr=False)


class Stream(AsyncIterator[Result]):
    """The results of one subscription.

    `async for` yields them as they arrive. `await` the stream itself to wait until the server
    listens: whatever is published after that arrives.

    Iterating raises `OperationFailed` for GraphQL errors, `Disconnected` if the server closes the
    connection, and `NothingArrived` if nothing comes within the client's `patience`. After
    `Client.reconnect`, the stream goes on.
    """

    def __init__(self, client: "Client", id_: str, payload: dict[str, Any]) -> None:
        self.id = id_
        self.cursor: str | None = None
        """The cursor of the last result that was taken."""
        self.is_over = False
        """Whether the server or the test has ended the operation."""
        self.is_armed = False
        """Whether the server has said that it would resume this operation without a cursor."""
        self.variables: dict[str, Any] = payload.setdefault("variables", {})
        """The variables that the operation begins with, also after `Client.reconnect`."""
        self._client = client
        self._payload = payload
        self._arrived: deque[Json] = deque()
        self._readers_before = 0

    def __await__(self) -> Generator[Any, None, Self]:
        return self._listening().__await__()

    @override
    def __aiter__(self) -> Self:
        return self

    @override
    async def __anext__(self) -> Result:
        __tracebackhide__ = True
        return await self.next()

    async def next(self, *, patience: float | None = None) -> Result:
        """Return the next result. See the class for what it raises.

        Args:
            patience: how many seconds to wait at most, in real time.
        """
        __tracebackhide__ = True
        await self._client.until(
            lambda: bool(self._arrived) or self.is_over,
            f"No result of {self._name()} arrived",
            patience=patience,
        )
        if not self._arrived:
            raise StopAsyncIteration
        return self._take()

    async def take(self, count: int) -> list[Result]:
        """Return the next `count` results."""
        __tracebackhide__ = True
        return [await self.next() for _ in range(count)]

    async def expect_nothing(self) -> None:
        """Check that nothing arrives.

        Raises:
            AssertionError: something has arrived.
        """
        __tracebackhide__ = True
        await settle()
        await asyncio.sleep(_SECONDS_OF_SILENCE)
        if self._arrived:
            raise AssertionError(
                f"Nothing of {self._name()} was expected, and this arrived: {self._arrived[0]}"
            )

    def now(self) -> Result | None:
        """Return the next result if it has arrived already; None if not."""
        return self._take() if self._arrived else None

    async def stop(self) -> None:
        """End the subscription, as a client does that no longer needs it."""
        if not self.is_over:
            self.is_over = True
            self._client.notify()
            self._client.send({"id": self.id, "type": "complete"})
        await settle()

    def start(self, *, with_cursor: bool = False) -> None:
        """Send the operation on the client's current line."""
        payload = dict(self._payload)
        if with_cursor and self.cursor is not None:
            payload["extensions"] = {**payload.get("extensions", {}), "after": self.cursor}
        self._readers_before = self._client.count_readers()
        self.is_armed = False
        self._client.send({"id": self.id, "type": "subscribe", "payload": payload})

    def got(self, message: Json) -> None:
        """Note a message of the server."""
        self._arrived.append(message)
        self.is_over = self.is_over or message["type"] in {"error", "complete"}
        if message["type"] == "complete":
            self._arrived.pop()

    async def _listening(self) -> Self:
        """Wait until the server listens. Without topics of gqlnotify, this is a short pause."""
        end, turns = time.monotonic() + _SECONDS_TO_LISTEN, 0
        # The protocol does not acknowledge a subscription. The turns are for a busy machine.
        while not self._has_begun() and (turns < _TURNS_TO_LISTEN or time.monotonic() < end):
            turns += 1
            await asyncio.sleep(0)
        await settle()
        return self

    def _has_begun(self) -> bool:
        has_reader = self._client.count_readers() > self._readers_before
        return self.is_armed or self.is_over or bool(self._arrived) or has_reader

    def _take(self) -> Result:
        __tracebackhide__ = True
        message = self._arrived.popleft()
        if message["type"] == "error":
            raise OperationFailed(message["payload"])
        result = _result_of(message["payload"])
        self.cursor = result.cursor or self.cursor
        return _checked(result, message["payload"])

    def _name(self) -> str:
        return " ".join(str(self._payload.get("query")).split())


def _result_of(payload: Json) -> Result:
    extensions = payload.get("extensions") or {}
    return Result(
        data=payload.get("data") or {},
        cursor=extensions.get("cursor"),
        redelivered=bool(extensions.get("redelivered")),
        conflated=extensions.get("conflated", 0),
        extensions=extensions,
    )


def _checked(result: Result, payload: Json) -> Result:
    __tracebackhide__ = True
    if payload.get("errors"):
        raise OperationFailed(payload["errors"], result.data)
    return result
