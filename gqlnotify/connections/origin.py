"""Which pages may open a socket. CORS does not apply to WebSockets: any page may open one.

"Servers that are not intended to process input from any web page but only for certain sites SHOULD
verify the |Origin| field is an origin they expect" (RFC 6455, section 10.2).
"""

import logging
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from gqlnotify.observability.metrics import refused

logger = logging.getLogger("gqlnotify.transports")

REASON = "ORIGIN"
_PORTS = {"http": 80, "https": 443}


def foreign_origin(headers: Headers) -> str | None:
    """Return the origin of the page that opens a socket; None if it is the server's own.

    It is also None without the header `Origin`, which only browsers send. This compares host and
    port, but not the scheme: a proxy may have ended TLS. Behind a proxy that sends another `Host`,
    `Sec-Fetch-Site` decides, which no script can set.
    """
    origins = headers.getlist("origin")
    if not origins:
        return None
    if len(origins) > 1:
        return ", ".join(origins)
    own = _is_of(headers.get("host", ""), origins[0])
    return None if own or headers.get("sec-fetch-site") == "same-origin" else origins[0]


class Origin(NamedTuple):
    """An origin in its normal form (RFC 6454): in lower case, and always with a port."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Origin":
        """Parse an origin.

        Raises:
            ValueError: `text` is not an origin.
        """
        parts = urlsplit(text.strip())
        beyond = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if not parts.scheme or not parts.hostname or beyond:
            raise ValueError(
                f"{text!r} in allowed_origins is not an origin: write only scheme, host and port, "
                "as in https://example.com"
            )
        return cls(parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme))

    @property
    def as_header(self) -> str:
        """The origin as browsers send it: without the port that its scheme has by default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port in {None, _PORTS.get(self.scheme)}
        return f"{self.scheme}://{host}" + ("" if usual else f":{self.port}")


class AllowedOrigins:
    """The origins whose pages may open a socket. `*` allows all.

    Raises:
        ValueError: one of them is not an origin.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(each if each == "*" else Origin.parse(each) for each in origins)

    def __contains__(self, origin: str) -> bool:
        try:
            return "*" in self._origins or Origin.parse(origin) in self._origins
        except ValueError:
            return False


def _is_of(host: str, text: str) -> bool:
    """Return whether an origin has the request's `Host`."""
    try:
        origin = Origin.parse(text)
        return origin == Origin.parse(f"{origin.scheme}://{host.strip()}")
    except ValueError:
        return False


class Refusals:
    """Counts refused pages, and logs the first one with what to do about it."""

    def __init__(self) -> None:
        self._told = False

    def add(self, origin: str) -> None:
        """Count a page of `origin`."""
        refused(REASON)
        if not self._told:
            self._told = True
            logger.warning(
                "A page of %.200r may not open a socket. If it should, name its origin in "
                "GQLNOTIFY_ALLOWED_ORIGINS. Others that are refused are counted, not logged",
                origin,
            )
