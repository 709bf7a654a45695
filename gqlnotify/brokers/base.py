"""The contract of a broker. `tests/brokers/contract.py` holds a test for every promise here."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from gqlnotify.event import Cursor, Event

Deliver = Callable[[Event], None]
"""Takes an event from the live path. It returns at once and never raises."""


OnPossibleGap = Callable[[str], None]
"""Hears that the live path of this topic may have dropped events: the history knows them. It
returns at once and never raises."""


class Broker(ABC):
    """An ordered, bounded history for each topic, and a live path that is allowed to fail.

    The history is the truth: contiguous, the same for all subscribers, replayable. The live path is
    only a fast wake-up: it may drop, repeat or reorder events. `TopicManager` makes one unbroken
    stream of the two, so a broker need not.

    Names and payloads come checked; a broker treats both as opaque.
    """

    durable = True
    """Whether a history outlives the process."""

    @abstractmethod
    async def start(self, deliver: Deliver, on_possible_gap: OnPossibleGap) -> None:
        """Connect, and hand what arrives on subscribed topics to `deliver` in this event loop.

        Calls `on_possible_gap` where events may have been dropped and no later one may show it.

        Raises:
            BrokerUnavailable: the broker can't be reached.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of every connection. A closed broker may be started again."""

    @abstractmethod
    async def check(self) -> None:
        """Return if events can be published and are delivered; prove it by doing both.

        The answer may be up to a second old. No subscriber receives anything.

        Raises:
            BrokerUnavailable: they can't, or aren't.
        """

    @abstractmethod
    async def publish(self, topic: str, payload: bytes, *, event_id: str | None = None) -> Cursor:
        """Append an event to the topic's history, send it live, and return where it stands.

        The first event of a history has `seq` 1 and each later one the next number. Within a
        history the epoch stays, unless the broker may have forgotten its newest events: it then
        goes on in a new epoch, so that their cursors are never given to other events. An
        `event_id` that the history still remembers appends nothing and returns the first one's
        cursor.

        Raises:
            BrokerUnavailable: the event was not appended, or that is unknown.
        """

    @abstractmethod
    async def subscribe(self, topic: str) -> None:
        """Have events of `topic` delivered live.

        Whatever is published after this has returned is either delivered or, where the live path
        drops it, in the history. A subscribed topic's history does not end by idleness alone, and
        the cursor of one that has none stays good. A broker that can't be reached is waited for.
        """

    @abstractmethod
    async def unsubscribe(self, topic: str) -> None:
        """Undo `subscribe`. Subscribing again right away may find that it was never undone."""

    @abstractmethod
    async def head(self, topic: str) -> Cursor:
        """Return the cursor of the topic's newest event.

        That of a topic without a history has `seq` 0. A broker need not keep anything for it, and
        may return another cursor the next time, with a later epoch. In any case, what is published
        after this has returned can be read back from the cursor returned.

        Raises:
            BrokerUnavailable: the history can't be asked.
        """

    @abstractmethod
    async def oldest(self, topic: str) -> Cursor:
        """Return the cursor from which `read` returns all that the topic still remembers.

        For a topic without a history this is a cursor as from `head`.

        Raises:
            BrokerUnavailable: the history can't be asked.
        """

    @abstractmethod
    async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
        """Return the events right after `after`, oldest first, at most `limit` of them.

        Raises:
            CursorExpired: the event right after `after` is no longer there, or the topic's
                history is not the one that `after` was taken from, or that is not known. Never a
                list with a hole.
            BrokerUnavailable: the history can't be asked.
        """
