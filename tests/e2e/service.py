"""An application in the event loop of a test, which sees each write to each connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from secrets import token_hex
from typing import Any, cast

import strawberry
from fastapi import FastAPI
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gqlnotify import GraphQLRouter, Topic, TopicManager
from gqlnotify.settings import Settings
from tests.e2e.frames import FrameSocket, Seen, frame_socket
from tests.servers import running


@strawberry.type
class Note:
    text: str


NOTES = Topic("notes.<name>", Note)
SUBSCRIBE = "subscription ($name: String!) { notes(name: $name) { text } }"


@strawberry.type
class Query:
    @strawberry.field
    def echo(self, text: str) -> str:
        return text


class Tapped(asyncio.Transport):
    """A transport that notes what is written."""

    def __init__(self, transport: asyncio.Transport, taps: "Taps") -> None:
        self._transport = transport
        self._taps = taps

    def write(self, data: Any) -> None:
        self._taps.writes.append(bytes(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def write_eof(self) -> None:
        self._transport.write_eof()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def abort(self) -> None:
        self._transport.abort()


class Taps:
    """What the connections of one server wrote, and the connections themselves."""

    def __init__(self, base: type[WebSocketsSansIOProtocol]) -> None:
        taps = self
        self.writes: list[bytes] = []
        self.connections: list[WebSocketsSansIOProtocol] = []

        class Protocol(base):  # type: ignore[valid-type, misc]
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                taps.connections.append(self)
                super().connection_made(Tapped(cast(asyncio.Transport, transport), taps))

        self.protocol: type[asyncio.Protocol] = Protocol

    @property
    def only(self) -> WebSocketsSansIOProtocol:
        [connection] = self.connections
        return connection

    @property
    def held(self) -> int:
        """The bytes that wait in this process for the only peer."""
        frames = sum(len(frame) for frame in getattr(self.only, "_frames", ()))
        return frames + self.only.transport.get_write_buffer_size()


class Service:
    """An application under a protocol class."""

    def __init__(self, base: type[WebSocketsSansIOProtocol], **settings: Any) -> None:
        self.taps = Taps(base)
        made = Settings(**settings)
        self.topics = TopicManager(settings=made)
        self.app = FastAPI()
        self.address = ""
        schema = strawberry.Schema(Query, subscription=_subscriptions(self.topics))
        self.app.include_router(
            GraphQLRouter(schema, topics=self.topics, settings=made), prefix="/graphql"
        )

    async def publish(self, name: str, *texts: str) -> None:
        for text in texts:
            await self.topics.publish(NOTES(name=name), Note(text=text))

    def socket(self, **options: Any) -> AbstractAsyncContextManager[FrameSocket]:
        return frame_socket(self.address, **options)


def _subscriptions(topics: TopicManager) -> type:
    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def notes(self, name: str) -> AsyncIterator[Note]:
            return topics.subscribe(NOTES(name=name))

        @strawberry.subscription
        async def count(self, to: int) -> AsyncIterator[int]:
            for number in range(to):
                yield number

        @strawberry.subscription
        async def flood(self, size: int) -> AsyncIterator[str]:
            while True:
                yield token_hex(size // 2)

    return Subscription


@asynccontextmanager
async def served(base: type[WebSocketsSansIOProtocol], **settings: Any) -> AsyncIterator[Service]:
    service = Service(base, **settings)
    async with running(service.app, ws=service.taps.protocol) as service.address:
        yield service


async def follow(socket: FrameSocket, name: str, *ids: str) -> None:
    for id_ in ids:
        await socket.subscribe(id_, SUBSCRIBE, variables={"name": name})
    await socket.settled()


async def ready(socket: FrameSocket, name: str, *ids: str) -> None:
    await socket.init()
    await follow(socket, name, *ids)


def text_of(frame: Seen) -> str:
    return str(frame.message["payload"]["data"]["notes"]["text"])


async def texts(socket: FrameSocket, count: int) -> list[str]:
    return [text_of(frame) for frame in await socket.frames(count)]
