"""What a test gets when something goes wrong."""

from collections.abc import Mapping, Sequence
from typing import Any


class OperationFailed(Exception):
    """The server answered with GraphQL errors.

    Attributes:
        errors: the errors, as the client got them.
        data: what came with them, if anything did.
    """

    def __init__(self, errors: Sequence[Mapping[str, Any]], data: Any = None) -> None:
        self.errors = errors
        self.data = data
        super().__init__("; ".join(_told(error) for error in errors) or "no error was named")

    @property
    def code(self) -> str | None:
        """The `extensions.code` of the first error."""
        return _code(self.errors[0]) if self.errors else None


class Disconnected(Exception):
    """The server closed the connection, or refused it.

    Attributes:
        code: the close code of the WebSocket.
        reason: the reason that came with it.
    """

    def __init__(self, code: int, reason: str = "", hint: str = "") -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{code} {reason}".strip() + (f". {hint}" if hint else ""))


class NothingArrived(AssertionError):
    """What the test waited for did not come in time."""


class LeftOver(AssertionError):
    """Something of the application or of the test still ran when the last client had left."""


def _code(error: Mapping[str, Any]) -> str | None:
    code = (error.get("extensions") or {}).get("code")
    return code if isinstance(code, str) else None


def _told(error: Mapping[str, Any]) -> str:
    code, path = _code(error), error.get("path")
    place = f" (at {'.'.join(map(str, path))})" if path else ""
    return f"{f'{code}: ' if code else ''}{error.get('message')}{place}"
