"""What a subscription has sent, whatever carries it."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Failure(Exception):
    """The server breaks a rule."""

    def __init__(self, expected: str, seen: object) -> None:
        super().__init__(expected)
        self.expected = expected
        self.seen = seen if isinstance(seen, str) else repr(seen)


class Skip(Exception):
    """The check can't be made on this server. The text says why."""


def expect(condition: object, expected: str, seen: object) -> None:
    """Raise a `Failure` unless `condition` is true."""
    if not condition:
        raise Failure(expected, seen)


def same(seen: object, expected: object, what: str) -> None:
    """Raise a `Failure` unless both are equal."""
    expect(seen == expected, f"{what}: {expected}", seen)


@contextlib.asynccontextmanager
async def within(seconds: float, expected: str, seen: object = "nothing") -> Any:
    """Turn a timeout into a `Failure`. A function as `seen` is called at the end."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        told = seen() if callable(seen) else seen
        raise Failure(f"{expected}, within {seconds:g} s", told) from None


@dataclass(frozen=True)
class Result:
    """One result of a subscription."""

    payload: Mapping[str, Any]

    @property
    def values(self) -> list[str]:
        """All texts in its data. One of them is what was published."""
        return list(_texts(self.payload.get("data")))

    @property
    def extensions(self) -> Mapping[str, Any]:
        """Its extensions."""
        return self.payload.get("extensions") or {}

    @property
    def cursor(self) -> Any:
        """Its cursor, of whatever type."""
        return self.extensions.get("cursor")

    @property
    def is_marked(self) -> bool:
        """Whether the client may have received it before."""
        return self.extensions.get("redelivered") is True

    @property
    def codes(self) -> list[Any]:
        """The codes of its errors."""
        return codes_of(self.payload.get("errors") or [])


class Results:
    """The results of one subscription, in the order in which they arrived."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.all: list[Result] = []
        self.errors: Sequence[Mapping[str, Any]] = ()
        self.has_ended = False
        self._taken = 0
        self._changed = asyncio.Event()

    def push(self, payload: Any) -> None:
        """Note a result."""
        self.all.append(Result(payload if isinstance(payload, dict) else {}))
        self._changed.set()

    def end(self, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        """Note that the subscription has ended."""
        self.has_ended, self.errors = True, errors
        self._changed.set()

    async def next(self, what: str = "a result") -> Result:
        """Return the next result."""
        async with within(self.patience, what, self._told):
            while self._taken == len(self.all):
                if self.has_ended:
                    raise Failure(what, f"the subscription has ended: {self._told()}")
                self._changed.clear()
                await self._changed.wait()
        self._taken += 1
        return self.all[self._taken - 1]

    async def until(self, value: str) -> list[Result]:
        """Return the next results, up to and with that of the event `value`."""
        found: list[Result] = []
        while not found or value not in found[-1].values:
            found.append(await self.next(f"the event {value}"))
        return found

    async def ended(self, what: str) -> list[Any]:
        """Wait for the end, and return the codes of the errors that came with or before it."""
        async with within(self.patience, what, self._told):
            while not self.has_ended:
                self._changed.clear()
                await self._changed.wait()
        return codes_of(self.errors) + [code for each in self.all for code in each.codes]

    def _told(self) -> str:
        last = [dict(each.payload) for each in self.all[-3:]]
        return f"{len(self.all)} results, the last of them {last}, errors {list(self.errors)}"


def codes_of(errors: Sequence[Any]) -> list[Any]:
    """Return the codes of GraphQL errors."""
    extensions = [each.get("extensions") or {} for each in errors if isinstance(each, dict)]
    return [each.get("code") for each in extensions]


def _texts(data: Any) -> Iterator[str]:
    match data:
        case str():
            yield data
        case dict():
            for each in data.values():
                yield from _texts(each)
        case list():
            for each in data:
                yield from _texts(each)
