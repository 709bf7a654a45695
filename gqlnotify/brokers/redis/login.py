"""How often a refused login is tried again."""

import time

from redis.exceptions import AuthenticationError

from gqlnotify.backoff import Backoff

_RETRY_SECONDS = (0.05, 2.0)


class Login:
    """Fails commands at once while the server refuses our password.

    Each try costs the server a connection, and there may be thousands of commands. So one command
    at a time tries, after waits that double up to 2 seconds; the first that succeeds ends this.
    """

    def __init__(self) -> None:
        self._backoff = Backoff(*_RETRY_SECONDS)
        self._refusal: AuthenticationError | None = None
        self._next_try = 0.0

    def check(self) -> None:
        """Return if a command may be sent now.

        Raises:
            AuthenticationError: the server refused the password, and the next try is not due.
        """
        if self._refusal is None:
            return
        if time.monotonic() < self._next_try:
            raise AuthenticationError(str(self._refusal))
        self._wait()

    def refused(self, error: AuthenticationError) -> None:
        """Take note that the server refused the password."""
        if self._refusal is None:
            self._wait()
        self._refusal = error

    def accepted(self) -> None:
        """Take note that a command was answered."""
        if self._refusal is not None:
            self._refusal = None
            self._backoff.reset()

    def _wait(self) -> None:
        self._next_try = time.monotonic() + self._backoff.next()
