"""Tells anonymous browsers apart by a cookie, so that they can resume without a token.

The cookie is set with the answer to the handshake of a WebSocket, and browsers send it with each
reconnect. It gives no rights: all it does is to keep the operations of different clients apart.
"""

import re
from secrets import token_urlsafe

from starlette.websockets import WebSocket

NAME = "gqlnotify_session"
_BYTES = 16  # 128 random bits
_SESSION = re.compile(r"[A-Za-z0-9_-]{22}")
_KEPT_IN = "gqlnotify.session"


def find_session(websocket: WebSocket) -> str | None:
    """Return the name of an anonymous browser's session; None if it has none."""
    session = websocket.scope.get(_KEPT_IN) or _from_cookie(websocket)
    # The same subject in a token must not be the same client.
    return None if session is None else f"{NAME} {session}"


def begin_session(websocket: WebSocket) -> list[tuple[bytes, bytes]]:
    """Return the headers that give the browser a session, if it does not have one yet."""
    if _from_cookie(websocket) is not None:
        return []
    session = websocket.scope[_KEPT_IN] = token_urlsafe(_BYTES)
    secure = "; Secure" if websocket.url.scheme == "wss" else ""
    cookie = f"{NAME}={session}; HttpOnly; Path=/; SameSite=Lax{secure}"
    return [(b"set-cookie", cookie.encode())]


def _from_cookie(websocket: WebSocket) -> str | None:
    value = websocket.cookies.get(NAME, "")
    return value if _SESSION.fullmatch(value) else None
