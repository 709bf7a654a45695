"""Refuses clients with an unsupported subprotocol, and logs a warning once."""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from gqlnotify.deadline import time_limit
from gqlnotify.errors import SubprotocolNotAcceptable
from gqlnotify.observability.metrics import refused

LEGACY = "graphql-ws"
LEGACY_REASON = (
    "Legacy subprotocol graphql-ws: this server speaks graphql-transport-ws. Use npm graphql-ws"
)
_SECONDS = 1.0

logger = logging.getLogger("gqlnotify.transports")


class SubprotocolRefusals:
    """Refuses clients that offer none of the server's subprotocols."""

    def __init__(self) -> None:
        self._told = False

    async def refuse(self, websocket: WebSocket, served: Sequence[str]) -> None:
        """Accept the socket, explain the refusal in the client's own protocol, and close with 4406.

        If the handshake failed instead, a browser would show neither a message nor a reason.

        Args:
            websocket: the socket, not yet accepted.
            served: the subprotocols that the router has turned on.
        """
        offered: list[str] = websocket.scope["subprotocols"]
        refused(SubprotocolNotAcceptable.label)
        self._tell(offered, served)
        legacy = LEGACY in offered
        reason = _reason(offered, served)
        # Starlette and uvicorn raise different errors if the client leaves meanwhile.
        with suppress(WebSocketDisconnect, OSError, RuntimeError):
            await websocket.accept(subprotocol=LEGACY if legacy else None)
            if legacy:
                await _explain(websocket, reason)
            await websocket.close(SubprotocolNotAcceptable.code, reason)

    def _tell(self, offered: Sequence[str], served: Sequence[str]) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "Refused a client that offers the subprotocols %.200r: this server speaks %s. "
                "%s is the protocol of the package subscriptions-transport-ws, which the package "
                "graphql-ws replaces. Further refusals are counted, not logged",
                offered,
                " and ".join(served) or "none",
                LEGACY,
            )


def _reason(offered: Sequence[str], served: Sequence[str]) -> str:
    if not served:
        return "Subprotocol not acceptable: this server has turned WebSocket off"
    if LEGACY in offered:
        return LEGACY_REASON
    return f"Subprotocol not acceptable: offer {' or '.join(served)}"


async def _explain(websocket: WebSocket, reason: str) -> None:
    """Answer with errors for a moment. Only an error of an operation reaches the application."""
    error = {"message": reason}
    await websocket.send_json({"type": "connection_error", "payload": error})
    with suppress(TimeoutError, ValueError, KeyError):
        async with time_limit(_SECONDS):
            while True:
                message: Any = json.loads(await websocket.receive_text())
                if isinstance(message, dict) and message.get("type") == "start":
                    answer = {"type": "error", "id": message.get("id"), "payload": error}
                    await websocket.send_json(answer)
