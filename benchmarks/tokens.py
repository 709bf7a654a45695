"""The tokens that clients show: a subject for each, as in a service with that many users."""

import secrets
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from jose import jwt

from benchmarks.subjects import build_directory

SECRET = secrets.token_urlsafe(32)
_USERS = 6000
_SECONDS = 24 * 3600


@cache
def good() -> Path:
    """Return the file with tokens that are signed with the secret, one on a line."""
    return _write("tokens", (_token(f"user{number}", SECRET) for number in range(_USERS)))


@cache
def bad() -> Path:
    """Return the file with a token that somebody else has signed."""
    return _write("bad-tokens", [_token("stranger", secrets.token_urlsafe(32))])


def _token(subject: str, secret: str) -> str:
    rights = {"subscribe": ["*"], "publish": ["*"]}
    claims = {"sub": subject, "exp": int(time.time()) + _SECONDS, "topics": rights}
    return str(jwt.encode(claims, secret, algorithm="HS256"))


def _write(name: str, tokens: Iterable[str]) -> Path:
    file = build_directory() / name
    file.write_text("".join(f"{token}\n" for token in tokens))
    return file
