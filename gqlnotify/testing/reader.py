"""Readers of an operation under `chaos`, and what they should have received."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gqlnotify.event import Cursor
from gqlnotify.testing.client import Client
from gqlnotify.testing.errors import OperationFailed
from gqlnotify.testing.stream import Result, Stream

# The roles of readers.
CONTROL = "was not disturbed"
BY_ITSELF = "comes back without a cursor"
WITH_CURSORS = "comes back with its cursor"
QUITTER = "completes"
_UNDISTURBED = {CONTROL, QUITTER}


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """A subscription that `chaos` runs.

    Attributes:
        document: the GraphQL document.
        cause: makes the n-th event. Different numbers must make different events.
        variables: the document's variables.
        resume: returns the variables with which a client goes on after a result, if the
            application has cursors of its own.
        owner: returns the subject that alone may get this data, or None if everybody may.
        name: the name in the report; by default the first field.
    """

    document: str
    cause: Callable[[int], Awaitable[object]]
    variables: Mapping[str, Any] = field(default_factory=dict)
    resume: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
    owner: Callable[[dict[str, Any]], str | None] | None = None
    name: str = ""

    @property
    def title(self) -> str:
        """The name in the report."""
        field_of_the_root = re.search(r"\{\s*(\w+)", self.document)
        return self.name or (field_of_the_root[1] if field_of_the_root else self.document)


@dataclass(frozen=True)
class Viewer:
    """Who reads: a token and its subject. Both are None without tokens."""

    token: str | None = None
    subject: str | None = None


class Truth:
    """The events of one operation for one viewer: what clients got whose lines were never cut."""

    def __init__(self) -> None:
        self.turns: dict[str, int] = {}
        """In which turn each event came first. A turn begins when events are caused."""
        self.results: dict[str, Result] = {}
        self.rate = 0.0
        """How many results one cause makes."""
        self.error: OperationFailed | None = None
        """Why this viewer can't read at all."""
        self.is_armed = False
        """Whether the server resumes the operation without a cursor."""

    def note(self, key: str, result: Result, turn: int) -> None:
        """Note that a reader has got an event."""
        self.turns.setdefault(key, turn)
        self.results.setdefault(key, result)

    def since(self, turn: int) -> list[str]:
        """Return the events of this and later turns."""
        return [key for key, came in self.turns.items() if came >= turn]


class Reader:
    """One subscription of one client.

    Attributes:
        role: how the client comes back after a cut, or what else it does.
        errors: what the server answered instead of results.
        joined: the turn since which it should get everything; None until its first event, because
            a resolver may need a while to begin.
    """

    def __init__(
        self, operation: Operation, viewer: Viewer, truth: Truth, client: Client, role: str
    ) -> None:
        self.operation = operation
        self.viewer = viewer
        self.truth = truth
        self.client = client
        self.role = role
        self.errors: list[OperationFailed] = []
        self.joined: int | None = None
        self.is_attached = True
        self.repeated: list[str] = []
        self.late: list[str] = []
        self.last: Result | None = None
        self._got: set[str] = set()
        self._conflated = 0
        self._newest: Cursor | None = None
        self._stream: Stream | None = None

    async def join(self) -> None:
        """Subscribe."""
        operation = self.operation
        self._stream = await self.client.subscribe(operation.document, operation.variables)
        # Some subscriptions begin with the current state, which is no event.
        self._take()

    @property
    def is_armed(self) -> bool:
        """Whether the server says that the client can come back without a cursor."""
        return self._stream is not None and self._stream.is_armed

    async def stop(self) -> None:
        """Complete the operation."""
        self.is_attached = False
        if self._stream is not None:
            await self._stream.stop()

    async def come_back(self, turn: int) -> None:
        """Reconnect, in the way of this reader's role."""
        resume = self.operation.resume
        if self.role == WITH_CURSORS and self.last is None:
            # Without a cursor, it begins with the next event.
            self.joined = turn + 1
        if resume is not None and self.last is not None and self._stream is not None:
            self._stream.variables.update(resume(self.last.data))
        await self.client.reconnect(with_cursors=self.role == WITH_CURSORS and resume is None)
        self.is_attached = True

    def collect(self, turn: int) -> list[Result]:
        """Take what has arrived."""
        taken = self._take()
        for result in taken:
            self._note(result, turn)
        return taken

    def missing(self) -> list[str]:
        """Return the events that it should have got and has not."""
        if self.joined is None:
            return []
        missing = [key for key in self.truth.since(self.joined) if key not in self._got]
        # A topic with `latest_by` leaves out events for clients that lag, and says how many.
        return missing if len(missing) > self._conflated else []

    def _take(self) -> list[Result]:
        taken: list[Result] = []
        while self._stream is not None:
            try:
                result = self._stream.now()
            except OperationFailed as error:
                self.errors.append(error)
                continue
            if result is None:
                break
            taken.append(result)
            self.last = result
        return taken

    def _note(self, result: Result, turn: int) -> None:
        if self.joined is None:
            self.joined = turn + 1
        key = self._key_of(result)
        if self.role in _UNDISTURBED:
            self.truth.note(key, result, turn)
        self._conflated += result.conflated
        if key in self._got and not result.redelivered and self._has_keys(result):
            self.repeated.append(key)
        if key not in self._got and self._is_late(result):
            self.late.append(key)
        self._got.add(key)

    def _key_of(self, result: Result) -> str:
        resume = self.operation.resume
        data = result.data if resume is None else resume(result.data)
        return result.cursor or json.dumps(data, sort_keys=True, default=str)

    def _has_keys(self, result: Result) -> bool:
        """Whether results of this kind tell which event they are."""
        return result.cursor is not None or self.operation.resume is not None

    def _is_late(self, result: Result) -> bool:
        """Whether a later event came before. Only a cursor tells."""
        before = self._newest
        if result.cursor is None:
            return False
        cursor = Cursor.parse(result.cursor)
        self._newest = cursor if before is None else max(before, cursor)
        return before is not None and cursor < before
