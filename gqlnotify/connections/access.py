"""Who may connect: the state and the decisions that all kinds of sockets and streams share."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, Self

from gqlnotify.auth import Authenticate, May, Principal, Viewer, verifier_from
from gqlnotify.auth.attempts import FailedAttempts
from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.connections.limits import ConnectionLimits
from gqlnotify.connections.origin import Refusals
from gqlnotify.connections.report import answer_for
from gqlnotify.connections.verified_tokens import VerifiedTokens
from gqlnotify.errors import Unauthenticated
from gqlnotify.observability import trace
from gqlnotify.settings import Settings
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.revocation import Revocations


@dataclass(frozen=True, slots=True)
class Access:
    """The settings, limits and hooks of a router, and the decisions that need them."""

    topics: TopicManager | None
    settings: Settings
    connection_limits: ConnectionLimits
    attempts: FailedAttempts
    foreign_origins: Refusals
    # None if the router requires no tokens.
    authenticate: Authenticate | None
    # None with an `authenticate` hook, which may decide by more than the token.
    verified: VerifiedTokens | None
    may: May
    revocations: Revocations | None

    @classmethod
    def of(
        cls,
        topics: TopicManager | None,
        settings: Settings,
        authenticate: Authenticate | None,
        may: May,
        **more: Any,
    ) -> Self:
        """Return the access that these settings and hooks describe.

        Args:
            topics: the topics, which tell what is revoked.
            settings: the limits, and the key for tokens.
            authenticate: the application's hook, if it has one.
            may: the hook that decides rights.
            more: the fields that a subclass adds.
        """
        check = authenticate or verifier_from(settings)
        if check is not None and topics is not None:
            topics.guard()
        if topics is not None:
            answer_for(topics)
        return cls(
            topics=topics,
            settings=settings,
            connection_limits=ConnectionLimits(
                max_connections=settings.max_connections,
                max_per_subject=settings.max_connections_per_subject,
            ),
            attempts=FailedAttempts(settings.max_failed_authentications),
            foreign_origins=Refusals(),
            authenticate=check,
            verified=VerifiedTokens.of(settings) if authenticate is None else None,
            may=may,
            revocations=Revocations(topics, settings) if check is not None and topics else None,
            **more,
        )

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
        try:
            return await self._admitted(self.authenticate, token, connection)
        except Unauthenticated as error:
            # A token that is forged says nothing about the subject in it.
            if error.subject is not None:
                trace.note_token(error, error.subject)
            raise

    async def _admitted(self, authenticate: Authenticate, token: Any, connection: Any) -> Viewer:
        # A verified token is not a guess, so it is accepted even if its address has to wait.
        principal = None if self.verified is None else self.verified.find(token)
        if principal is None:
            principal = await self._verify(authenticate, token, connection)
        if self.revocations is not None:
            # Some servers run no lifespan, and Starlette runs none of a mounted application.
            await self.revocations.ready()
            try:
                self.revocations.check(principal)
            except Unauthenticated as error:
                error.subject = principal.subject
                raise
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


def _nothing() -> None:
    pass
