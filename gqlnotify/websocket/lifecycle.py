"""What every kind of socket does from its first to its last message, whatever it speaks."""

import asyncio
import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

from starlette.websockets import WebSocket
from typing_extensions import override

from gqlnotify.connections.access import Access
from gqlnotify.connections.report import Described, Facts
from gqlnotify.errors import ConnectionClosed, Disconnected, PeerSilent, TooManyMessages, TooSlow
from gqlnotify.observability import metrics, trace
from gqlnotify.rate import Rate
from gqlnotify.topics.manager import TopicManager
from gqlnotify.topics.reading import Audience, Peer
from gqlnotify.websocket.connection import Connection
from gqlnotify.websocket.session import Session

logger = logging.getLogger("gqlnotify.transports")


class Lifecycle(Described, Audience):
    """Counts a socket, reads its messages, and cleans up. A subclass gives the messages a meaning.

    Args:
        access: decides who may connect, and counts the connections.
        websocket: the socket, accepted before `handle` is called.
        encode: encodes messages that are not encoded yet.
    """

    transport: ClassVar[str]
    """What the console calls this kind of socket."""

    internal_error: ClassVar[int]
    """The code that the socket closes with if the application or the library fails."""

    def __init__(
        self,
        access: Access,
        websocket: WebSocket,
        encode: Callable[[object], str | bytes] = json.dumps,
    ) -> None:
        settings = access.settings
        self._access = access
        self._reading = False
        self._connection = Connection(websocket, encode, settings, on_slow=self._too_slow)
        counted = self._connection.limit_frames()
        self._rate = None if counted else Rate(settings.message_rate, settings.message_burst)
        self._session = Session(access, self._connection, self._token_ended)

    @abstractmethod
    async def _received(self, message: str | bytes) -> None:
        """Handle one message of the client."""

    @abstractmethod
    def _close_soon(self, closed: ConnectionClosed) -> None:
        """Close without waiting for it. The client's messages count no more from now on."""

    @abstractmethod
    async def _fail(self, closed: ConnectionClosed) -> None:
        """Close, and return once the close frame is sent."""

    @abstractmethod
    def _heard(self) -> None:
        """Note that the client has sent something."""

    @abstractmethod
    def _stop(self) -> None:
        """Stop the work and the timers of the subclass, because the socket has ended."""

    @abstractmethod
    def _drain(self) -> None:
        """Begin to close, because the server is about to stop."""

    @abstractmethod
    def _token_ended(self, closed: ConnectionClosed) -> None:
        """Close, because the token has expired or was revoked."""

    @abstractmethod
    def _may_detach(self) -> bool:
        """Return whether `handle` may return before the socket has ended."""

    def _begin(self) -> None:
        """Begin the work that does not wait for a message. The socket is open and counted."""

    async def handle(self) -> None:
        """Serve until either side closes, then clean up.

        If the connection can be detached, this returns early and the server keeps it open.
        """
        self._connection.on_drain(self._drain)
        self._connection.open()
        metrics.watch(self)
        try:
            self._access.connection_limits.enter()
        except ConnectionClosed as full:
            await self._fail(full)
            await self._cleanup()
            return
        self._begin()
        if self._may_detach() and self._connection.detach(self._on_message, self._finish):
            return
        self._connection.spawn(self._read(lambda: True))
        try:
            await self._connection.ended()
        finally:
            await self._finish()

    async def _finish(self) -> None:
        try:
            await self._cleanup()
        finally:
            # After the cleanup, because an admission that still runs may start the watch.
            self._session.end()
            self._access.connection_limits.leave()

    async def _cleanup(self) -> None:
        metrics.unwatch(self)
        self._stop()
        await self._connection.clean_up()
        self._cut_cycles()

    def _cut_cycles(self) -> None:
        """Drop what leads back to this object, so that it is freed without the garbage collector.

        The tasks and timers have ended, so nothing is called back any more.
        """
        self._connection.forget_callbacks()
        self._session.forget_callbacks()

    @override
    def load(self) -> metrics.Load:
        yield metrics.connections, 1
        yield metrics.held_bytes, self._connection.held

    @override
    def peers(self) -> Iterator[Peer]:
        connection = self._connection
        yield Peer(connection.id, connection.subject, connection.held)

    @property
    @override
    def topics(self) -> TopicManager | None:
        return self._access.topics

    @property
    @override
    def id(self) -> str:
        return self._connection.log.id

    @property
    @override
    def since(self) -> float:
        return self._connection.log.since

    @property
    @override
    def names(self) -> str:
        return f"{self.id} {self._session.subject or ''} {self._connection.log.address}"

    @override
    def describe(self) -> Facts:
        viewer = self._session.viewer
        return {
            "id": self.id,
            "subject": self._session.subject,
            "tokenId": None if viewer is None else viewer.principal.token_id,
            "address": self._connection.log.address,
            "transport": self.transport,
            "since": self.since,
            "heldBytes": self._connection.held,
            "operations": self._describe_operations(),
        }

    @abstractmethod
    def _describe_operations(self) -> list[Facts]:
        """Return what is known about the operations of the socket."""

    @override
    def disconnect(self) -> None:
        self._close_soon(Disconnected("An operator has ended this connection"))

    def _on_message(self) -> None:
        # uvicorn reports the end twice, and after the end there is nothing to read.
        if not self._reading and not self._connection.is_over:
            self._reading = True
            self._connection.spawn(self._read(self._connection.readable))

    async def _read(self, there_is_more: Callable[[], bool]) -> None:
        try:
            # Continue while a close frame is being sent: returning would abort it.
            while there_is_more():
                await self._connection.room()
                message = await self._connection.receive()
                if message is None:
                    self._connection.end()
                    return
                self._heard()
                if self._is_too_fast():
                    await self._fail(TooManyMessages("Too many messages"))
                else:
                    await self._received(message)
        except Exception:
            logger.exception("A connection failed")
            await self._fail(ConnectionClosed("Internal server error", code=self.internal_error))
            self._connection.end()
        finally:
            self._reading = False

    def _is_too_fast(self) -> bool:
        now = asyncio.get_running_loop().time()
        return self._rate is not None and not self._rate.allows(now)

    def _note(self, kind: trace.Kind, *, code: str | None = None, text: str = "") -> None:
        connection = self._connection
        trace.note(kind, subject=connection.subject, connection=connection.id, code=code, text=text)

    def _too_slow(self) -> None:
        self._note(trace.Kind.TOO_SLOW, text=f"{self._connection.held} bytes waited")
        self._close_soon(TooSlow("Nothing was read for too long"))

    def _peer_is_dead(self) -> None:
        self._note(trace.Kind.PEER_SILENT)
        self._close_soon(PeerSilent("No pong in time"))
