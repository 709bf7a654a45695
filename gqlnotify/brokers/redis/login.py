"""Limits how often a refused login is tried again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import AuthenticationError

from gqlnotify.backoff import Backoff

_RETRY_SECONDS = (0.05, 2.0)


class Login:
    """Lets commands fail at once while the server refuses our password.

    Each try costs the server a connection, and thousands of commands may wait. So only one command
    at a time tries, with waits that double up to 2 seconds, until one succeeds.
    """

    def __init__(self) -> None:
        self._backoff = Backoff(*_RETRY_SECONDS)
        self._refusal: AuthenticationError | None = None
        self._next_try = 0.0

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Return a context manager for a command, which notes whether the login was refused.

        Raises:
            AuthenticationError: The server refused the password, and the next try is not due.
        """
        self._check()
        try:
            yield
        except Exception as error:
            refusal = _refusal_in(error)
            if refusal is not None:
                self._refused(refusal)
            raise
        self._accepted()

    def _check(self) -> None:
        # A copy: another thread may reset the attribute in between.
        refusal = self._refusal
        if refusal is None:
            return
        if time.monotonic() < self._next_try:
            raise AuthenticationError(str(refusal))
        self._wait()

    def _refused(self, error: AuthenticationError) -> None:
        if self._refusal is None:
            self._wait()
        self._refusal = error

    def _accepted(self) -> None:
        if self._refusal is not None:
            self._refusal = None
            self._backoff.reset()

    def _wait(self) -> None:
        self._next_try = time.monotonic() + self._backoff.next()


def _refusal_in(error: BaseException | None) -> AuthenticationError | None:
    # The cluster client raises that no server can be reached, with this error as the cause.
    while error is not None:
        if isinstance(error, AuthenticationError):
            return error
        error = error.__cause__
    return None
