"""A plain WebSocket client, and an application for it."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close
from websockets.typing import Subprotocol

from gqlnotify import Settings, TopicManager, topic_router
from gqlnotify.server import WebSocketProtocol
from tests.e2e.conftest import SECRET
from tests.servers import ROOT, patience, running

PAGE = ROOT / "docs" / "how-to" / "plain-websocket.md"
JSON, BINARY = "gqlnotify.json", "gqlnotify.binary"
CLASSES: Any = [WebSocketProtocol, "auto"]


@dataclass
class Plain:
    """A client of one topic."""

    connection: ClientConnection

    async def frame(self) -> str | bytes:
        async with patience():
            return await self.connection.recv()

    async def receive(self) -> dict[str, Any]:
        frame = await self.frame()
        assert isinstance(frame, str)
        message: dict[str, Any] = json.loads(frame)
        return message

    async def ready(self) -> str:
        message = await self.receive()
        assert message["type"] == "ready", message
        return str(message["cursor"])

    async def event(self) -> dict[str, Any]:
        message = await self.receive()
        assert message["type"] == "event", message
        return message

    async def data(self, count: int) -> list[Any]:
        return [(await self.event())["data"] for _ in range(count)]

    async def send(self, message: str | bytes) -> None:
        await self.connection.send(message)

    async def closed(self) -> Close:
        """Return the server's close frame. It must send nothing before it."""
        with pytest.raises(ConnectionClosed) as closed:
            await self.frame()
        assert closed.value.rcvd is not None
        return closed.value.rcvd


@dataclass
class App:
    """An application with plain WebSockets."""

    topics: TopicManager
    app: FastAPI
    origin: str = ""

    @classmethod
    def of(cls, *, prefix: str = "", hooks: Any = None, **settings: Any) -> Self:
        made = Settings(**settings)
        topics = TopicManager(settings=made)
        app = FastAPI()
        app.include_router(topic_router(topics, settings=made, **(hooks or {})), prefix=prefix)
        return cls(topics, app)

    @asynccontextmanager
    async def client(
        self, path: str = "/notifications/news", **options: Any
    ) -> AsyncIterator[Plain]:
        async with plain(f"ws://{self.origin}{path}", **options) as client:
            yield client


@asynccontextmanager
async def served(ws: Any = "auto", **options: Any) -> AsyncIterator[App]:
    app = App.of(**options)
    async with running(app.app, ws=ws) as app.origin:
        yield app


def snippets(origin: str) -> list[str]:
    """Return the JavaScript of the how-to page, for a server at `origin`."""
    code = re.findall(r"^```js\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [each.replace("127.0.0.1:8000", origin) for each in code]


def locked(ws: Any = "auto", **options: Any) -> Any:
    """Serve an application that requires tokens."""
    return served(ws, jwt_secret=SECRET, **options)


@asynccontextmanager
async def plain(
    url: str,
    *,
    token: str | None = None,
    subprotocols: Sequence[str] = (),
    headers: dict[str, str] | None = None,
    **query: str,
) -> AsyncIterator[Plain]:
    """Open a socket; `token` goes into the header."""
    sent = dict(headers or {})
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    address = f"{url}?{urlencode(query)}" if query else url
    offered = [Subprotocol(each) for each in subprotocols] or None
    async with connect(
        address, additional_headers=sent, subprotocols=offered, proxy=None
    ) as connection:
        yield Plain(connection)


def subscribers(topics: TopicManager, name: str = "news") -> int:
    """Return how many subscribers a topic has."""
    topic = topics.live_topics.by_name.get(name)
    return 0 if topic is None else len(topic.subscribers)
