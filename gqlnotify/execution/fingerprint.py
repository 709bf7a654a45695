"""When two functions are the same: same code, and the same values captured. Pure.

Two subscribers may share what a filter lets through only if their filters can't differ. What is
compared by value is what can never change; everything else is the same only if it is identical. So
a filter that captured its viewer, or something that changes, equals no other one.
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

_DEEPEST = 8
# The loop's variable and the argument of `getrefcount` itself.
_OWN_REFERENCES = 2


class Same:
    """Equal to another one of the very same object, which it keeps alive."""

    __slots__ = ("of",)

    def __init__(self, of: object) -> None:
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.of is other.of

    def __hash__(self) -> int:
        return id(self.of)


@dataclass(frozen=True, slots=True)
class _Walk:
    """How deep one is, and which captured variables somebody else could give another value."""

    open_cells: frozenset[int] = frozenset()
    path: tuple[object, ...] = ()

    def deeper(self, value: object) -> "_Walk":
        return _Walk(self.open_cells, (*self.path, value))


_START = _Walk()


def fingerprint(value: object, walk: _Walk = _START) -> Hashable:
    """Return what is equal for values that are sure to behave alike."""
    of_kind = _OF_KIND.get(type(value))
    if of_kind is None or len(walk.path) > _DEEPEST:
        return Same(value)
    if isinstance(value, FunctionType) and any(value is seen for seen in walk.path):
        return Same(value)
    return (type(value), of_kind(value, walk.deeper(value)))


def fingerprint_of_functions(*functions: object) -> Hashable:
    """Return the same for functions that may have captured variables together.

    What somebody else has captured too may be given another value at any time. Such a variable is
    the same only if it is the very same one, whatever its value is at present.
    """
    held = Counter(id(cell) for function in _all(functions) for cell in function.__closure__ or ())
    open_cells = frozenset(
        id(cell)
        for function in _all(functions)
        for cell in function.__closure__ or ()
        if getrefcount(cell) - _OWN_REFERENCES > held[id(cell)]
    )
    return fingerprint(functions, _Walk(open_cells))


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
        cell.cell_contents  # noqa: B018 - asking is what tells
    except ValueError:
        return False
    return True


def _of_itself(value: Any, _walk: _Walk) -> Hashable:
    return cast(Hashable, value)


def _of_text(value: Any, _walk: _Walk) -> Hashable:
    # 0.0 equals -0.0.
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
    except ValueError:  # it is empty, and may be filled at any time
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
    """Tell whether the function counts, or keeps something else, from one call to the next."""
    return not _stored(code).isdisjoint(code.co_freevars)


def _stored(code: CodeType) -> set[str]:
    """Return the captured variables that `code`, or a function within it, assigns."""
    stored = {str(x.argval) for x in dis.get_instructions(code) if x.opname == "STORE_DEREF"}
    inner = (_stored(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return stored.union(*inner)


def fingerprint_of_class(class_: type) -> Hashable:
    """Return what is equal for classes that the same function made out of the same values.

    A class that is no function's local is only equal to itself.
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
    # A method that says `super()` captures the class that is just being looked at.
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
