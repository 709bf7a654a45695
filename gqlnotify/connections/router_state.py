"""The state that our router has in addition to Strawberry's, in one object.

The router keeps it in one attribute, `_gqlnotify`. So a subclass may use any other name.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any

from strawberry import Schema

from gqlnotify.auth import Authenticate, May, Principal, Viewer
from gqlnotify.auth.attempts import FailedAttempts
from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.connections.limits import ConnectionLimits
from gqlnotify.connections.origin import Refusals
from gqlnotify.connections.subprotocol import SubprotocolRefusals
from gqlnotify.connections.verified_tokens import VerifiedTokens
from gqlnotify.errors import Unauthenticated
from gqlnotify.execution import Cache, Executions
from gqlnotify.execution.fingerprint import Same
from gqlnotify.settings import Settings
from gqlnotify.topics.revocation import Revocations

MAX_SCHEMAS = 4


@dataclass(frozen=True, slots=True)
class RouterState:
    """The state of one router, and the decisions that need it."""

    settings: Settings
    connection_limits: ConnectionLimits
    attempts: FailedAttempts
    foreign_origins: Refusals
    subprotocols: SubprotocolRefusals
    make_executions: Callable[[Schema], Executions]
    authenticate: Authenticate | None
    # None with an `authenticate` hook, which may decide by more than the token.
    verified: VerifiedTokens | None
    may: May
    revocations: Revocations | None
    # False if a subclass overrides `run`: it may wait for the end of the call.
    detachable: bool
    _executions: Cache[Same, Executions] = field(default_factory=lambda: Cache(MAX_SCHEMAS))

    def executions(self, schema: Schema) -> Executions:
        """Return the executions of `schema`, which an application may replace at any time."""
        known = self._executions.get(Same(schema))
        if known is None:
            known = self.make_executions(schema)
            self._executions.put(Same(schema), known, 1)
        return known

    async def admit(self, token: Any, connection: Any) -> Viewer | None:
        """Return the viewer of `token`; None if the router requires no token.

        Raises:
            Unauthenticated: the token is missing or not valid.
            TokenRevoked: the token was revoked.
            KeysUnavailable: the keys to check it can't be fetched.
            RevocationsUnavailable: it is not known whether the token was revoked.
            TooManyAttempts: too many bad tokens came from this address.
        """
        if self.authenticate is None:
            return None
        # A verified token is not a guess, so it is accepted even if its address has to wait.
        principal = None if self.verified is None else self.verified.find(token)
        if principal is None:
            principal = await self._verify(self.authenticate, token, connection)
        if self.revocations is not None:
            # Some servers run no lifespan, and Starlette runs none of a mounted application.
            await self.revocations.ready()
            self.revocations.check(principal)
        return Viewer(principal, self.may)

    def watch(self, viewer: Viewer | None, on_revoked: Callable[[], None]) -> Callable[[], None]:
        """Call `on_revoked` once if the viewer's token is revoked.

        Returns the function that stops this. The caller has to call it in the end.

        Raises:
            TokenRevoked: the token is already revoked.
        """
        if viewer is None or self.revocations is None:
            return _nothing
        return self.revocations.watch(viewer.principal, on_revoked)

    async def _verify(self, authenticate: Authenticate, token: Any, connection: Any) -> Principal:
        # A missing token is not a failed attempt.
        address = connection.client.host if token is not None and connection.client else None
        self.attempts.check(address)
        try:
            with only_own_cancellation():
                decided = authenticate(token, connection)
                principal = await decided if isawaitable(decided) else decided
        except Unauthenticated as error:
            if error.is_guess:
                self.attempts.failed(address)
            raise
        if self.verified is not None:
            self.verified.add(token, principal)
        return principal


def asker_of(viewer: Viewer | None, client: Hashable) -> Hashable:
    """Return the key by which unknown documents take turns: the subject or, without one, `client`.

    `client` is the peer's address and port.
    """
    return client if viewer is None else viewer.principal.subject


def _nothing() -> None:
    pass
