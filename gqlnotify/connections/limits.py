"""Limits how many sockets and HTTP streams may be open, in total and for each subject."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from gqlnotify.errors import TooManyConnections, TooManyConnectionsOfSubject


class ConnectionLimits:
    """Counts the sockets and HTTP streams of one router in this process."""

    def __init__(self, *, max_connections: int, max_per_subject: int) -> None:
        self.connections = 0
        self._max_connections = max_connections
        self._max_per_subject = max_per_subject
        self._of_subject: Counter[str] = Counter()

    def enter(self) -> None:
        """Count one more connection. Call `leave` when it has ended.

        Raises:
            TooManyConnections: the router has reached its limit.
        """
        if self.connections >= self._max_connections:
            raise TooManyConnections("Too many connections; try again later")
        self.connections += 1

    def leave(self) -> None:
        """Undo `enter`."""
        self.connections -= 1

    def enter_as(self, subject: str) -> None:
        """Count a connection for `subject` too. Call `leave_as` when it has ended.

        Raises:
            TooManyConnectionsOfSubject: the subject has reached its limit.
        """
        if self._of_subject[subject] >= self._max_per_subject:
            raise TooManyConnectionsOfSubject("Too many connections of this subject")
        self._of_subject[subject] += 1

    def leave_as(self, subject: str) -> None:
        """Undo `enter_as`."""
        self._of_subject[subject] -= 1
        if not self._of_subject[subject]:
            del self._of_subject[subject]

    def enter_stream(self, subject: str | None) -> Callable[[], None]:
        """Count one HTTP stream of `subject`, and return the function to call when it has ended.

        Raises:
            TooManyConnections: the router has reached its limit.
            TooManyConnectionsOfSubject: the subject has reached its limit.
        """
        with ExitStack() as undo:
            self.enter()
            undo.callback(self.leave)
            if subject is not None:
                self.enter_as(subject)
                undo.callback(self.leave_as, subject)
            return undo.pop_all().close
