"""Which events the kernel of a peer has taken, for streams whose clients acknowledge nothing."""

import asyncio

from gqlnotify.connections.peer import Transport, taken, unread
from gqlnotify.event import Cursor
from gqlnotify.topics.resumption import Resumption


class TakenEvents:
    """Acknowledges the events of one stream once its peer has taken their bytes.

    It asks the kernel about a batch of events at a time.

    Args:
        transport: what the stream is written to. Without it nothing is acknowledged.
        interval: seconds between two questions.
        delay: seconds that also have to pass since the events were written. A proxy takes bytes
            that the client may never get.
    """

    def __init__(self, transport: Transport | None, *, interval: float, delay: float = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._interval = interval
        self._delay = delay
        self._written: dict[Resumption, Cursor] = {}
        self._asked: dict[Resumption, Cursor] = {}
        self._asked_at = 0.0
        self._all_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def wrote(self, resumption: Resumption, cursor: Cursor) -> None:
        """Note that an event was written to the transport."""
        self._written[resumption] = cursor
        self._ask_later()

    def close(self) -> None:
        """Stop, because the stream has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _ask_later(self) -> None:
        if self._timer is None and self._transport is not None:
            self._timer = self._loop.call_later(self._interval, self._ask, self._transport)

    def _ask(self, transport: Transport) -> None:
        self._timer = None
        now = self._loop.time()
        is_old = now >= self._asked_at + self._delay
        if self._asked and is_old and taken(transport) >= self._all_bytes:
            for resumption, cursor in self._asked.items():
                # The kernel still takes bytes when the client already uses another connection.
                resumption.acknowledge(cursor, by_client=False)
            self._asked = {}
        if self._written and not self._asked:
            self._asked, self._written = self._written, {}
            self._asked_at = now
            self._all_bytes = taken(transport) + unread(transport)
        if self._asked:
            self._ask_later()
