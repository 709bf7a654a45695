"""One operation that can be resumed after a reconnect although its client sends no cursor."""

import json
import re
from collections.abc import Callable, Sequence
from enum import Enum, auto
from hashlib import sha256
from secrets import token_hex
from typing import Any, Protocol, Self

from gqlnotify.brokers.positions import Change, Position
from gqlnotify.event import Cursor

_KEY_CHARACTERS = 32
# Ids of two clients of one subject must not meet by chance: only random UUIDs (RFC 9562, versions 4
# and 7). Many clients count their ids from 1.
_RANDOM_UUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE
)


class Progress:
    """How far the results of an operation have been passed on.

    Attributes:
        reached: Every event up to this cursor has been passed on, or filtered out.
        sent: The last event that was passed on.
    """

    __slots__ = ("reached", "sent")

    def __init__(self, start: Cursor) -> None:
        self.reached = self.sent = start

    def advance(self, reached: Cursor, sent: Cursor) -> None:
        """Move forward to these positions, but never back."""
        self.reached = max(self.reached, reached)
        self.sent = max(self.sent, sent)


class Keeper(Protocol):
    """Keeps the position of an operation up to date in the broker."""

    def changed(self, resumption: "Resumption") -> None:
        """Save the changed position soon."""

    def ended(self, resumption: "Resumption") -> None:
        """Keep the last position for as long as the client may take to come back."""

    def dropped(self, resumption: "Resumption") -> None:
        """Delete the position."""

    async def flush(self) -> None:
        """Save all changes now. Returns when they are saved, or when that has failed once."""


class _State(Enum):
    NEW = auto()
    RUNNING = auto()
    CONCLUDED = auto()
    ENDED = auto()
    DROPPED = auto()


class Resumption:
    """The run of one operation on one connection. Its client may continue it on another one.

    Args:
        subject: The subject of the operation's viewer.
        id_: The id of the operation.
        identity: What else makes the operation the same after a reconnect, as text. Only its hash
            is kept, because a document and its variables may be large, until the key is known.
        announce: Sends the client a ping with the position of the operation.
    """

    __slots__ = (
        *("acknowledged", "expired_at", "holder", "id", "keeper", "key", "losses", "progress"),
        *("subject", "_announce", "_identity", "_is_lost", "_proves_life", "_state"),
    )

    def __init__(
        self, subject: str, id_: str, identity: str, announce: Callable[["Resumption"], None]
    ) -> None:
        self.subject = subject
        self.id = id_
        self.holder = token_hex(8)
        self.key = ""
        self.acknowledged = Cursor(0, 0)
        self.expired_at: Cursor | None = None
        """Where the client has got to, if the history no longer reaches back to there."""
        self.progress = Progress(self.acknowledged)
        self._identity = _hash(identity)
        self._announce = announce
        self._proves_life = self._is_lost = False
        self._state = _State.NEW
        self.losses = 0
        """How often the broker had lost its positions when it saved this one first."""
        self.keeper: Keeper | None = None

    @classmethod
    def of(
        cls,
        subject: str,
        id_: str,
        identity: Sequence[Any],
        announce: Callable[["Resumption"], None],
    ) -> Self | None:
        """Return the resumption of an operation; None if its id can't identify it.

        Args:
            subject: the subject of the operation's viewer.
            id_: the id of the operation.
            identity: the document, its names and the variables.
            announce: see the class.
        """
        if not _RANDOM_UUID.fullmatch(id_):
            return None
        try:
            return cls(subject, id_, json.dumps(identity, sort_keys=True), announce)
        except RecursionError:
            return None

    def read(self, topic: str) -> None:
        """Note that the operation reads `topic`, which is part of the key of its positions."""
        text = f"{self.subject}\0{topic}\0{self.id}\0{self._identity}"
        self.key = _hash(text)[:_KEY_CHARACTERS]
        self._identity = ""

    def begin(self, keeper: Keeper, acknowledged: Cursor) -> None:
        """Begin after `acknowledged`, and tell the client. Its claim has saved this position."""
        self.keeper, self._state = keeper, _State.RUNNING
        self.acknowledged = acknowledged
        if self._is_lost:
            keeper.changed(self)
        self._announce(self)

    @property
    def runs(self) -> bool:
        """Whether the operation has begun and not ended."""
        return self._state is _State.RUNNING

    @property
    def is_over(self) -> bool:
        """Whether the client can't resume the operation any more."""
        return self._state is _State.DROPPED

    @property
    def awaits_acknowledgement(self) -> bool:
        """Whether something was sent that the client has not acknowledged."""
        return self.progress.sent > self.acknowledged

    def acknowledge(self, cursor: Cursor, *, by_client: bool = True) -> None:
        """Note that the client has everything up to `cursor`.

        If the client itself says so, also without progress, it uses this connection. If the server
        has concluded the operation, the client knows that now.
        """
        if self._state is _State.CONCLUDED:
            self.drop()
        if self.keeper is None or not self.runs:
            return
        self.acknowledged = max(self.acknowledged, cursor)
        self._proves_life = self._proves_life or by_client
        self.keeper.changed(self)

    def skip(self) -> None:
        """Move on to what was reached, because nothing was sent up to there."""
        if self.keeper is not None and self.runs and self.progress.reached > self.acknowledged:
            self.acknowledged = self.progress.reached
            self.keeper.changed(self)

    def conclude(self) -> None:
        """Note that the server has ended the operation, and before it tells the client.

        After that, only the ping that follows the end names the operation. Its pong alone shows
        that the client knows. If the connection ends before that, the client may come back.
        """
        if self.runs:
            self._state = _State.CONCLUDED
        else:
            self.drop()

    def end(self) -> None:
        """Note that the connection has ended, so that the client may come back."""
        if self.keeper is not None and self._state in {_State.RUNNING, _State.CONCLUDED}:
            self._state = _State.ENDED
            # If another connection has claimed the position, it stays with that one.
            self._proves_life = False
            # The position is kept for minutes, and must not keep the connection in memory.
            self._announce = _nothing
            self.keeper.ended(self)

    def drop(self) -> None:
        """Note that the operation is over, for the client or for the server."""
        if self.is_over:
            return
        self._state = _State.DROPPED
        if self.keeper is not None:
            self.keeper.dropped(self)

    def change(self) -> Change:
        """Return what to save now."""
        proves_life, self._proves_life = self._proves_life, False
        position = self.position
        if position is not None and self._is_lost:
            # Another process may have claimed it, and sent more, before the broker lost it.
            position = Position(position.acknowledged)
        return Change(self.key, self.holder, position, proves_life or self._is_lost)

    def claimed_by_another(self) -> None:
        """Ask the client whether it uses this connection: its answer saves the position again."""
        if self.runs:
            self._announce(self)

    def save_again(self) -> None:
        """Save the position, even if the broker has forgotten it."""
        self._is_lost = True
        if self.keeper is not None:
            self.keeper.changed(self)

    def saved(self) -> None:
        """Note that the last change is saved."""
        self._is_lost = False

    def not_saved(self, change: Change) -> None:
        """Note that a save has failed and will be repeated."""
        self._proves_life = self._proves_life or change.proves_life

    @property
    def position(self) -> Position | None:
        """What to save, or None if the operation is over."""
        match self._state:
            case _State.DROPPED:
                return None
            case _State.ENDED:
                # An event that is being sent counts as sent.
                sent = max(self.progress.sent, self.progress.reached, self.acknowledged)
                return Position(self.acknowledged, sent)
        return Position(self.acknowledged)


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _nothing(_resumption: Resumption) -> None:
    """Announce nothing, because the connection has ended."""
