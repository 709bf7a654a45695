"""A JSON Web Key Set (RFC 7517): public keys, fetched from a URL, cached, and chosen by `kid`."""

import asyncio
import json
import logging
from typing import Any

import httpx
from jose.backends.base import Key
from typing_extensions import override

from gqlnotify import clock
from gqlnotify.auth.keys import key_from_jwk
from gqlnotify.errors import KeysUnavailable, Unauthenticated
from gqlnotify.settings import is_loopback

MAX_BYTES = 256 * 1024
MAX_KEYS = 100
AGAIN_SECONDS = 5.0

logger = logging.getLogger("gqlnotify.auth")


class KeySet:
    """The keys at `url` that fit `algorithm`.

    The keys are fetched on first use, when they are older than `cache` seconds, and when a token
    names an unknown key. Fetches for unknown keys, and fetches after a failure, are at least
    `again` seconds apart, so a flood of tokens does not become a flood of requests. Concurrent
    callers share one fetch, which takes at most `timeout` seconds. While fetches fail, the last
    good keys stay in use.

    Raises:
        ValueError: The URL is neither https nor on this machine, or the algorithm needs a secret.
    """

    def __init__(
        self,
        url: str,
        *,
        algorithm: str,
        cache: float = 300,
        timeout: float = 5,
        again: float = AGAIN_SECONDS,
    ) -> None:
        self._url = _checked(url)
        if algorithm.startswith("HS"):
            raise ValueError(f"{algorithm} needs a secret, and a key set holds public keys")
        self._algorithm = algorithm
        self._cache = cache
        self._timeout = timeout
        self._again = min(again, cache)
        self._trust = httpx.create_ssl_context() if self._url.scheme == "https" else False
        self._keys: list[tuple[Any, Key]] | None = None
        self._fetched_at = 0.0
        self._tried_at = float("-inf")
        self._failing = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> Key:
        """Return the key with this `kid`. None stands for the only key, if there is only one.

        Raises:
            Unauthenticated: The set has no such key.
            KeysUnavailable: The keys can't be fetched, so the token can't be checked.
        """
        if self._is_stale():
            # After a failed fetch, only callers without a usable key wait for the next one.
            await self._fetch(wait=self._keys is None or not self._failing)
        key = self._choose(kid)
        if key is None:
            await self._fetch(wait=True)
            key = self._choose(kid)
        if key is not None:
            return key
        if self._failing:
            raise KeysUnavailable("The token can't be checked: the key set can't be fetched")
        raise Unauthenticated("The token is not valid")

    @override
    def __repr__(self) -> str:
        return f"KeySet(host={self._url.host!r}, algorithm={self._algorithm!r})"

    def _choose(self, kid: str | None) -> Key | None:
        fitting = [key for name, key in self._keys or () if kid is None or name == kid]
        return fitting[0] if len(fitting) == 1 else None

    def _is_stale(self) -> bool:
        return self._keys is None or clock.monotonic() - self._fetched_at > self._cache

    async def _fetch(self, *, wait: bool) -> None:
        if not self._is_fetching():
            if clock.monotonic() - self._tried_at < self._again:
                return
            self._fetching = asyncio.create_task(self._refresh())
        if wait and self._fetching is not None:
            # Other callers may wait for this fetch. Without the shield, the cancellation of one
            # caller would cancel it for all.
            await asyncio.shield(self._fetching)

    def _is_fetching(self) -> bool:
        task = self._fetching
        # A fetch that another event loop started never ends in this one.
        return (
            task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop()
        )

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                keys = self._parse(await self._read())
        except Exception as error:
            self._failing = True
            reason = str(error) or type(error).__name__
            logger.warning("Could not fetch keys from %s: %s", self._url.host, reason)
        else:
            self._keys, self._fetched_at, self._failing = keys, clock.monotonic(), False
        finally:
            self._tried_at = clock.monotonic()

    async def _read(self) -> bytes:
        # No compression: a small response must not expand to a huge one. No redirects: only the
        # configured address is trusted.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        async with (
            httpx.AsyncClient(
                verify=self._trust, trust_env=bool(self._trust), timeout=self._timeout
            ) as client,
            client.stream("GET", self._url, headers=headers) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"status {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
        return bytes(body)

    def _parse(self, body: bytes) -> list[tuple[Any, Key]]:
        described = json.loads(body)
        listed = described.get("keys") if isinstance(described, dict) else None
        if not isinstance(listed, list):
            raise ValueError("the response is not a key set")  # noqa: TRY004 - one kind of failure
        fitting = []
        for each in listed[:MAX_KEYS]:
            try:
                fitting.append((each.get("kid"), key_from_jwk(each, self._algorithm)))
            except (ValueError, AttributeError):
                # "Implementations SHOULD ignore JWKs within a JWK Set that use [...] values that
                # are out of the supported ranges" (RFC 7517, section 5).
                continue
        if not fitting:
            raise ValueError(f"none of the {len(listed)} keys is for {self._algorithm}")
        return fitting


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise ValueError("The address of the key set is not a URL") from None
    if parsed.userinfo:
        raise ValueError("The address of the key set must not contain a user or password")
    if parsed.scheme != "https" and not (parsed.scheme == "http" and is_loopback(parsed.host)):
        raise ValueError("The address of the key set must use https, or http on this machine")
    if not parsed.host:
        raise ValueError("The address of the key set has no host")
    return parsed
