"""`uvicorn --http gqlnotify.http_server:HttpProtocol`."""

from gqlnotify.server import HttpProtocol

__all__ = ["HttpProtocol"]
