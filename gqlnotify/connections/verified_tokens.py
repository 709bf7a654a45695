"""A cache of verified tokens: their next use needs no check of the signature."""

import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from math import inf
from typing import Any

from gqlnotify import clock
from gqlnotify.auth import Principal
from gqlnotify.execution.cache import Cache
from gqlnotify.settings import Settings

MAX_BYTES = 16 * 1024 * 1024
# The digest, the principal without its claims, and the two dictionaries' entries.
_ENTRY_BYTES = 600


class VerifiedTokens:
    """The principals of verified tokens, by the SHA-256 of the token. It keeps no token.

    An entry is valid until the token's `exp`. The least recently used are evicted first.

    Args:
        seconds: how long an entry is valid at most. If keys change, this limits how long a token
            is accepted after its key has gone.
        max_bytes: the memory that the cache may take.
        now: the clock, in seconds since 1970.
    """

    def __init__(
        self,
        *,
        seconds: float = inf,
        max_bytes: int = MAX_BYTES,
        now: Callable[[], float] = clock.now,
    ) -> None:
        self._seconds = seconds
        self._now = now
        self._verified: Cache[bytes, tuple[Principal, float]] = Cache(max_bytes)

    @classmethod
    def of(cls, settings: Settings) -> "VerifiedTokens":
        """Return an empty cache whose entries are valid as long as cached keys are."""
        return cls(seconds=inf if settings.jwks_url is None else settings.jwks_cache)

    def find(self, token: Any) -> Principal | None:
        """Return the principal of `token`; None if the token has to be verified."""
        if not isinstance(token, str):
            return None
        principal, until = self._verified.get(_digest(token)) or (None, 0.0)
        return principal if self._now() < until else None

    def add(self, token: str, principal: Principal) -> None:
        """Add a token that has just been verified."""
        end = inf if principal.expires_at is None else principal.expires_at.timestamp()
        until = min(end, self._now() + self._seconds)
        self._verified.put(_digest(token), (principal, until), _weight(principal))


def _digest(token: str) -> bytes:
    # JSON can spell a lone surrogate, which plain UTF-8 can't.
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def _weight(principal: Principal) -> int:
    """Return how many bytes a principal takes, including its claims."""
    weight, waiting = _ENTRY_BYTES, [principal.claims]
    while waiting:
        value: Any = waiting.pop()
        weight += sys.getsizeof(value)
        if isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
    return weight
