"""`uvicorn --http gqlnotify.http_server:HttpProtocol`."""

from gqlnotify.server.http import HttpProtocol

__all__ = ["HttpProtocol"]
