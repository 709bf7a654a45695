"""The server side of one connection as a state machine. All transitions are in this file.

                connection_init             acknowledge()
    CONNECTED ------------------> INITIALISING ---------> READY
        |                              |                    |
        +--- anything that closes -----+--------------------+--> CLOSED

"Executing operations is allowed only after the server has acknowledged the connection."
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from gqlnotify.errors import (
    ConnectionClosed,
    InitTimeout,
    InvalidMessage,
    MessageTooBig,
    NotAcknowledged,
    NotifyError,
    OperationExists,
    TooManyInits,
    TooManyOperations,
    close_reason,
)
from gqlnotify.event import Cursor
from gqlnotify.protocol import messages
from gqlnotify.protocol.messages import (
    ConnectionInit,
    Decode,
    Json,
    Message,
    Ping,
    Pong,
    Subscribe,
    strict_json,
)
from gqlnotify.protocol.pings import Pings

_RENEWAL = "authorization"


class State(Enum):
    """The state of a connection."""

    CONNECTED = auto()
    INITIALISING = auto()
    READY = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message."""

    message: Json


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Check the token in this `connection_init` payload, then call `acknowledge` or `close`."""

    payload: Json


@dataclass(frozen=True, slots=True)
class Renew:
    """Check the fresh token in this ping payload, then call `renewed` with the outcome."""

    payload: Json


@dataclass(frozen=True, slots=True)
class Start:
    """Start this operation."""

    operation: Subscribe


@dataclass(frozen=True, slots=True)
class Refuse:
    """Send this error for an operation that was not started."""

    id: str
    error: NotifyError


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the operation with this id; send no more of its results."""

    id: str


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The client has received the events of these operations up to these cursors."""

    cursors: Mapping[str, Cursor]


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket. No command follows. `label` is the reason's name in the metrics."""

    code: int
    reason: str
    label: str = field(default="", compare=False)


Command = Send | Authenticate | Renew | Start | Refuse | Stop | Acknowledge | Close


class ServerConnection:
    """Takes messages and the application's results, and returns the commands to execute.

    Nothing that a client can send makes it raise.

    Args:
        max_operations: How many operations may run at the same time; None for no limit.
        message_max_bytes: The largest message that is accepted, in bytes.
        decode: Parses JSON. It raises `ValueError` or `RecursionError` for invalid JSON.
    """

    __slots__ = ("_active", "_decode", "_max_operations", "_message_max_bytes", "_pings", "state")

    def __init__(
        self,
        *,
        max_operations: int | None = 100,
        message_max_bytes: int = 256 * 1024,
        decode: Decode = strict_json,
    ) -> None:
        self.state = State.CONNECTED
        self._active: set[str] = set()
        self._pings = Pings()
        self._max_operations = max_operations
        self._message_max_bytes = message_max_bytes
        self._decode = decode

    @property
    def active(self) -> frozenset[str]:
        """The ids of the running operations."""
        return frozenset(self._active)

    def receive_text(self, text: str) -> list[Command]:
        """Take a text message."""
        if self.state is State.CLOSED:
            return []
        try:
            self._check_size(text)
            return self._handle(messages.parse(text, self._decode))
        except ConnectionClosed as closed:
            return self.close(closed)

    def receive_binary(self) -> list[Command]:
        """Refuse a binary message: "All messages [...] are stringified before being sent"."""
        return self.close(InvalidMessage("Messages must be text"))

    def init_timeout(self) -> list[Command]:
        """Close the connection if no `connection_init` has arrived in time."""
        if self.state is not State.CONNECTED:
            return []
        return self.close(InitTimeout("Connection initialisation timeout"))

    def acknowledge(self, payload: Json | None = None) -> list[Command]:
        """Accept the connection, with an optional payload for the client."""
        if self.state is not State.INITIALISING:
            return []
        self.state = State.READY
        return [Send(messages.connection_ack(payload))]

    def renewed(self, outcome: Json) -> list[Command]:
        """Answer the ping that contained a token."""
        return [] if self.state is State.CLOSED else [Send(messages.pong(outcome))]

    @property
    def awaits_pong(self) -> bool:
        """Whether the client has not answered a ping yet."""
        return not self._pings.are_answered

    def ping(self, cursors: Mapping[str, Cursor] | None = None) -> list[Send]:
        """Send the client a ping. Its pong acknowledges the events up to `cursors`, if any."""
        if self.state is State.CLOSED:
            return []
        if cursors is None:
            self._pings.plain_ping()
            return [Send(messages.ping())]
        return [Send(messages.ping(self._pings.ping(cursors)))]

    def next(self, id_: str, result: Json) -> list[Command]:
        """Send one result, unless the operation has ended."""
        return [Send(messages.next_(id_, result))] if id_ in self._active else []

    def error(self, id_: str, errors: Sequence[Json]) -> list[Command]:
        """End the operation with errors: "no further messages will be sent"."""
        return [Send(messages.error(id_, errors))] if self._end(id_) else []

    def complete(self, id_: str) -> list[Command]:
        """End the operation, unless the client or an error has already ended it."""
        return [Send(messages.complete(id_))] if self._end(id_) else []

    def close(self, closed: ConnectionClosed) -> list[Command]:
        """Close the connection, once."""
        if self.state is State.CLOSED:
            return []
        self.state = State.CLOSED
        self._active.clear()
        return [Close(closed.close_code, close_reason(closed.reason), closed.label)]

    def _handle(self, message: Message) -> list[Command]:
        match message:
            case Ping(payload):
                return [self._pong(payload)]
            case Pong(payload):
                awaited = self.awaits_pong
                cursors = self._pings.pong(payload)
                # Even without cursors: the next question waits for the answer.
                return [Acknowledge(cursors)] if awaited else []
            case ConnectionInit(payload):
                return self._initialise(payload)
            case Subscribe():
                return self._start(message)
        return [Stop(message.id)] if self._end(message.id) else []

    def _pong(self, payload: Json | None) -> Command:
        # The key of a token is any spelling of `authorization`. Before the acknowledgement there is
        # no token to renew, so the ping is an ordinary one.
        if self.state is State.READY and any(key.lower() == _RENEWAL for key in payload or ()):
            return Renew(payload or {})
        return Send(messages.pong(payload))

    def _initialise(self, payload: Json) -> list[Command]:
        # "If the server receives more than one ConnectionInit message at any given time, the
        # server will close the socket with the event 4429".
        if self.state is not State.CONNECTED:
            raise TooManyInits("Too many initialisation requests")
        self.state = State.INITIALISING
        return [Authenticate(payload)]

    def _start(self, operation: Subscribe) -> list[Command]:
        if self.state is not State.READY:
            raise NotAcknowledged("Unauthorized")
        if operation.id in self._active:
            raise OperationExists(f"Subscriber for {operation.id} already exists")
        if self._max_operations is not None and len(self._active) >= self._max_operations:
            refusal = TooManyOperations(
                f"Subscription limit reached: {self._max_operations} operations per connection"
            )
            return [Refuse(operation.id, refusal)]
        self._active.add(operation.id)
        self._pings.forget(operation.id)
        return [Start(operation)]

    def _check_size(self, text: str) -> None:
        limit = self._message_max_bytes
        # A character takes 1 to 4 bytes, so most messages need not be encoded to know the answer.
        if len(text) > limit or (
            len(text) * 4 > limit and len(text.encode("utf-8", "surrogatepass")) > limit
        ):
            raise MessageTooBig(f"A message has at most {limit} bytes")

    def _end(self, id_: str) -> bool:
        if id_ not in self._active:
            return False
        self._active.remove(id_)
        self._pings.forget(id_)
        return True
