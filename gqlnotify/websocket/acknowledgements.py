"""What the client of one socket has received, so that it can resume without a cursor.

The server sends a ping with the cursors of the operations, after their events. A client answers
messages in order, so its pong acknowledges the events before the ping.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress

from typing_extensions import override

from gqlnotify.event import Cursor
from gqlnotify.event_loop import Rounds, Visited
from gqlnotify.protocol.connection import ServerConnection
from gqlnotify.protocol.messages import Subscribe
from gqlnotify.topics.resumption import Resumption
from gqlnotify.websocket.connection import Connection
from gqlnotify.websocket.shared_operation import SharedOperation


class Acknowledgements(Visited):
    """The operations of one connection that their client may resume.

    Args:
        connection: sends the pings.
        protocol: builds the pings, and knows which were answered.
        running: the running operations by id. Those that are members of a group are asked.
        interval: how often a client gets such a ping at most, in seconds.
    """

    __slots__ = (
        *("_answered", "_asked_in", "_asks_soon", "_connection", "_is_due", "_protocol"),
        *("_resumptions", "_rounds", "_running"),
    )

    def __init__(
        self,
        connection: Connection,
        protocol: ServerConnection,
        running: Mapping[str, object],
        *,
        interval: float,
    ) -> None:
        self._connection = connection
        self._protocol = protocol
        self._running = running
        self._resumptions: dict[str, Resumption] = {}
        self._rounds = Rounds.of(asyncio.get_running_loop())
        self._rounds.at_least_every(interval)
        self._asked_in = 0
        self._asks_soon = False
        self._is_due = False
        self._answered: asyncio.Future[None] | None = None

    def begin(self, operation: Subscribe, subject: str | None) -> Resumption | None:
        """Return what lets the client resume `operation`; None if its id can't identify it."""
        if subject is None:
            return None
        identity = (
            operation.query,
            operation.document_id,
            operation.operation_name,
            operation.variables or {},
        )
        # A client uses an id again only once it knows that the earlier operation is over.
        self.drop(operation.id)
        resumption = Resumption.of(subject, operation.id, identity, self._announce)
        if resumption is not None:
            self._resumptions[operation.id] = resumption
        return resumption

    def look(self) -> None:
        """Ask the client soon, because something was sent."""
        # Once for each round: a replay calls this for each event.
        if self._resumptions and not self._asks_soon:
            self._asks_soon = True
            self._rounds.add(self)

    @override
    def on_round(self) -> Iterable[Visited]:
        self._asks_soon = False
        # Each group of the client's operations comes by here, and one look is for all of them.
        if self._asked_in != self._rounds.number:
            self._asked_in = self._rounds.number
            self.ask()
        return ()

    def ask(self) -> None:
        """Ask for what was sent since the last time, or later if the client owes an answer."""
        news = self._news()
        self._is_due = bool(news) and self._protocol.awaits_pong
        if news and not self._is_due:
            self._ping(news)

    def cursors(self) -> Mapping[str, Cursor] | None:
        """Return the cursors for a ping that is sent anyway; None if nothing can be resumed."""
        return self._news() if self._resumptions else None

    def acknowledge(self, cursors: Mapping[str, Cursor]) -> None:
        """Note that the client has received the events up to these cursors."""
        for id_, cursor in cursors.items():
            resumption = self._resumptions.get(id_)
            if resumption is not None:
                resumption.acknowledge(cursor)
                self._forget_if_over(resumption)
        if self._is_due:
            self._rounds.add(self)
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def conclude(self, id_: str) -> Resumption | None:
        """Note that the server ends the operation with this id, and is about to tell the client.

        Returns what to pass to `told` afterwards.
        """
        resumption = self._resumptions.get(id_)
        if resumption is not None:
            resumption.conclude()
            self._forget_if_over(resumption)
        return resumption

    def told(self, resumption: Resumption) -> None:
        """Note that the client was told that its operation is over. It may not receive that."""
        # Meanwhile the client may have used the id again, or the connection may have ended.
        if self._resumptions.get(resumption.id) is resumption:
            self._announce(resumption)

    def drop(self, id_: str) -> None:
        """Note that the operation is over: there is nothing to resume."""
        resumption = self._resumptions.pop(id_, None)
        if resumption is not None:
            resumption.drop()

    def settle(self, operation: SharedOperation) -> None:
        """Note how far `operation` has got, before it leaves its group."""
        resumption = self._resumptions.get(operation.id)
        if resumption is not None:
            operation.settle(resumption.progress)

    def find(self, id_: str) -> Resumption | None:
        """Return what lets the client resume the operation with this id."""
        return self._resumptions.get(id_)

    def end(self) -> None:
        """Note that the connection has ended: its client may come back."""
        self._rounds.discard(self)
        resumptions, self._resumptions = self._resumptions, {}
        for resumption in resumptions.values():
            resumption.end()

    async def hand_over(self, seconds: float) -> None:
        """End, but wait for `seconds` at most until the client has answered and that is saved.

        The deliveries must have stopped. If the client answers, another process continues without
        repeating anything.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while news := self._news():
                    self._answered = asyncio.get_running_loop().create_future()
                    self._ping(news)
                    await self._answered
        keepers = {each.keeper for each in self._resumptions.values() if each.keeper is not None}
        self.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for keeper in keepers:
                    await keeper.flush()

    def _news(self) -> dict[str, Cursor]:
        """Return the cursors that the client has not acknowledged."""
        news = {}
        for id_, resumption in self._resumptions.items():
            self._report(resumption)
            if not resumption.runs:
                continue
            reached = resumption.progress.reached
            if not resumption.awaits_acknowledgement:
                resumption.skip()
            elif reached > resumption.acknowledged:
                news[id_] = reached
        return news

    def _forget_if_over(self, resumption: Resumption) -> None:
        if resumption.is_over:
            del self._resumptions[resumption.id]

    def _report(self, resumption: Resumption) -> None:
        running = self._running.get(resumption.id)
        if isinstance(running, SharedOperation):
            running.report(resumption.progress)

    def _announce(self, resumption: Resumption) -> None:
        # The client's answer shows that it uses this connection.
        if self._resumptions.get(resumption.id) is resumption:
            self._report(resumption)
            reached = max(resumption.progress.reached, resumption.acknowledged)
            self._ping({resumption.id: reached})

    def _ping(self, cursors: Mapping[str, Cursor]) -> None:
        for command in self._protocol.ping(cursors):
            self._connection.send_now(command.message)
