"""Every error that a client can see. Each one carries its own wire answer.

A `NotifyError` answers one operation or one HTTP request: `extensions.code` is its stable name.
A `ConnectionClosed` answers a whole WebSocket connection: `code` and `reason` go into the close
frame.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

from typing_extensions import override

# RFC 6455, section 5.5: a control frame carries at most 125 bytes, two of which are the code.
MAX_REASON_BYTES = 123


class NotifyError(Exception):
    """Base of the errors that end one operation.

    graphql-core copies `extensions` into the GraphQL error of a resolver that raises this.
    """

    code: ClassVar[str] = "INTERNAL_SERVER_ERROR"
    http_status: ClassVar[int] = 400

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.extensions: dict[str, Any] = {"code": self.code, **details}

    @property
    def message(self) -> str:
        """The human-readable half of the answer."""
        return str(self)

    @property
    def reason(self) -> str:
        """What a log should say: the message, and more where clients must not know more."""
        return str(self)

    def formatted(self) -> dict[str, Any]:
        """The error as a GraphQL response spells it."""
        return {"message": self.message, "extensions": self.extensions}


class InternalError(NotifyError):
    """A mistake in the application's code. The log gets `str` of it, the client no detail."""

    http_status = 500

    @property
    @override
    def message(self) -> str:
        """The error message for the client."""
        return "Internal server error"


class UnknownViewer(InternalError):
    """A thread that does not know for whom it runs wanted to publish."""

    def __init__(self) -> None:
        super().__init__(
            "publish_sync was called in a thread that does not know for whom it runs, so no right "
            "can be checked. In a resolver, start the thread with asyncio.to_thread: it keeps the "
            "viewer, and loop.run_in_executor does not. In a thread of the application's own, pass "
            "trusted=True"
        )


class Unauthenticated(NotifyError):
    """There is no valid token. A socket closes with `close_code`."""

    code = "UNAUTHENTICATED"
    http_status = 401
    close_code: ClassVar[int] = 4401
    is_guess: ClassVar[bool] = True
    """Whether it counts towards the bad tokens of an address."""


class TokenExpired(Unauthenticated):
    """The token was good once. Clients retry 4403, so they come back with a fresh one."""

    close_code = 4403
    is_guess = False


class TokenNotYetValid(Unauthenticated):
    """The token will be good later. Clients retry 4403, so they come back when it is."""

    code = "TOKEN_NOT_YET_VALID"
    close_code = 4403
    is_guess = False


class TokenRevoked(Unauthenticated):
    """The token, or all of its subject, was revoked."""

    code = "TOKEN_REVOKED"
    is_guess = False


class TokenIssuedTooSoon(TokenRevoked):
    """The token was made right after its subject was revoked, or by a clock that is ahead.

    Clients retry 4403, so they come back with a newer one.
    """

    close_code = 4403

    def __init__(self, *, retry_after: float) -> None:
        super().__init__(
            "This token is too close to the revocation of its subject; get a new one",
            retryAfter=max(math.ceil(retry_after), 0),
        )


class TokenLivesTooLong(Unauthenticated):
    """The token would outlive the memory of its revocation."""

    code = "TOKEN_LIVES_TOO_LONG"
    is_guess = False

    def __init__(self, longest: float) -> None:
        super().__init__(
            f"The token lives longer than GQLNOTIFY_JWT_MAX_LIFETIME allows, {longest:.0f} s"
        )


class RevocationsUnavailable(NotifyError):
    """It is not known yet which tokens are revoked; the client may come back."""

    code = "REVOCATIONS_UNAVAILABLE"
    http_status = 503
    close_code: ClassVar[int] = 1013


class TooManyRevocations(NotifyError):
    """As many revocations are remembered as there is room for."""

    code = "TOO_MANY_REVOCATIONS"
    http_status = 503

    def __init__(self, room: int) -> None:
        super().__init__(
            f"{room} revocations are remembered, and one more would push out the oldest. Give "
            'gqlnotify.* a larger "length" in GQLNOTIFY_HISTORY_PER_TOPIC, or tokens a shorter '
            "life with GQLNOTIFY_JWT_MAX_LIFETIME"
        )


