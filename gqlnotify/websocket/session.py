"""The viewer of a socket, and the renewal, expiry and revocation of its token."""

import asyncio
from collections.abc import Callable

from gqlnotify import clock
from gqlnotify.auth import Viewer, find_token, renewed, view_as
from gqlnotify.connections.access import Access
from gqlnotify.connections.session_cookie import find_session
from gqlnotify.errors import ConnectionClosed, NotifyError, TokenExpired, TokenRevoked
from gqlnotify.observability import trace
from gqlnotify.protocol.messages import Json
from gqlnotify.timers import Timer, Timers
from gqlnotify.topics.local_member import LocalMember
from gqlnotify.websocket.connection import Connection


class Session:
    """A connection's viewer and token. Calls `on_end` when the token expires or is revoked."""

    __slots__ = (
        *("_access", "_connection", "_expiry", "_on_end", "_present_as", "_unwatch"),
        *("subject", "viewer"),
    )

    def __init__(
        self,
        access: Access,
        connection: Connection,
        on_end: Callable[[ConnectionClosed], None],
    ) -> None:
        self.viewer: Viewer | None = None
        self.subject: str | None = None
        """The subject that this connection is counted for; None if it is not counted."""
        self._access = access
        self._connection = connection
        self._on_end = on_end
        self._present_as: LocalMember | None = None
        self._expiry: Timer | None = None
        self._unwatch: Callable[[], None] | None = None

    async def begin(self, payload: Json) -> None:
        """Admit the token from `connection_init` or from the handshake's headers.

        After that, the calling task runs as the viewer.

        Raises:
            NotifyError: See `Access.admit`.
            TokenRevoked: The token has just been revoked.
            ConnectionClosed: The subject has too many connections.
        """
        websocket = self._connection.websocket
        token = find_token(payload)
        if token is None:
            token = find_token({"authorization": websocket.headers.get("authorization")})
        self.viewer = await self._access.admit(token, websocket)
        view_as(self.viewer)
        self._count()
        self._end_with_the_token()

    def present_as(self) -> LocalMember:
        """Return who is present at the topics that this connection subscribes to."""
        if self._present_as is None:
            anonymous = self.viewer is None
            session = find_session(self._connection.websocket) if anonymous else None
            self._present_as = LocalMember.of(self.viewer, session)
        return self._present_as

    async def renew(self, payload: Json) -> Json:
        """Switch to the token in the payload of a `ping`, and return the payload of the `pong`.

        Raises:
            NotifyError: The token is refused; the earlier token stays in use.
        """
        fresh = await self._access.admit(find_token(payload), self._connection.websocket)
        if fresh is None or self.viewer is None:
            # The router requires no token, so this is an ordinary ping.
            return payload
        self.viewer = renewed(self.viewer, fresh)
        self._end_with_the_token()
        expires_at = fresh.principal.expires_at
        return {"renewed": True, "expiresAt": expires_at and expires_at.isoformat()}

    def end(self) -> None:
        """Stop watching the token, and stop counting the connection."""
        self._stop_timer()
        self._stop_watching()
        if self.subject is not None:
            self._access.connection_limits.leave_as(self.subject)

    def forget_callbacks(self) -> None:
        """Drop what it calls. The connection has ended, so the end of the token does not matter."""
        del self._on_end

    def _count(self) -> None:
        # If the peer has already left, the connection would be counted forever.
        if self.viewer is not None and not self._connection.is_over:
            subject = self.viewer.principal.subject
            self._connection.belongs_to(subject)
            try:
                self._access.connection_limits.enter_as(subject)
            except ConnectionClosed as full:
                self._note(trace.Kind.REFUSED, full.label)
                raise
            self.subject = subject

    def _note(self, kind: trace.Kind, code: str | None = None) -> None:
        trace.note(
            kind, subject=self._connection.subject, connection=self._connection.id, code=code
        )

    def _end_with_the_token(self) -> None:
        self._stop_timer()
        expires_at = None if self.viewer is None else self.viewer.principal.expires_at
        if expires_at is not None:
            remaining = (expires_at - clock.utc_now()).total_seconds()
            timers = Timers.of(asyncio.get_running_loop())
            self._expiry = timers.after(max(remaining, 0), self._expired)
        self._stop_watching()
        self._unwatch = self._access.watch(self.viewer, self._revoked)

    def _expired(self) -> None:
        self._note(trace.Kind.EXPIRED)
        self._on_end(closed_by(TokenExpired("The token has expired"), TokenExpired.close_code))

    def _revoked(self) -> None:
        self._note(trace.Kind.REVOKED)
        self._on_end(closed_by(TokenRevoked("The token was revoked"), TokenExpired.close_code))

    def _stop_timer(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()

    def _stop_watching(self) -> None:
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()


def closed_by(error: NotifyError, code: int) -> ConnectionClosed:
    """Return the `ConnectionClosed` with `code` for `error`."""
    return ConnectionClosed(error.message, code=code, label=error.code)
