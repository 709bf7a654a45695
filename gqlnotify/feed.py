"""One topic that this process listens to: kept whole from a live path that may fail."""

import asyncio
import logging
from collections import deque
from typing import Protocol

from gqlnotify.brokers import Broker
from gqlnotify.errors import BrokerUnavailable, CursorExpired
from gqlnotify.event import Cursor, Event
from gqlnotify.window import Window

WINDOW_SIZE = 256
PAGE_SIZE = 128
RETRY_SECONDS = (0.1, 5.0)

logger = logging.getLogger("gqlnotify.topics")


class Member(Protocol):
    """Who takes events from a feed's window."""

    def wake(self) -> None:
        """Look again: something has changed."""

    async def aclose(self) -> None:
        """Leave."""


class Feed:
    """One topic that this process listens to: its window, and who takes events from it."""

    def __init__(self, topic: str, broker: Broker) -> None:
        self.topic = topic
        self.members: set[Member] = set()
        self.window = Window(Cursor(0, 0), size=WINDOW_SIZE)
        self._broker = broker
        self._changing = asyncio.Lock()
        self._subscribed = False
        self._ready = False
        self._catching_up: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Return once events arrive and the window knows where it stands."""
        async with self._changing:
            if self._ready:
                return
            await self._broker.subscribe(self.topic)
            self._subscribed = True
            # Events between the two lines are either in the head or make the window stale.
            self.window.restart(await self._broker.head(self.topic))
            self._ready = True
            if self.window.stale:
                self._catch_up_soon()

    async def close_if_idle(self) -> None:
        """Stop listening to the topic, unless somebody came in the meantime."""
        async with self._changing:
            if self.members or not self._subscribed:
                return
            self.cancel()
            self._subscribed = self._ready = False
            await self._broker.unsubscribe(self.topic)

    async def read(self, after: Cursor) -> deque[Event]:
        """Return a page of the history, for a member that the window does not reach back to.

        Raises:
            CursorExpired: neither does the history.
            BrokerUnavailable: it can't be asked.
        """
        return deque(await self._broker.read(self.topic, after, PAGE_SIZE))

    def deliver(self, event: Event) -> None:
        """Take an event from the live path."""
        if self.window.offer(event):
            self._wake()
        elif self.window.stale and self._ready:
            self._catch_up_soon()

    def refresh(self) -> None:
        """Look into the history for what the live path has not brought."""
        self.window.stale = True
        self._catch_up_soon()

    def cancel(self) -> None:
        """Stop catching up."""
        if self._catching_up is not None:
            self._catching_up.cancel()

    def _catch_up_soon(self) -> None:
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._catch_up())

    async def _catch_up(self) -> None:
        delay, longest = RETRY_SECONDS
        while self.window.stale:
            try:
                await self._catch_up_page()
            except BrokerUnavailable as error:
                self.window.stale = True
                logger.warning(
                    "No way to catch up on %r, next try in %.1f s: %s", self.topic, delay, error
                )
                await asyncio.sleep(delay)
                delay = min(delay * 2, longest)

    async def _catch_up_page(self) -> None:
        # Cleared before the history is asked: a live event that arrives while the answer is under
        # way, and that the answer may not hold, marks the window stale again.
        self.window.stale = False
        try:
            events = await self.read(self.window.last)
        except CursorExpired:
            logger.warning(
                "A gap in %r: its history no longer reaches back to %s",
                self.topic,
                self.window.last,
            )
            self.window.restart(await self._broker.head(self.topic))
        else:
            self.window.extend(events)
            self.window.stale = self.window.stale or len(events) == PAGE_SIZE
        self._wake()

    def _wake(self) -> None:
        for member in self.members:
            member.wake()
