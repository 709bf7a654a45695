"""The live path: Pub/Sub, with one connection to each server that has topics of this process."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from gqlnotify.backoff import Backoff
from gqlnotify.brokers.redis.connection import Line
from gqlnotify.brokers.redis.topology import TROUBLE, Servers, is_trouble

_RETRY_SECONDS = (0.05, 2.0)

logger = logging.getLogger("gqlnotify.brokers")


class LivePath:
    """The channels that this process listens to, each on the line to its server.

    Args:
        servers: The servers to connect to.
        timeout: Seconds after which a silent server counts as lost.
        on_message: Called with the channel and the data of each message.
        on_confirmed: Called with a channel when its messages begin to arrive. Earlier ones may
            have been lost.
    """

    def __init__(
        self,
        servers: Servers,
        timeout: float,
        *,
        on_message: Callable[[str, bytes], None],
        on_confirmed: Callable[[str], None],
    ) -> None:
        self._servers = servers
        self._timeout = timeout
        self._on_message = on_message
        self._on_confirmed = on_confirmed
        self._wanted: dict[str, asyncio.Event] = {}
        self._lines: dict[str, Line] = {}
        self._routing: asyncio.Task[None] | None = None
        self._unsettled = False
        self._closed = False
        servers.on_renewed = self.reconnect

    @property
    def channels(self) -> Sequence[str]:
        """The channels that are subscribed to, or will be."""
        return list(self._wanted)

    @property
    def connected(self) -> bool:
        """Whether every line is up."""
        return all(line.connected for line in self._lines.values())

    async def subscribe(self, channel: str) -> None:
        """Return when the server has confirmed. While it can't be reached, this waits."""
        confirmed = self._wanted.get(channel)
        if confirmed is None:
            confirmed = self._wanted[channel] = asyncio.Event()
            self._route_or_retry(channel)
            if any(channel in line.confirmed for line in self._lines.values()):
                # The channel was unsubscribed from a moment ago, and the line has not sent the
                # command yet. It will not send it now, so no new confirmation will come.
                confirmed.set()
        await confirmed.wait()

    def unsubscribe(self, channel: str) -> None:
        """Stop listening to the channel."""
        self._wanted.pop(channel, None)
        for line in self._lines.values():
            line.remove(channel)

    def reconnect(self) -> None:
        """Replace the connection of every line, as `Line.reconnect` does."""
        for line in self._lines.values():
            line.reconnect()

    async def aclose(self) -> None:
        """Close every connection for good."""
        self._closed = True
        self._wanted.clear()
        if self._routing is not None:
            self._routing.cancel()
        for line in list(self._lines.values()):
            await line.aclose()
        self._lines.clear()

    def received(self, channel: str, data: bytes) -> None:
        """Take a message from a line."""
        if channel in self._wanted:
            self._on_message(channel, data)

    def confirmed(self, channel: str) -> None:
        """Take note that the messages of the channel arrive on a line from now on."""
        event = self._wanted.get(channel)
        if event is not None:
            event.set()
            self._on_confirmed(channel)

    def unsettled(self) -> None:
        """Find the server of each channel again, because a line was lost or a channel moved."""
        # A line may fail in the tick in which `aclose` cancels it.
        if self._closed:
            return
        self._unsettled = True
        if self._routing is None or self._routing.done():
            self._routing = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        backoff = Backoff(*_RETRY_SECONDS)
        while self._unsettled:
            self._unsettled = False
            delay = backoff.next()
            try:
                await self._servers.refresh()
                for channel in self.channels:
                    self._route(channel)
                await self._drop_idle_lines()
            except Exception as error:
                logger.warning(
                    "Can't find out which server has which topic, next try in %.2f s: %s",
                    delay,
                    error,
                    exc_info=not is_trouble(error),
                )
                self._unsettled = True
            # Also after a success: other nodes of the cluster learn of a moved slot with a delay,
            # so the answer may have been outdated.
            await asyncio.sleep(delay)

    def _route_or_retry(self, channel: str) -> None:
        try:
            self._route(channel)
        except TROUBLE:
            self.unsettled()

    def _route(self, channel: str) -> None:
        name = self._servers.home(channel)
        for other, line in self._lines.items():
            if other != name:
                line.remove(channel)
        self._line(name).add(channel)

    def _line(self, name: str) -> Line:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = Line(self._servers, name, self, self._timeout)
        return line

    async def _drop_idle_lines(self) -> None:
        for name, line in list(self._lines.items()):
            if not line.channels:
                del self._lines[name]
                await line.aclose()
