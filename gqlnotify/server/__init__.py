"""Protocol classes for uvicorn, and the server process that uses them."""

from gqlnotify.extras import needs

with needs("server", "gqlnotify.server"):
    from gqlnotify.server import http, websocket
    from gqlnotify.server.uvicorn_adapter import usable_http, usable_websocket

HttpProtocol = usable_http(http.HttpProtocol)
WebSocketProtocol = usable_websocket(websocket.WebSocketProtocol)

__all__ = ["HttpProtocol", "WebSocketProtocol"]
