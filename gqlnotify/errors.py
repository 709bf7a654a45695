"""The errors that clients can see. Each error class contains what is sent for it.

A `NotifyError` ends one operation or one HTTP request. `extensions.code` is its stable name.
A `ConnectionClosed` ends a WebSocket connection. Its code and reason go into the close frame.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from typing_extensions import override

# RFC 6455, section 5.5: a control frame has at most 125 bytes. Two of them are the close code.
MAX_REASON_BYTES = 123


class NotifyError(Exception):
    """The base of errors that end one operation. Applications derive their own errors from it.

    A resolver can raise it: graphql-core copies `extensions` into the GraphQL error. Everything in
    it goes to the client.

    Attributes:
        code: the stable name of the error for clients, `extensions.code`.
        http_status: the HTTP status if the error refuses a whole request.
        extensions: the code and the details, as the client gets them.

    Args:
        message: the text for the client.
        details: more entries of `extensions`, values that JSON can express.
    """

    code: ClassVar[str] = "INTERNAL_SERVER_ERROR"
    http_status: ClassVar[int] = 400

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.extensions: dict[str, Any] = {"code": self.code, **details}

    @property
    def message(self) -> str:
        """The text that the client gets."""
        return str(self)

    @property
    def reason(self) -> str:
        """The text for logs. It may contain details that the client must not see."""
        return str(self)

    def formatted(self) -> dict[str, Any]:
        """Return the error as an entry of `errors` in a GraphQL response."""
        return {"message": self.message, "extensions": self.extensions}


class InternalError(NotifyError):
    """A mistake in the application's code. The log gets its text, the client gets a fixed one."""

    http_status = 500

    @property
    @override
    def message(self) -> str:
        """The error message for the client."""
        return "Internal server error"


class UnknownViewer(InternalError):
    """`publish_sync` ran in a thread without a viewer, so its right could not be checked."""

    def __init__(self) -> None:
        super().__init__(
            "publish_sync was called in a thread that has no viewer, so no right can be checked. "
            "In a resolver, start the thread with asyncio.to_thread: it keeps the viewer, and "
            "loop.run_in_executor does not. In a thread of your application, pass trusted=True"
        )


class Unauthenticated(NotifyError):
    """The request has no valid token.

    Attributes:
        close_code: the code that a socket closes with.
        is_guess: whether it counts as a bad token of the client's address.
        subject: whose token it is, for operators; None if that is not certain. Clients do not get
            it.
    """

    code = "UNAUTHENTICATED"
    http_status = 401
    close_code: ClassVar[int] = 4401
    is_guess: ClassVar[bool] = True
    subject: str | None = None


class TokenExpired(Unauthenticated):
    """The token has expired. Clients retry after 4403, then with a fresh token."""

    close_code = 4403
    is_guess = False


class TokenNotYetValid(Unauthenticated):
    """The token is not valid yet. Clients retry after 4403, until it is."""

    code = "TOKEN_NOT_YET_VALID"
    close_code = 4403
    is_guess = False


class TokenRevoked(Unauthenticated):
    """The token was revoked, alone or with all tokens of its subject."""

    code = "TOKEN_REVOKED"
    is_guess = False


class TokenIssuedTooSoon(TokenRevoked):
    """The token may be older than the revocation of its subject: clocks differ a little.

    Clients retry after 4403, then with a newer token.

    Args:
        retry_after: seconds until a new token is accepted.
    """

    close_code = 4403

    def __init__(self, *, retry_after: float) -> None:
        super().__init__(
            "This token is too close to the revocation of its subject; get a new one",
            retryAfter=max(math.ceil(retry_after), 0),
        )


class TokenLivesTooLong(Unauthenticated):
    """The token would live longer than its revocation is kept.

    Args:
        longest: the longest lifetime of a token, in seconds.
    """

    code = "TOKEN_LIVES_TOO_LONG"
    is_guess = False

    def __init__(self, longest: float) -> None:
        super().__init__(
            f"The token lives longer than GQLNOTIFY_JWT_MAX_LIFETIME allows, {longest:.0f} s"
        )


class RevocationsUnavailable(NotifyError):
    """The server does not know yet which tokens are revoked. The client may try again later."""

    code = "REVOCATIONS_UNAVAILABLE"
    http_status = 503
    close_code: ClassVar[int] = 1013


class TooManyRevocations(NotifyError):
    """There is no room for one more revocation.

    Args:
        room: how many revocations are kept.
    """

    code = "TOO_MANY_REVOCATIONS"
    http_status = 503

    def __init__(self, room: int) -> None:
        super().__init__(
            f"{room} revocations are remembered, and one more would push out the oldest. Give "
            'gqlnotify.* a larger "length" in GQLNOTIFY_HISTORY_PER_TOPIC, or shorten the lifetime '
            "of tokens with GQLNOTIFY_JWT_MAX_LIFETIME"
        )


