"""The log lines of one connection."""

import logging
import time
from contextvars import Context, copy_context
from secrets import token_hex

from starlette.datastructures import Address

from gqlnotify.observability import logs, trace

# RFC 6455, section 7.1.5: "the connection is considered to have been closed with 1006".
_ABNORMAL = 1006

logger = logging.getLogger("gqlnotify.connections")


class ConnectionLog:
    """Logs when a connection begins and how it ends.

    Log lines of code that runs in `context` have the connection's id.
    """

    __slots__ = ("_began", "_client", "_code", "_reason", "context", "id", "subject")

    def __init__(self, client: Address | None) -> None:
        self.id = token_hex(4)
        self.subject: str | None = None
        """The subject of the viewer, once it is known."""
        self.context: Context = copy_context()
        self.context.run(logs.connection_id.set, self.id)
        self._client = client
        self._began = time.monotonic()
        self._code: int | None = None
        self._reason = ""

    def began(self) -> None:
        """Log that the connection is open."""
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("Connection from %s", self.address, extra={"connection_id": self.id})

    def closed(self, code: int, reason: str = "") -> None:
        """Keep the close code and reason for the log. Only the first call counts."""
        if self._code is None:
            self._code, self._reason = code, reason

    def ended(self) -> None:
        """Log that the connection is closed."""
        code = _ABNORMAL if self._code is None else self._code
        what = f"{code} {self._reason}".rstrip()
        if self.subject is not None:
            trace.note(trace.Kind.CLOSED, subject=self.subject, connection=self.id, text=what)
        if not logger.isEnabledFor(logging.INFO):
            return
        seconds = round(time.monotonic() - self._began, 3)
        logger.info(
            "Connection from %s ended after %.1f s: %r",
            *(self.address, seconds, what),
            extra={
                "connection_id": self.id,
                "client": self.address,
                "close_code": code,
                "close_reason": self._reason,
                "duration": seconds,
            },
        )

    @property
    def since(self) -> float:
        """When the connection began, in seconds since 1970."""
        return time.time() - (time.monotonic() - self._began)

    @property
    def address(self) -> str:
        """The peer's address and port."""
        client = self._client
        return "a local socket" if client is None else f"{client.host}:{client.port}"
