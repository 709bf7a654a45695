"""The contract of a broker. `tests/brokers/contract.py` has a test for every promise here."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

from gqlnotify.brokers.memory_positions import MemoryPositions
from gqlnotify.brokers.memory_presence import MemoryPresence
from gqlnotify.brokers.positions import Positions
from gqlnotify.brokers.presence import Presence
from gqlnotify.event import Cursor, Event

Deliver = Callable[[Event], None]
"""Takes an event from the live path. It returns at once and never raises."""


OnPossibleGap = Callable[[str], None]
"""Called with a topic whose live path may have dropped events, so its history must be read.

It returns at once and never raises."""


class Broker(ABC):
    """An ordered, bounded history for each topic, and a live path that is allowed to fail.

    The history is the truth: contiguous, the same for all subscribers, replayable. The live path is
    only a fast notification: it may drop, repeat or reorder events. `TopicManager` combines the two
    into one stream without gaps, so a broker need not.

    The caller has checked names and payloads. A broker treats both as opaque.
    """

    durable = True
    """Whether histories outlive the process."""

    shared = True
    """Whether other processes can use the same topics."""

    @cached_property
    def positions(self) -> Positions:
        """Where the positions of clients are kept; in this process unless a broker can do better.

        Available once the broker has started.
        """
        return MemoryPositions()

    @cached_property
    def presence(self) -> Presence:
        """Where it is kept who is present; in this process unless a broker can do better.

        Available once the broker has started.
        """
        return MemoryPresence(self.publish, self.head)

    @abstractmethod
    async def start(self, deliver: Deliver, on_possible_gap: OnPossibleGap) -> None:
        """Connect, and call `deliver` in this event loop for each event of a subscribed topic.

        The broker calls `on_possible_gap` when the live path may have dropped events. A later event
        would reveal the gap, but there may be none.

        Raises:
            BrokerUnavailable: The broker can't be reached.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close every connection. A closed broker may be started again."""

    @abstractmethod
    async def check(self) -> None:
        """Check that events can be published and are delivered, by doing both.

        The result may be up to a second old. No subscriber receives anything.

        Raises:
            BrokerUnavailable: Events can't be published, or are not delivered.
        """

    @abstractmethod
    async def publish(self, topic: str, payload: bytes, *, event_id: str | None = None) -> Cursor:
        """Append an event to the topic's history, send it live, and return its cursor.

        The first event of a history has `seq` 1, and each later one the next number. The epoch of a
        history stays the same, unless the broker may have lost the newest events. It then starts a
        new epoch, so other events never get the cursors of the lost ones. If the history still
        contains an event with this `event_id`, nothing is appended, and the cursor of that event is
        returned.

        Raises:
            BrokerUnavailable: The event was not appended, or it is unknown whether it was.
        """

    @abstractmethod
    async def subscribe(self, topic: str) -> None:
        """Begin to deliver the events of `topic` live.

        An event that is published after this has returned is delivered or, if the live path drops
        it, is in the history. While a topic is subscribed to, its history does not end only because
        it is idle. If it has no history, its cursor stays valid. If the broker can't be reached,
        this waits until it can.
        """

    @abstractmethod
    async def unsubscribe(self, topic: str) -> None:
        """Stop delivering the events of `topic`. A `subscribe` right after this may undo it."""

    @abstractmethod
    async def head(self, topic: str) -> Cursor:
        """Return the cursor of the topic's newest event.

        The cursor of a topic without a history has `seq` 0. The broker need not store anything for
        it, and may return another cursor the next time, with a later epoch. In any case, `read`
        with the returned cursor returns what was published after this has returned.

        Raises:
            BrokerUnavailable: The history can't be read.
        """

    @abstractmethod
    async def oldest(self, topic: str) -> Cursor:
        """Return the cursor after which `read` returns everything that the history contains.

        For a topic without a history, this is a cursor like that of `head`.

        Raises:
            BrokerUnavailable: The history can't be read.
        """

    @abstractmethod
    async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
        """Return the events right after `after`, oldest first, at most `limit` of them.

        The list never has a gap, neither inside nor at its start.

        Raises:
            CursorExpired: The history no longer contains the event right after `after`, or `after`
                is not from this history, or the broker can't tell.
            BrokerUnavailable: The history can't be read.
        """
