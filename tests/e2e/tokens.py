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
    # Longer than a run of all tests: some tokens are made when the tests are collected.
    expires_in: float = 3600,
    secret: str = SECRET,
    **claims: Any,
) -> str:
    rights = {"subscribe": list(subscribe), "publish": list(publish)}
    content = {"sub": subject, "exp": int(time() + expires_in), "topics": rights, **claims}
    return str(jwt.encode(content, secret, algorithm="HS256"))
