"""Protocol classes for uvicorn, and the server process that uses them."""

from gqlnotify.server.http import HttpProtocol
from gqlnotify.server.websocket import WebSocketProtocol

__all__ = ["HttpProtocol", "WebSocketProtocol"]
