"""Spreads the handshakes of clients that connect at the same time over turns of the event loop.

When a process restarts, all of its clients come back at once, and each of them costs milliseconds.
An event needs some fifteen turns of the loop on its way: the mutation, the database, the broker and
the fan-out. If each turn had the work of one more client that connects, those who are already
connected would get events late.
"""

import asyncio
from collections import deque
from contextvars import Context
from time import thread_time

from gqlnotify.event_loop import OnePerLoop

TURNS_FOR_OTHERS = 4
"""How many turns the loop has between two handshakes.

With 2, events were late again. With 16, it took much longer until all were connected.
"""
SECONDS_FOR_OTHERS = 0.01
"""After how much CPU time the next handshake begins, even if there were fewer turns.

Connecting a client takes about half of it. So it gets half of the time if the others need more.
"""


class HandshakeQueue(OnePerLoop):
    """Lets the handshakes of one event loop continue one by one, in the order of their arrival.

    A handshake that comes alone does not wait. A turn in which the loop has nothing to do takes
    about a microsecond, so the queue leaves no time unused.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turns_left = 0
        self._next_at = 0.0

    def __len__(self) -> int:
        """Return how many handshakes wait."""
        return len(self._waiting)

    async def turn(self) -> None:
        """Wait until the work for one more client may begin."""
        if not self._turns_left:
            self._leave_turns()
            return
        begins = asyncio.get_running_loop().create_future()
        self._waiting.append(begins)
        await begins

    def _leave_turns(self) -> None:
        self._turns_left = TURNS_FOR_OTHERS
        # Not the time of the clock: on a busy machine, this process may have had little of it.
        self._next_at = thread_time() + SECONDS_FOR_OTHERS
        self._count_soon()

    def _count_soon(self) -> None:
        # In an empty context, which does not keep the one of this handshake alive.
        asyncio.get_running_loop().call_soon(self._count, context=Context())

    def _count(self) -> None:
        self._turns_left -= 1
        if self._turns_left and thread_time() < self._next_at:
            self._count_soon()
            return
        self._turns_left = 0
        if self._begin_next():
            self._leave_turns()

    def _begin_next(self) -> bool:
        while self._waiting:
            begins = self._waiting.popleft()
            # Cancelled if the server stops meanwhile.
            if not begins.done():
                begins.set_result(None)
                return True
        return False