class KeysUnavailable(NotifyError):
    """The keys that tokens are checked with can't be fetched; the client may come back."""

    code = "KEYS_UNAVAILABLE"
    http_status = 503
    close_code: ClassVar[int] = 1013


class TooManyAttempts(NotifyError):
    """Too many bad tokens came from this address; it has to wait for a few seconds."""

    code = "TOO_MANY_ATTEMPTS"
    http_status = 429
    close_code: ClassVar[int] = 1013


class Forbidden(NotifyError):
    """The viewer is known but has no right to this."""

    code = "FORBIDDEN"
    http_status = 403


class BadUserInput(NotifyError):
    """An argument breaks a rule; the message names both."""

    code = "BAD_USER_INPUT"


class NoViewer(NotifyError):
    """An execution that all subscribers share was asked who its viewer is."""

    code = "NO_VIEWER"
    http_status = 500

    def __init__(self, wanted: str = "The viewer") -> None:
        super().__init__(
            f"{wanted} is not available here: this execution is shared by all subscribers who ask "
            "the same. Subscribe with per_viewer=True, name what the result depends on as the "
            "scope, or have the router's event_context provide it"
        )


class ExecutionCancelled(NotifyError):
    """Application code awaited something that was cancelled, cancelled its own task, or raised
    what is not an `Exception`.
    """

    code = "EXECUTION_CANCELLED"
    http_status = 500


class ExecutionTimeout(NotifyError):
    """The execution of an event took longer than it may."""

    code = "EXECUTION_TIMEOUT"
    http_status = 500

    def __init__(self) -> None:
        super().__init__("The execution of this event took too long")


class CursorExpired(NotifyError):
    """The history no longer reaches back to the cursor: refetch, then subscribe again."""

    code = "CURSOR_EXPIRED"
    http_status = 410


class EventUnreadable(NotifyError):
    """This version of the server can't read an event; the stream goes on after it."""

    code = "EVENT_UNREADABLE"
    http_status = 500

    def __init__(self, cursor: object) -> None:
        super().__init__("This server can't read the event at this cursor", cursor=str(cursor))


class TooManyOperations(NotifyError):
    """The connection already runs as many operations as it may."""

    code = "TOO_MANY_OPERATIONS"
    http_status = 429


class TooManyStreams(NotifyError):
    """The process has as many connections as it may, HTTP streams among them."""

    code = "TOO_MANY_CONNECTIONS"
    http_status = 503


class TooManyStreamsOfSubject(NotifyError):
    """The subject has as many connections as it may, HTTP streams among them."""

    code = "TOO_MANY_CONNECTIONS_OF_SUBJECT"
    http_status = 429


class TooManyTopics(NotifyError):
    """The subject has asked for as many new topics as it may for now."""

    code = "TOO_MANY_TOPICS"
    http_status = 429


class ExtensionsTooBig(NotifyError):
    """The `extensions` of an operation are larger than they may be."""

    code = "EXTENSIONS_TOO_BIG"
    http_status = 413


class TooManyTokens(NotifyError):
    """The document is longer than it may be."""

    code = "TOO_MANY_TOKENS"


class QueryTooDeep(NotifyError):
    """The fields of the operation are nested deeper than they may be."""

    code = "QUERY_TOO_DEEP"


class TooManyAliases(NotifyError):
    """The operation has more aliases than it may."""

    code = "TOO_MANY_ALIASES"


class QueryTooComplex(NotifyError):
    """The operation asks for more fields than it may."""

    code = "QUERY_TOO_COMPLEX"


class IntrospectionDisabled(NotifyError):
    """Questions about the schema are not answered here."""

    code = "INTROSPECTION_DISABLED"


class PersistedQueryNotFound(NotifyError):
    """No document has this hash."""

    code = "PERSISTED_QUERY_NOT_FOUND"


class OperationNotAllowed(NotifyError):
    """Only persisted operations are, and this is none."""

    code = "OPERATION_NOT_ALLOWED"
    http_status = 403


class BodyTooBig(NotifyError):
    """The body of a request is over the size limit."""

    code = "BODY_TOO_BIG"
    http_status = 413


