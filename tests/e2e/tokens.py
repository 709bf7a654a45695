"""Tokens, made without the code under test."""

from collections.abc import Sequence
from time import time
from typing import Any

from jose import jwt

from tests.e2e.conftest import SECRET


def token(
    subject: str = "alice",
    *,
    subscribe: Sequence[str] = ("*",),
    publish: Sequence[str] = ("*",),
    expires_in: float = 600,
    secret: str = SECRET,
    **claims: Any,
) -> str:
    rights = {"subscribe": list(subscribe), "publish": list(publish)}
    content = {"sub": subject, "exp": int(time() + expires_in), "topics": rights, **claims}
    return str(jwt.encode(content, secret, algorithm="HS256"))
