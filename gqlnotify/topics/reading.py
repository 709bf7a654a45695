"""Who reads which topic, and how far: what a process says about its subscriptions when asked."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

from gqlnotify.event import Cursor
from gqlnotify.topics.projection import Projection

_MAX_SCOPE = 80


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads with a subscriber of its own.

    Attributes:
        subject: The subject of the viewer; None if there is no viewer.
        connection: The id of the connection; None if it is not known.
        began: The position after which the subscription began.
        projection: What the subscription does with each event.
        scope: What it shares its executions within.
    """

    subject: str | None
    connection: str | None
    began: Cursor
    projection: Projection
    scope: Hashable


@dataclass(frozen=True, slots=True)
class Reading:
    """One running subscription, and how far it has got.

    Attributes:
        reader: Who reads.
        reached: Every event up to here has been passed to the connection, or filtered out.
        is_shared: Whether it is a member of a group now.
        acknowledged: What the client has confirmed; None if it is not asked.
        operation: The id of the operation; None if it is not known.
    """

    reader: Reader
    reached: Cursor
    is_shared: bool = False
    acknowledged: Cursor | None = None
    operation: str | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """An open connection.

    Attributes:
        connection: Its id.
        subject: The subject of its viewer; None if there is no viewer.
        held: How many bytes wait to be read by the client.
    """

    connection: str
    subject: str | None
    held: int


class Audience:
    """An object that has connections, subscriptions or both. By default it has none."""

    __slots__ = ()

    def peers(self) -> Iterator[Peer]:
        """Yield the open connections."""
        yield from ()

    def readings(self) -> Iterator[Reading]:
        """Yield the running subscriptions."""
        yield from ()

    def follow(self) -> None:
        """Begin to tell the steps of the deliveries that a trace follows.

        An object that looks by itself whether a trace follows has nothing to do.
        """


def place_of(function: Callable[..., Any] | None) -> str | None:
    """Return the name of a filter and its place in the code; None if there is no filter."""
    while isinstance(function, partial | MethodType):
        function = function.func if isinstance(function, partial) else function.__func__
    if function is None:
        return None
    if not isinstance(function, FunctionType):
        return type(function).__qualname__
    return _place_in(function.__code__, function.__qualname__)


# Each subscription with a filter asks for it.
@lru_cache(maxsize=1024)
def _place_in(code: CodeType, qualified_name: str) -> str:
    file = "/".join(Path(code.co_filename).parts[-2:])
    name = qualified_name.replace(".<locals>", "")
    return f"{name} ({file}:{code.co_firstlineno})"


def told_scope(scope: Hashable) -> str | None:
    """Return a scope as a short text; None if there is none."""
    return None if scope is None else repr(scope)[:_MAX_SCOPE]


def decides_by_scope(projection: Projection, scope: Hashable) -> bool:
    """Return whether the filter has captured the scope, and nothing else."""
    cells = getattr(projection.where, "__closure__", None) or ()
    return scope is not None and bool(cells) and all(_holds(cell, scope) for cell in cells)


def _holds(cell: Any, value: object) -> bool:
    try:
        return bool(cell.cell_contents == value)
    except ValueError:
        return False
