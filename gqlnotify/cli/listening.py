"""What commands that listen share: sockets, and tokens of their own run."""

import secrets
import socket
import time
import uuid
from collections.abc import Mapping

from gqlnotify.auth import ACTIONS, sign
from gqlnotify.cli.common import fail
from gqlnotify.server import process
from gqlnotify.settings import Settings

OWN_TOKEN_SECONDS = 24 * 3600


def bind(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen, or fail."""
    try:
        return process.bind(host, port)
    except OSError as error:
        fail(
            f"Can't listen on port {port} of {host}: {error.strerror or error}. "
            "Choose another one with --port or --host"
        )


def address_of(host: str, sockets: list[socket.socket]) -> str:
    """Return the URL of what listens on `sockets`."""
    port = sockets[0].getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def new_secret() -> str:
    """Return a random secret for tokens."""
    return secrets.token_urlsafe(64)


def token_of(
    settings: Settings, subject: str, rights: Mapping[str, list[str]], seconds: int
) -> str:
    """Return a signed token.

    Raises:
        ValueError: the settings have no secret, or do not allow this lifetime.
    """
    if seconds > settings.longest_life:
        raise ValueError(
            f"No server would accept a token that lives {seconds} s: GQLNOTIFY_JWT_MAX_LIFETIME "
            f"allows {settings.longest_life:.0f} s. Pass a smaller --expires-in"
        )
    now = int(time.time())
    claims = {
        "sub": subject,
        "iat": now,
        "jti": uuid.uuid4().hex,
        "exp": now + seconds,
        "topics": {"subscribe": [], "publish": [], **rights},
    }
    return sign(claims, settings)


def own_token(settings: Settings, subject: str) -> str:
    """Return a token with every right, for the secret of this run."""
    rights: dict[str, list[str]] = {action: ["*"] for action in ACTIONS}
    return token_of(settings, subject, rights, int(min(OWN_TOKEN_SECONDS, settings.longest_life)))
