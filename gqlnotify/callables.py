"""Functions of an application that are called without `await`.

A coroutine is truthy: a filter that returned one would let everything through.
"""

from collections.abc import Callable
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any

from gqlnotify.errors import InternalError


def require_plain(function: Callable[..., Any] | None, name: str) -> None:
    """Refuse a function whose result would have to be awaited or iterated.

    Raises:
        InternalError: `function` is one of `async def`, or a generator function.
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
    """Return `made`, which the function of that name has returned.

    Raises:
        InternalError: it has to be awaited or iterated first.
    """
    kind = type(made)
    if not (hasattr(kind, "__await__") or hasattr(kind, "__anext__")):
        return made
    # A coroutine that is never awaited and not closed would be one more warning.
    discard = getattr(made, "close", None) or getattr(made, "cancel", None)
    if discard is not None:
        discard()
    raise InternalError(f"{name} returned {kind.__name__}, and nothing awaits it here: {_HINT}")


_HINT = "await what it needs before you subscribe, or in a generator of your own"
