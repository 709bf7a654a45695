"""Positions: how far a client has got with an operation, so that it can resume at any process.

A client that does not send a cursor is identified by its subject and by the operation's id, which
it keeps over reconnects. Both are in the hash that is called a key here. Each run of the operation
on one connection is a holder of the key, because a client may come back before the server notices
that its first connection is dead.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gqlnotify.event import Cursor


@dataclass(frozen=True, slots=True)
class Position:
    """How far a client has got with one operation.

    Attributes:
        acknowledged: The client has received everything up to this cursor.
        sent: Nothing was sent after this cursor. None if that is not known, because the operation
            still runs, or because its process was killed.
    """

    acknowledged: Cursor
    sent: Cursor | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one holder's position.

    Attributes:
        key: The hash of the subject and the operation.
        holder: The run of the operation.
        position: The new position; None deletes it.
        proves_life: Whether the client has just shown that it uses this holder. Without a proof,
            a position that another holder has claimed stays deleted.
    """

    key: str
    holder: str
    position: Position | None
    proves_life: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A new holder of a key, which takes over the position of an earlier one or has `start`."""

    key: str
    holder: str
    start: Cursor


@dataclass(frozen=True, slots=True)
class Claimed:
    """A position that was taken over, and the holder that had it."""

    position: Position
    predecessor: str


class Positions(ABC):
    """Keeps positions for some time after their last change."""

    @abstractmethod
    async def save(self, changes: Sequence[Change], seconds: float) -> "Saved":
        """Save positions, and keep each key for `seconds` from now.

        Raises:
            BrokerUnavailable: It is unknown which changes were saved. Saving again is safe.
        """

    @abstractmethod
    async def claim(self, claims: Sequence[Claim], seconds: float) -> "Answer":
        """Give each new holder the position of an earlier one, or None and its own start.

        In both cases the new holder is saved for `seconds`.
        Of several earlier holders, this takes the one that has got least far. What was sent is then
        unknown, because the others may have sent more. The position is deleted, and the new holder
        has it, with `sent` unknown. So each position is taken once, and a process that is killed
        right after this loses none.

        Raises:
            BrokerUnavailable: It is unknown which positions were taken over.
        """

    @abstractmethod
    async def memories(self) -> Mapping[str, str]:
        """Return the memories of the servers, as far as they can be asked without a key.

        Raises:
            BrokerUnavailable: A server did not answer.
        """


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of `Positions.claim`.

    Attributes:
        claimed: What each claim has taken over.
        memories: See `Saved`.
    """

    claimed: Sequence[Claimed | None]
    memories: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Saved:
    """The outcome of `Positions.save`.

    Attributes:
        missing: The holders whose positions were not saved, because another holder has claimed
            them.
        memories: Each server that took part, and what identifies its memory. If that has changed,
            the server may have lost positions.
    """

    missing: frozenset[str]
    memories: Mapping[str, str]
