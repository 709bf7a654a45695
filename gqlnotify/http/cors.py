"""Which pages may send requests over HTTP: those that may open a socket."""

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware

from gqlnotify.connections.origin import Origin
from gqlnotify.settings import Settings


def add_cors(app: Starlette, settings: Settings) -> None:
    """Let the pages of `settings.allowed_origins` send requests to `app`, streams included.

    Routers check the origin of a socket by the same setting. A page of a listed origin may send
    cookies. With `*` every page may send requests, but none may send cookies.

    Raises:
        ValueError: an allowed origin is not an origin.
    """
    allowed = settings.allowed_origins
    if not allowed:
        return
    anyone = "*" in allowed
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"] if anyone else [Origin.parse(each).as_header for each in allowed],
        allow_credentials=not anyone,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After"],
    )
