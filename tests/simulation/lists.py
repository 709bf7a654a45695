"""Clients of live lists, and whether their lists equal the database once it is quiet.

The database has a row for each number that was ever appended to the topic of its room, also if
Redis has lost the event since.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from typing_extensions import override

from tests.simulation.application import UNREADABLE
from tests.simulation.clients import Client
from tests.simulation.determinism import CLOCK
from tests.simulation.history import Appended, Began, Told, Truth, Violation

_NOWHERE = "0-0"


class ListClient(Client):
    """A client that folds a live list. It has no code for gaps."""

    rows: frozenset[int] = frozenset()
    _shown: frozenset[int] = frozenset()
    """The rows of this connection. A snapshot must have them."""

    @override
    async def _fetch(self) -> None:
        """Fetch nothing: the operation begins with a snapshot."""

    @override
    def _began(self, cursor: str) -> None:
        if cursor == _NOWHERE:
            # The server can resume the operation, but the client has no snapshot yet.
            self._armed = True
        else:
            super()._began(cursor)

    @override
    def begin_again(self) -> None:
        known = len(self.log)
        before = self._id
        super().begin_again()
        # That an operation ends excuses nothing here: the next one begins with all rows.
        del self.log[known:]
        if self._id != before:
            self.rows = self._shown = frozenset()
            self.awaits_snapshot = True

    @override
    async def _subscribe(self) -> None:
        # Those who come back share a snapshot that may be older, and get the changes since then.
        self._shown = frozenset()
        await super()._subscribe()

    @override
    def _notice_lost_position(self) -> None:
        """Note nothing: a client without a position gets a snapshot."""

    @override
    def _told(self, *, ends: bool) -> None:
        super()._told(ends=ends)
        self.failures.append(f"{self.name} was told of a gap instead of getting a snapshot")

    @override
    def _next(self, payload: dict[str, Any]) -> None:
        if "errors" in payload:
            super()._next(payload)
            return
        self._hear_of_operation()
        each, extensions = payload["data"]["listed"], payload["extensions"]
        if each["snapshot"] is not None:
            self._restart(each["snapshot"], extensions["cursor"])
        else:
            number = each["change"]["number"]
            self.rows |= {number}
            self._shown |= {number}
            self._got(_payload(number), extensions)

    def _restart(self, numbers: Sequence[int], cursor: str) -> None:
        self._note(f"gets {len(numbers)} rows at {cursor}")
        if self._shown - set(numbers):
            self.failures.append(f"{self.name} got a snapshot without rows that it had")
        self.rows = self._shown = frozenset(numbers)
        self._cursor, self.awaits_snapshot = cursor, False
        self.log += [Told(CLOCK.now, ends=True), Began(cursor, CLOCK.now)]
        self._world.saw("a client got a snapshot")


def rows_of(truth: Truth, name: str) -> list[int]:
    """Return the database's rows of a room."""
    return list(_numbers(truth.of_room(name)))


def broken(clients: Iterable[Client], truth: Truth) -> Iterator[Violation]:
    """Yield how the lists differ from the database. All clients must have caught up."""
    for client in clients:
        if not isinstance(client, ListClient):
            continue
        events = truth.of_room(client.room)
        # No client can learn of an event that a server has lost before it was delivered.
        missing = set(_numbers(event for event in events if not event.lost)) - client.rows
        for number in sorted(missing):
            yield Violation("live lists", f"the list of {client.name} lacks {number}")
        for number in sorted(client.rows - set(_numbers(events))):
            yield Violation("live lists", f"the list of {client.name} has {number}")


def _payload(number: int) -> bytes:
    return json.dumps({"number": number}, separators=(",", ":")).encode()


def _numbers(events: Iterable[Appended]) -> Iterator[int]:
    return (json.loads(event.payload)["number"] for event in events if event.payload != UNREADABLE)