class BrokerUnavailable(NotifyError):
    """The broker can't be reached. The event was not published, or that is unknown.

    A resolver's error becomes its client's message, so the message is the same for all of these.
    `reason` may name hosts, users and keys. A traceback shows it as a note.
    """

    code = "BROKER_UNAVAILABLE"
    http_status = 503

    def __init__(self, reason: str, **details: Any) -> None:
        super().__init__("The broker is unavailable. Try again later", **details)
        self._reason = reason
        self.add_note(reason)

    @property
    @override
    def reason(self) -> str:
        """What went wrong, for the log alone."""
        return self._reason


class TopicsClosed(NotifyError):
    """A `TopicManager` that was closed with its application was asked for more than to publish."""

    code = "TOPICS_CLOSED"
    http_status = 503

    def __init__(self) -> None:
        super().__init__("The topics are closed, as the application is; call start() to open them")


class ConnectionClosed(Exception):
    """Ends a WebSocket connection with this close code and reason."""

    code: ClassVar[int] = 4400
    label: str = "CONNECTION_CLOSED"
    """What the metrics count it as."""

    def __init__(self, reason: str, *, code: int | None = None, label: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.close_code = code if code is not None else self.code
        if label is not None:
            self.label = label


class InvalidMessage(ConnectionClosed):
    """A message of a type or format that the protocol does not know."""

    code = 4400
    label = "INVALID_MESSAGE"


class NotAcknowledged(ConnectionClosed):
    """An operation before `connection_ack`."""

    code = 4401
    label = "NOT_ACKNOWLEDGED"


class SubprotocolNotAcceptable(ConnectionClosed):
    """The client offers no subprotocol that the server speaks."""

    code = 4406
    label = "SUBPROTOCOL_NOT_ACCEPTABLE"


class OperationExists(ConnectionClosed):
    """A second operation under an id that is in use."""

    code = 4409
    label = "OPERATION_EXISTS"


class TooManyInits(ConnectionClosed):
    """A second `connection_init`."""

    code = 4429
    label = "TOO_MANY_INITS"


class InitTimeout(ConnectionClosed):
    """No `connection_init` within the time allowed."""

    code = 4408
    label = "INIT_TIMEOUT"


class MessageTooBig(ConnectionClosed):
    """A message over the size limit (RFC 6455, section 7.4.1)."""

    code = 1009
    label = "MESSAGE_TOO_BIG"


class PeerSilent(ConnectionClosed):
    """No sign of life within the ping deadline; the client may come back and resume."""

    code = 1013
    label = "PEER_SILENT"


class TooSlow(ConnectionClosed):
    """The peer leaves too much unread, or leaves it for too long; it may come back and resume."""

    code = 1013
    label = "TOO_SLOW"


class TooManyConnections(ConnectionClosed):
    """The process has as many connections as it may."""

    code = 1013
    label = "TOO_MANY_CONNECTIONS"


class TooManyConnectionsOfSubject(ConnectionClosed):
    """The subject has as many connections as it may."""

    code = 1013
    label = "TOO_MANY_CONNECTIONS_OF_SUBJECT"


class TooManyMessages(ConnectionClosed):
    """Messages come faster than they may (RFC 6455, section 7.4.1: it "violates its policy")."""

    code = 1008
    label = "TOO_MANY_MESSAGES"


class Draining(ConnectionClosed):
    """The server is about to stop; the client resumes at another one."""

    code = 1012
    label = "DRAINING"


def server_error_status(code: object) -> int | None:
    """Return the HTTP status that goes with `code`, if that code says the server is at fault."""
    statuses = (error.http_status for error in _kinds_of(NotifyError) if error.code == code)
    return next((status for status in statuses if status >= 500), None)


def _kinds_of(error: type[NotifyError]) -> Iterator[type[NotifyError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _kinds_of(kind)


def close_reason(text: str) -> str:
    """Shorten `text` to what a close frame can carry: 123 bytes of UTF-8, cut between characters.

    A lone surrogate, which JSON can spell and UTF-8 cannot, becomes a question mark.
    """
    encoded = text.encode("utf-8", "replace")
    return encoded[:MAX_REASON_BYTES].decode("utf-8", "ignore")
