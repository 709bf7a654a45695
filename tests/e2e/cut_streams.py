"""An application whose HTTP streams a test can cut."""

import asyncio
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gqlnotify.connections.asgi_adapter import asgi_transport


class CutStreams:
    """Passes requests on. It notes what streams of `/graphql` begin with, and cuts them."""

    def __init__(self, app: ASGIApp) -> None:
        self.last_event_ids: list[str | None] = []
        self.positions: asyncio.Queue[None] = asyncio.Queue()
        self._app = app
        self._transports: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/graphql":
            await self._app(scope, receive, send)
            return

        async def noting(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                self._note(scope, receive, Headers(raw=message["headers"]))
            elif message["body"].startswith(b"retry: "):
                self.positions.put_nowait(None)

        await self._app(scope, receive, noting)

    def _note(self, scope: Scope, receive: Receive, headers: Headers) -> None:
        if headers.get("content-type", "").startswith("text/event-stream"):
            self.last_event_ids.append(Headers(scope=scope).get("last-event-id"))
            self._transports.append(asgi_transport(receive))

    def cut(self) -> None:
        """Cut the streams that are open."""
        for transport in self._transports:
            transport.abort()
        self._transports.clear()
