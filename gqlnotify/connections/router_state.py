"""What the router holds beyond Strawberry's, in one object.

A subclass of the router may use any name for attributes and methods of its own, so the router keeps
all this under the one name `_gqlnotify`.
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
    # Only for our own check: what a hook decides may depend on more than the token.
    verified: VerifiedTokens | None
    may: May
    revocations: Revocations | None
    # False where a subclass overrides `run`: it may wait for its end.
    detachable: bool
    _executions: Cache[Same, Executions] = field(default_factory=lambda: Cache(MAX_SCHEMAS))

    def executions(self, schema: Schema) -> Executions:
        """Return what executes `schema`; the router may be given another at any time."""
        known = self._executions.get(Same(schema))
        if known is None:
            known = self.make_executions(schema)
            self._executions.put(Same(schema), known, 1)
        return known

    async def admit(self, token: Any, connection: Any) -> Viewer | None:
        """Return the viewer that `token` makes; None where no token is asked for.

        Raises:
            Unauthenticated: the token is missing or not valid.
            TokenRevoked: the token was revoked.
            KeysUnavailable: the keys to check it can't be fetched.
            RevocationsUnavailable: it is not known whether it was revoked.
            TooManyAttempts: too many bad ones came from this address.
        """
        if self.authenticate is None:
            return None
        # A token that was verified before is no guess, even from an address that must wait.
        principal = None if self.verified is None else self.verified.find(token)
        if principal is None:
            principal = await self._verify(self.authenticate, token, connection)
        if self.revocations is not None:
            # Not every server runs the lifespan, and none that of a mounted application.
            await self.revocations.ready()
            self.revocations.check(principal)
        return Viewer(principal, self.may)

    def watch(self, viewer: Viewer | None, on_revoked: Callable[[], None]) -> Callable[[], None]:
        """Have `on_revoked` called once if the viewer's token is revoked.

        Returns what ends that; it has to be called.

        Raises:
            TokenRevoked: it was revoked already.
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
    """Return whose documents wait for each other: those of a subject, or else of a connection.

    `client` is the peer's address and port.
    """
    return client if viewer is None else viewer.principal.subject


def _nothing() -> None:
    pass
