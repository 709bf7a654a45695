"""Compares functions by their code and the values that they have captured. Pure.

Two subscribers may share filtered events only if their filters always behave the same. Immutable
values are compared by value, and everything else by identity. So a filter that has captured its
viewer, or a mutable value, equals no other filter.
"""

import dis
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache, partial
from sys import getrefcount
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, cast
from uuid import UUID

from typing_extensions import override

_DEEPEST = 8
# The loop's variable and the argument of `getrefcount` itself.
_OWN_REFERENCES = 2


class Same:
    """Compares an object by identity, and keeps it alive so that its id stays unique."""

    __slots__ = ("of",)

    def __init__(self, of: object) -> None:
        self.of = of

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.of is other.of

    @override
    def __hash__(self) -> int:
        return id(self.of)


@dataclass(frozen=True, slots=True)
class _Walk:
    """The path to the current value, and the cells that other code could assign."""

    open_cells: frozenset[int] = frozenset()
    path: tuple[object, ...] = ()

    def deeper(self, value: object) -> "_Walk":
        return _Walk(self.open_cells, (*self.path, value))


_START = _Walk()


def fingerprint(value: object, walk: _Walk = _START) -> Hashable:
    """Return a key that is equal for two values only if they always behave the same."""
    of_kind = _OF_KIND.get(type(value))
    if of_kind is None or len(walk.path) > _DEEPEST:
        return Same(value)
    if isinstance(value, FunctionType) and any(value is seen for seen in walk.path):
        return Same(value)
    return (type(value), of_kind(value, walk.deeper(value)))


def fingerprints_of_functions(*functions: object) -> tuple[Hashable, ...]:
    """Return the fingerprints of functions that may have captured the same variables.

    If other code holds a captured variable's cell too, it may assign the variable at any time.
    Such a cell is compared by identity, not by its current value.
    """
    held = Counter(id(cell) for function in _all(functions) for cell in function.__closure__ or ())
    open_cells = frozenset(
        id(cell)
        for function in _all(functions)
        for cell in function.__closure__ or ()
        if getrefcount(cell) - _OWN_REFERENCES > held[id(cell)]
    )
    walk = _Walk(open_cells)
    return tuple(fingerprint(function, walk) for function in functions)


def _all(functions: Iterable[object]) -> Iterator[FunctionType]:
    """Yield each function among `functions` and what they have captured, once."""
    seen: set[int] = set()
    left = list(functions)
    while left:
        value = left.pop()
        if isinstance(value, partial):
            left += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, MethodType):
            left.append(value.__func__)
        elif type(value) in {tuple, frozenset}:
            left += cast(Iterable[object], value)
        elif isinstance(value, FunctionType) and id(value) not in seen:
            seen.add(id(value))
            yield value
            left += value.__defaults__ or ()
            left += (value.__kwdefaults__ or {}).values()
            left += [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]


def _is_full(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _of_itself(value: Any, _walk: _Walk) -> Hashable:
    return cast(Hashable, value)


def _of_text(value: Any, _walk: _Walk) -> Hashable:
    # By `repr`, because 0.0 equals -0.0.
    return repr(value)


def _of_items(value: Any, walk: _Walk) -> Hashable:
    return tuple(fingerprint(item, walk) for item in value)


def _of_members(value: Any, walk: _Walk) -> Hashable:
    return frozenset(fingerprint(item, walk) for item in value)


def _of_method(value: MethodType, walk: _Walk) -> Hashable:
    return (fingerprint(value.__func__, walk), Same(value.__self__))


def _of_function(function: FunctionType, walk: _Walk) -> Hashable:
    if function.__dict__ or _rebinds(function.__code__):
        return Same(function)
    return (
        function.__code__,
        Same(function.__globals__),
        tuple(_of_cell(cell, walk) for cell in function.__closure__ or ()),
        _of_defaults(function, walk),
    )


def _of_cell(cell: CellType, walk: _Walk) -> Hashable:
    if id(cell) in walk.open_cells:
        return Same(cell)
    try:
        return fingerprint(cell.cell_contents, walk)
    except ValueError:  # the cell is empty, and may be filled at any time
        return Same(cell)


def _of_partial(value: "partial[Any]", walk: _Walk) -> Hashable:
    return (
        fingerprint(value.func, walk),
        fingerprint(value.args, walk),
        tuple((name, fingerprint(item, walk)) for name, item in value.keywords.items()),
    )


_OF_KIND: dict[type, Callable[[Any, _Walk], Hashable]] = {
    **dict.fromkeys((bool, bytes, int, str, type(None), UUID), _of_itself),
    **dict.fromkeys((complex, float, Decimal), _of_text),
    tuple: _of_items,
    frozenset: _of_members,
    FunctionType: _of_function,
    MethodType: _of_method,
    partial: _of_partial,
}


@lru_cache(maxsize=1024)
def _rebinds(code: CodeType) -> bool:
    """Return whether the function assigns a captured variable, and so keeps state."""
    return not _stored(code).isdisjoint(code.co_freevars)


def _stored(code: CodeType) -> set[str]:
    """Return the captured variables that `code`, or a function within it, assigns."""
    stored = {str(x.argval) for x in dis.get_instructions(code) if x.opname == "STORE_DEREF"}
    inner = (_stored(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return stored.union(*inner)


def fingerprint_of_class(class_: type) -> Hashable:
    """Return a key that is equal for classes that one function created from equal values.

    A class that was not created in a function equals only itself.
    """
    if "<locals>" not in class_.__qualname__:
        return Same(class_)
    attributes = (
        (name, _of_attribute(value, class_))
        for name, value in vars(class_).items()
        if name not in {"__dict__", "__weakref__"}
    )
    return (
        type,
        class_.__module__,
        class_.__qualname__,
        tuple(Same(base) for base in class_.__bases__),
        *attributes,
    )


def _of_attribute(value: object, class_: type) -> Hashable:
    if not isinstance(value, FunctionType) or value.__dict__ or _rebinds(value.__code__):
        return fingerprint(value)
    # A method that calls `super()` captures the class itself: skip it to avoid a loop.
    captured = (
        None if _holds(cell, class_) else _of_cell(cell, _START) for cell in value.__closure__ or ()
    )
    return (value.__code__, Same(value.__globals__), _of_defaults(value, _START), *captured)


def _of_defaults(function: FunctionType, walk: _Walk) -> Hashable:
    named = (function.__kwdefaults__ or {}).items()
    return (
        fingerprint(function.__defaults__, walk),
        *((name, fingerprint(value, walk)) for name, value in named),
    )


def _holds(cell: CellType, class_: type) -> bool:
    try:
        return cell.cell_contents is class_
    except ValueError:
        return False
