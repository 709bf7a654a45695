"""Which pages may open a socket. CORS does not apply to WebSockets: a browser opens one for any.

"Servers that are not intended to process input from any web page but only for certain sites SHOULD
verify the |Origin| field is an origin they expect" (RFC 6455, section 10.2).
"""

import logging
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from gqlnotify.observability.metrics import refused

logger = logging.getLogger("gqlnotify.transports")

REASON = "ORIGIN"
_PORTS = {"http": 80, "https": 443}


def foreign_origin(headers: Headers) -> str | None:
    """Return the origin that a handshake comes from; None if it is the server's own, or no page.

    Whatever is not a browser has no `Origin`. Host and port are compared, not the scheme, which a
    proxy in front may have taken off. No script can set `Sec-Fetch-Site`; it helps behind a proxy
    that passes on another `Host`.
    """
    origins = headers.getlist("origin")
    if not origins:
        return None
    if len(origins) > 1:
        return ", ".join(origins)
    own = _is_of(headers.get("host", ""), origins[0])
    return None if own or headers.get("sec-fetch-site") == "same-origin" else origins[0]


class Origin(NamedTuple):
    """An origin in one spelling (RFC 6454): names in lower case, and a port in any case."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Read an origin.

        Raises:
            ValueError: it is none.
        """
        parts = urlsplit(text.strip())
        beyond = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if not parts.scheme or not parts.hostname or beyond:
            raise ValueError(
                f"{text!r} in allowed_origins is no origin: write scheme, host and port alone, "
                "as in https://example.com"
            )
        return cls(parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme))


def _is_of(host: str, text: str) -> bool:
    """Return whether an origin is that of the host named in the request."""
    try:
        origin = Origin.parse(text)
        return origin == Origin.parse(f"{origin.scheme}://{host.strip()}")
    except ValueError:
        return False


class Refusals:
    """Tells the operator, the first time, what to do about a page that was refused."""

    def __init__(self) -> None:
        self._told = False

    def add(self, origin: str) -> None:
        """Count one."""
        refused(REASON)
        if not self._told:
            self._told = True
            logger.warning(
                "A page of %.200r may not open a socket. If it should, name its origin in "
                "GQLNOTIFY_ALLOWED_ORIGINS. Others that are refused are counted, not logged",
                origin,
            )
