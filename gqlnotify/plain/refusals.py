"""What a client is told about an error, and how a refusal closes its socket."""

import logging

from gqlnotify.errors import ConnectionClosed, InternalError, NotifyError

# RFC 6455, section 7.4.1, and the IANA registry for 1013.
POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013
_LATER = (429, 503)
_SERVER_ERRORS = 500
_ADVICE = {
    "UNAUTHENTICATED": "Connect with a new token",
    "TOKEN_REVOKED": "Connect with a new token",
    "CURSOR_EXPIRED": "Fetch the state, then connect without after",
    "FORBIDDEN": "Get a token with this right",
}

logger = logging.getLogger("gqlnotify.transports")


def told(error: Exception) -> NotifyError:
    """Return the error that the client gets. What the server did wrong is logged."""
    if isinstance(error, NotifyError) and not isinstance(error, InternalError):
        return error
    logger.error("A plain WebSocket failed", exc_info=error)
    return error if isinstance(error, NotifyError) else InternalError("A plain WebSocket failed")


def closed_by(error: NotifyError) -> ConnectionClosed:
    """Return how the socket closes because of `error`."""
    return ConnectionClosed(_reason(error.code, error.message), code=_code(error), label=error.code)


def refusal(code: str, reason: str) -> ConnectionClosed:
    """Return how the socket closes because the client did something wrong."""
    return ConnectionClosed(f"{code}: {reason}", code=POLICY_VIOLATION, label=code)


def token_ended(closed: ConnectionClosed) -> ConnectionClosed:
    """Return how the socket closes when its token has expired or was revoked."""
    return refusal(closed.label, f"{closed.reason}. Connect with a new token, and after")


def _code(error: NotifyError) -> int:
    if error.http_status in _LATER:
        return TRY_AGAIN_LATER
    return INTERNAL_ERROR if error.http_status >= _SERVER_ERRORS else POLICY_VIOLATION


def _reason(code: str, message: str) -> str:
    # The advice first, because a long reason is cut.
    advice = _ADVICE.get(code)
    return f"{code}: {message}" if advice is None else f"{code}: {advice}. {message}"
