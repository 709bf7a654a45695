"""Checks the functions of an application that are called without `await`.

A coroutine is truthy, so a filter that returns one would let every event through.
"""

from collections.abc import Callable
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any

from gqlnotify.errors import InternalError


def require_plain(function: Callable[..., Any] | None, name: str) -> None:
    """Refuse a function that returns a coroutine or a generator. `name` is for the error's text.

    Raises:
        InternalError: `function` is an `async def` or a generator function.
    """
    while isinstance(function, partial):
        function = function.func
    if function is None:
        return
    if _returns_no_result(function) or _returns_no_result(type(function).__call__):
        raise InternalError(f"{name} must be a plain function that returns its result: {_HINT}")


def _returns_no_result(function: Callable[..., Any]) -> bool:
    kinds = (iscoroutinefunction, isasyncgenfunction, isgeneratorfunction)
    return any(is_kind(function) for is_kind in kinds)


def plain_result(made: Any, name: str) -> Any:
    """Return `made`, the result of the application's function `name`.

    Raises:
        InternalError: `made` is a coroutine, another awaitable, or an asynchronous iterator.
    """
    kind = type(made)
    if not (hasattr(kind, "__await__") or hasattr(kind, "__anext__")):
        return made
    # Python warns of a coroutine that was neither awaited nor closed.
    discard = getattr(made, "close", None) or getattr(made, "cancel", None)
    if discard is not None:
        discard()
    raise InternalError(f"{name} returned a {kind.__name__}, which is not awaited: {_HINT}")


_HINT = "await what it needs before you subscribe, or in a generator of your own"
