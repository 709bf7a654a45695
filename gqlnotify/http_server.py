"""The documented import path of the HTTP class, for uvicorn's option `--http`.

`uvicorn --http gqlnotify.http_server:HttpProtocol`
"""

from gqlnotify.server import HttpProtocol

__all__ = ["HttpProtocol"]
