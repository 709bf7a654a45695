"""One WebSocket to an ASGI application, without a network."""

import asyncio
import json
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message, Scope

from gqlnotify.testing.errors import Disconnected

T = TypeVar("T")

SUBPROTOCOL = "graphql-transport-ws"
_CLOSED_BY_PEER = 1000
_LOST = 1006


class Messages(asyncio.Queue[T]):
    """A queue of the kit. Its class tells it from those of an application."""


class Line:
    """The client's end of one WebSocket. Its application runs in a task of this event loop.

    Args:
        app: the application.
        path: where its router is.
        headers: of the handshake.
        address: the client's host and port, as the application sees it.
        state: what the application's lifespan has put into its state.
    """

    def __init__(
        self,
        app: ASGIApp,
        path: str,
        headers: Mapping[str, str],
        address: tuple[str, int],
        state: MutableMapping[str, Any],
    ) -> None:
        self.end: Disconnected | None = None
        """How the line has ended; None while it is open."""
        self.is_accepted = False
        self._reads = asyncio.Event()
        self._reads.set()
        self._half_open = False
        self._from_app: Messages[dict[str, Any] | None] = Messages()
        self._to_app: Messages[Message] = Messages()
        self._to_app.put_nowait({"type": "websocket.connect"})
        scope = _scope(path, headers, address, state)
        self._call = asyncio.create_task(self._run(app, scope), name=f"the application at {path}")

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message to the application."""
        if not self._half_open:
            self._to_app.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message of the application; None at the end."""
        return await self._from_app.get()

    def read(self, reads: bool) -> None:
        """Read what the application sends, or let it wait, as for a peer that does not read."""
        if reads:
            self._reads.set()
        else:
            self._reads.clear()

    def lose(self, *, noticed: bool) -> None:
        """Cut the line. If the application does not notice, it sends and hears nothing any more."""
        self._half_open = True
        self._reads.set()
        if noticed:
            self.hang_up(_LOST)
        else:
            self._finish(Disconnected(_LOST, "The test has cut the line"))

    def hang_up(self, code: int = _CLOSED_BY_PEER) -> None:
        """Tell the application that the line has ended."""
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": code, "reason": ""})
        self._finish(Disconnected(code))

    async def returned(self, seconds: float) -> bool:
        """Wait until the application has returned. Return False if it takes longer."""
        self._reads.set()
        done, _ = await asyncio.wait([self._call], timeout=seconds)
        return bool(done)

    @property
    def error(self) -> BaseException | None:
        """The exception with which the application has ended, if it has."""
        if self._call.done() and not self._call.cancelled():
            return self._call.exception()
        return None

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._to_app.get, self._receive_from_app)
        except OSError:
            # A server ignores this too, if the client has left.
            if self.end is None:
                raise
        finally:
            self._finish(Disconnected(_LOST, "The application has ended the connection"))

    async def _receive_from_app(self, message: Message) -> None:
        await self._reads.wait()
        if self.end is not None and not self._half_open:
            # What a server raises: see ASGI's specification of `send`, "Disconnected Client".
            raise OSError("The client has disconnected")
        match message["type"]:
            case "websocket.accept":
                self.is_accepted = True
            case "websocket.send" if not self._half_open:
                self._from_app.put_nowait(json.loads(message.get("text") or message["bytes"]))
            case "websocket.close":
                # A server reports the end after the handshake of the close frames.
                self._to_app.put_nowait({"type": "websocket.disconnect", "code": message["code"]})
                self._finish(Disconnected(message["code"], message.get("reason") or ""))

    def _finish(self, end: Disconnected) -> None:
        if self.end is None:
            self.end = end
            with suppress(RuntimeError):
                self._from_app.put_nowait(None)


def _scope(
    path: str,
    headers: Mapping[str, str],
    address: tuple[str, int],
    state: MutableMapping[str, Any],
) -> Scope:
    path, _, query = path.partition("?")
    sent = {"host": "testserver", "sec-websocket-protocol": SUBPROTOCOL, **headers}
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "server": ("testserver", 80),
        "client": address,
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
        "subprotocols": [SUBPROTOCOL],
        "state": dict(state),
        "extensions": {},
    }
