"""Which pages may open a socket. CORS does not apply to WebSockets: a browser opens one for any.

"Servers that are not intended to process input from any web page but only for certain sites SHOULD
verify the |Origin| field is an origin they expect" (RFC 6455, section 10.2).
"""

import logging

from starlette.datastructures import Headers

from gqlnotify.execution.strawberry_adapter import is_same_origin
from gqlnotify.observability.metrics import refused

logger = logging.getLogger("gqlnotify.transports")

REASON = "ORIGIN"


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
    own = is_same_origin(origins[0], headers.get("host"))
    return None if own or headers.get("sec-fetch-site") == "same-origin" else origins[0]


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