class KeysUnavailable(NotifyError):
    """The server can't fetch the keys that verify tokens. The client may try again later."""

    code = "KEYS_UNAVAILABLE"
    http_status = 503
    close_code: ClassVar[int] = 1013


class TooManyAttempts(NotifyError):
    """Too many bad tokens came from this address. It has to wait for a few seconds."""

    code = "TOO_MANY_ATTEMPTS"
    http_status = 429
    close_code: ClassVar[int] = 1013


class Forbidden(NotifyError):
    """The viewer has no right to do this."""

    code = "FORBIDDEN"
    http_status = 403


class BadUserInput(NotifyError):
    """An argument is invalid. The message names the argument and the rule."""

    code = "BAD_USER_INPUT"


class NoViewer(NotifyError):
    """A resolver asked for the viewer in an execution that many subscribers share.

    Args:
        wanted: what the resolver asked for. It begins the message.
    """

    code = "NO_VIEWER"
    http_status = 500

    def __init__(self, wanted: str = "The viewer") -> None:
        super().__init__(
            f"{wanted} is not available here: all subscribers with the same request share this "
            "execution. Subscribe with per_viewer=True, pass what the result depends on as scope, "
            "or provide it with the router's event_context"
        )


class ExecutionCancelled(NotifyError):
    """The application awaited something that was cancelled, cancelled its own task, or raised a
    `BaseException` such as `SystemExit`.
    """

    code = "EXECUTION_CANCELLED"
    http_status = 500


class ExecutionTimeout(NotifyError):
    """The execution of an event took longer than `execution_timeout`."""

    code = "EXECUTION_TIMEOUT"
    http_status = 500

    def __init__(self) -> None:
        super().__init__("The execution of this event took too long")


class CursorExpired(NotifyError):
    """The history no longer reaches back to the cursor. Fetch the state, then subscribe again."""

    code = "CURSOR_EXPIRED"
    http_status = 410

    @classmethod
    def but_goes_on(cls) -> Self:
        """Return the error for a client whose operation continues after the events it missed."""
        return cls(
            "The history no longer reaches back to the last event of this client, so it has missed "
            "events. Fetch the state again; newer events follow"
        )


class EventUnreadable(NotifyError):
    """This version of the server can't read an event. The stream continues with the next one.

    Args:
        cursor: the cursor of the event.
    """

    code = "EVENT_UNREADABLE"
    http_status = 500

    def __init__(self, cursor: object) -> None:
        super().__init__("This server can't read the event at this cursor", cursor=str(cursor))


class TooManyOperations(NotifyError):
    """The connection already runs `max_operations` operations."""

    code = "TOO_MANY_OPERATIONS"
    http_status = 429


class TooManyStreams(NotifyError):
    """The process already has `max_connections` sockets and HTTP streams."""

    code = "TOO_MANY_CONNECTIONS"
    http_status = 503


class TooManyStreamsOfSubject(NotifyError):
    """The subject already has `max_connections_per_subject` sockets and HTTP streams."""

    code = "TOO_MANY_CONNECTIONS_OF_SUBJECT"
    http_status = 429


class NotReserved(NotifyError):
    """This process has no reserved stream with the request's token."""

    code = "NOT_RESERVED"
    http_status = 404


class StreamConflict(NotifyError):
    """A reserved stream is open already, or runs an operation with this id already."""

    code = "STREAM_CONFLICT"
    http_status = 409


class TooManyTopics(NotifyError):
    """The subject has asked for too many new topics, see `new_topics_per_subject`."""

    code = "TOO_MANY_TOPICS"
    http_status = 429


class ExtensionsTooBig(NotifyError):
    """The `extensions` of an operation are larger than `extensions_max_bytes`."""

    code = "EXTENSIONS_TOO_BIG"
    http_status = 413


class TooManyTokens(NotifyError):
    """The document has more than `query_max_tokens` tokens."""

    code = "TOO_MANY_TOKENS"


class QueryTooDeep(NotifyError):
    """The fields of the operation are nested deeper than `query_max_depth`."""

    code = "QUERY_TOO_DEEP"


class TooManyAliases(NotifyError):
    """The operation has more than `query_max_aliases` aliases."""

    code = "TOO_MANY_ALIASES"


class QueryTooComplex(NotifyError):
    """The document is more complex than `query_max_complexity`."""

    code = "QUERY_TOO_COMPLEX"


class IntrospectionDisabled(NotifyError):
    """The server does not answer queries about its schema."""

    code = "INTROSPECTION_DISABLED"


