"""The token in a cookie, which a browser sends with every request, also for other sites' pages.

"Some user agents let remote parties issue HTTP requests from the user agent" (RFC 6265, section
8.2), so the page's origin is checked too, as it is for a WebSocket.
"""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import Request

from gqlnotify.connections.origin import foreign_origin
from gqlnotify.errors import Forbidden

# A request without `Origin` for an image or a script of another site's page.
_ELSEWHERE = {"cross-site", "same-site"}


def token_in_cookie(
    request: Request, name: str | None, is_allowed: Callable[[str], bool]
) -> str | None:
    """Return the token in the cookie `name`; None if there is none, or no name.

    Args:
        request: the request.
        name: the name of the cookie, by the setting `token_cookie`.
        is_allowed: returns whether a page of this foreign origin may use the token.

    Raises:
        Forbidden: a page that may not use the token made the request.
    """
    token = None if name is None else request.cookies.get(name)
    if not token:
        return None
    origin = _origin(request.headers)
    if origin is None or is_allowed(origin):
        return token
    raise Forbidden(
        f"A page of {origin[:200]!r} may not use the token in the cookie. If it should, name its "
        "origin in GQLNOTIFY_ALLOWED_ORIGINS, or send the token in the Authorization header"
    )


def _origin(headers: Headers) -> str | None:
    """Return the origin of a foreign page, or what is known of it; None if it is the server's."""
    elsewhere = headers.get("sec-fetch-site", "")
    if "origin" not in headers and elsewhere in _ELSEWHERE:
        return elsewhere
    return foreign_origin(headers)
