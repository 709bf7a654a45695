"""An ASGI application that echoes messages."""

from typing import Any

from starlette.types import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one socket until it ends."""
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", **_content(message)})


def _content(message: Any) -> dict[str, str | bytes]:
    return {kind: message[kind] for kind in ("text", "bytes") if message.get(kind) is not None}