class PersistedQueryNotFound(NotifyError):
    """No document has this hash."""

    code = "PERSISTED_QUERY_NOT_FOUND"


class OperationNotAllowed(NotifyError):
    """The server runs only persisted operations, and this is not one of them."""

    code = "OPERATION_NOT_ALLOWED"
    http_status = 403


class BodyTooBig(NotifyError):
    """The body of a request is larger than allowed."""

    code = "BODY_TOO_BIG"
    http_status = 413


class BrokerUnavailable(NotifyError):
    """The broker can't be reached. The event was not published, or it is unknown whether it was.

    The message is always the same, because clients see it. The reason may contain hosts, users and
    keys. It is for logs, and a traceback shows it as a note.
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
        """What went wrong. Only for logs."""
        return self._reason


class TopicsClosed(NotifyError):
    """A closed `TopicManager` was used for something other than publishing."""

    code = "TOPICS_CLOSED"
    http_status = 503

    def __init__(self) -> None:
        super().__init__(
            "The topics were closed with the application. Call start() to open them again"
        )


class ConnectionClosed(Exception):
    """Ends a WebSocket connection.

    Attributes:
        code: the close code of this class.
        close_code: the close code of this error.
        label: the name under which the metrics count it.

    Args:
        reason: the text in the close frame. It is cut to 123 bytes.
        code: another close code than that of the class.
        label: another label than that of the class.
    """

    code: ClassVar[int] = 4400
    label: str = "CONNECTION_CLOSED"

    def __init__(self, reason: str, *, code: int | None = None, label: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.close_code = code if code is not None else self.code
        if label is not None:
            self.label = label


class InvalidMessage(ConnectionClosed):
    """A message has a type or a format that the protocol does not define."""

    code = 4400
    label = "INVALID_MESSAGE"


class NotAcknowledged(ConnectionClosed):
    """The client started an operation before `connection_ack`."""

    code = 4401
    label = "NOT_ACKNOWLEDGED"


class SubprotocolNotAcceptable(ConnectionClosed):
    """The client offers no subprotocol that the server supports."""

    code = 4406
    label = "SUBPROTOCOL_NOT_ACCEPTABLE"


class OperationExists(ConnectionClosed):
    """The client started an operation with an id that is in use."""

    code = 4409
    label = "OPERATION_EXISTS"


class TooManyInits(ConnectionClosed):
    """The client sent a second `connection_init`."""

    code = 4429
    label = "TOO_MANY_INITS"


class InitTimeout(ConnectionClosed):
    """The client sent no `connection_init` in time."""

    code = 4408
    label = "INIT_TIMEOUT"


class MessageTooBig(ConnectionClosed):
    """A message is larger than allowed (1009 in RFC 6455, section 7.4.1)."""

    code = 1009
    label = "MESSAGE_TOO_BIG"


class PeerSilent(ConnectionClosed):
    """The client did not answer a ping in time. It may reconnect and resume."""

    code = 1013
    label = "PEER_SILENT"


class TooSlow(ConnectionClosed):
    """The peer has read nothing for too long. It may reconnect and resume."""

    code = 1013
    label = "TOO_SLOW"


class TooManyConnections(ConnectionClosed):
    """The process already has `max_connections` sockets and HTTP streams."""

    code = 1013
    label = "TOO_MANY_CONNECTIONS"


class TooManyConnectionsOfSubject(ConnectionClosed):
    """The subject already has `max_connections_per_subject` sockets and HTTP streams."""

    code = 1013
    label = "TOO_MANY_CONNECTIONS_OF_SUBJECT"


class TooManyMessages(ConnectionClosed):
    """The client sends messages too fast (1008, "violates its policy": RFC 6455, section 7.4.1)."""

    code = 1008
    label = "TOO_MANY_MESSAGES"


class Draining(ConnectionClosed):
    """The server is about to stop. The client resumes at another one."""

    code = 1012
    label = "DRAINING"


class Disconnected(ConnectionClosed):
    """An operator has ended the connection. The client may come back."""

    code = 1012
    label = "DISCONNECTED"


def server_error_status(code: object) -> int | None:
    """Return the HTTP status of an error code that says the server failed, else None."""
    statuses = (error.http_status for error in _kinds_of(NotifyError) if error.code == code)
    return next((status for status in statuses if status >= 500), None)


def _kinds_of(error: type[NotifyError]) -> Iterator[type[NotifyError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _kinds_of(kind)


def close_reason(text: str) -> str:
    """Shorten `text` to the 123 bytes of UTF-8 that fit a close frame, cut between characters.

    A lone surrogate becomes a question mark. JSON can express one, UTF-8 can't.
    """
    encoded = text.encode("utf-8", "replace")
    return encoded[:MAX_REASON_BYTES].decode("utf-8", "ignore")
