"""Ends a stream of results when its viewer's token expires or is revoked."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from gqlnotify import clock
from gqlnotify.auth import Viewer
from gqlnotify.errors import TokenExpired, TokenRevoked
from gqlnotify.execution.results import error_result
from gqlnotify.observability import trace

Watch = Callable[[Viewer | None, Callable[[], None]], Callable[[], None]]
"""Calls the function if the viewer's token is revoked, and returns a function that ends the watch.
It raises `TokenRevoked` if the token is already revoked."""


async def while_valid(
    results: AsyncGenerator[Any, None], viewer: Viewer | None, watch: Watch
) -> AsyncGenerator[Any, None]:
    """Yield `results` while the viewer's token is valid, then the error that it is not.

    For transports without a connection to close when the token ends.
    """
    validity = _Validity(viewer)
    async with aclosing(results):
        try:
            with validity.watched(watch):
                while True:
                    yield await validity.next(results)
        except StopAsyncIteration:
            return
        except (TokenExpired, TokenRevoked) as error:
            if viewer is not None:
                trace.note_token(error, viewer.principal.subject)
            yield error_result(error)


class _Validity:
    """Ends the wait for the next result when the token expires or is revoked."""

    def __init__(self, viewer: Viewer | None) -> None:
        self._viewer = viewer
        self._revoked = False
        self._waiting: asyncio.Timeout | None = None

    @contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        unwatch = watch(self._viewer, self._revoke)
        try:
            yield
        finally:
            unwatch()

    async def next(self, results: AsyncGenerator[Any, None]) -> Any:
        """Return the next result. Raises `TokenExpired` or `TokenRevoked` instead."""
        # One tick, so that a revocation is noticed even if the stream never waits.
        await asyncio.sleep(0)
        self._check()
        try:
            async with asyncio.timeout(self._remaining()) as waiting:
                self._waiting = waiting
                result = await anext(results)
        except TimeoutError:
            if not waiting.expired():
                raise
            raise _revoked() if self._revoked else _expired() from None
        finally:
            self._waiting = None
        # Checked again: the timeout fires only during a wait, and the result may have taken long.
        self._check()
        return result

    def _check(self) -> None:
        if self._revoked:
            raise _revoked()
        remaining = self._remaining()
        if remaining is not None and remaining <= 0:
            raise _expired()

    def _revoke(self) -> None:
        self._revoked = True
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())

    def _remaining(self) -> float | None:
        expires_at = None if self._viewer is None else self._viewer.principal.expires_at
        return None if expires_at is None else (expires_at - clock.utc_now()).total_seconds()


def _expired() -> TokenExpired:
    return TokenExpired("The token has expired")


def _revoked() -> TokenRevoked:
    return TokenRevoked("The token was revoked")
