"""Finds where a decoded value differs from the published one, in value or type. Pure."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel

_ATOMS = {str, int, float, bool, type(None), bytes, date, timedelta, Decimal, UUID}


class Difference(NamedTuple):
    """The first place where two values differ. `published` and `read` name the types there."""

    path: tuple[object, ...]
    published: str
    read: str


Compare = Callable[[Any, Any], Difference | None]


def difference(published: Any, read: Any) -> Difference | None:
    """Return where `read` differs from what was `published`, or None if it does not differ."""
    if published is read:
        return None
    kind: Any = type(published)
    if kind is not type(read):
        # "When an argument is annotated as having type float, an argument of type int is
        # acceptable" (PEP 484). If they are equal, nothing is lost.
        if kind is int and type(read) is float and published == read:
            return None
        return Difference((), kind.__name__, type(read).__name__)
    if kind in _ATOMS:
        return _unless(published == read, published)
    # mypy does not know that a class is hashable.
    return _comparison_of(kind)(published, read)  # type: ignore[arg-type]


@lru_cache(maxsize=1024)
def _comparison_of(kind: Any) -> Compare:
    if dataclasses.is_dataclass(kind):
        return _by_attributes(f.name for f in dataclasses.fields(kind) if _is_data(f))
    if issubclass(kind, BaseModel):
        hidden = ("__pydantic_extra__", "__pydantic_private__")
        return _by_attributes([*kind.model_fields, *hidden])
    for classes, compare in _COMPARISONS:
        if issubclass(kind, classes):
            return compare
    # A class without `__eq__` compares by identity, and a decoded object is never the same one. So
    # compare the attributes.
    return _by_all_attributes if kind.__eq__ is object.__eq__ else _by_equality


def _is_data(field: Any) -> bool:
    # A field of a Strawberry type that has a resolver is a method and holds no data.
    return getattr(field, "base_resolver", None) is None


def _by_attributes(names: Iterable[str]) -> Compare:
    attributes = tuple(names)

    def compare(published: Any, read: Any) -> Difference | None:
        for name in attributes:
            one, other = getattr(published, name, None), getattr(read, name, None)
            # Most attributes are strings. This saves a call for each of them in every `publish`.
            if type(one) is type(other) is str and one == other:
                continue
            found = difference(one, other)
            if found is not None:
                return _under(name, found)
        return None

    return compare


def _by_all_attributes(published: Any, read: Any) -> Difference | None:
    return difference(getattr(published, "__dict__", None), getattr(read, "__dict__", None))


def _by_equality(published: Any, read: Any) -> Difference | None:
    return _unless(bool(published == read), published)


def _by_identity(published: Any, read: Any) -> Difference | None:
    return _unless(published is read, published)


def _of_moments(published: Any, read: Any) -> Difference | None:
    same = published == read and published.utcoffset() == read.utcoffset()
    return _unless(same, published)


def _of_sequences(published: Any, read: Any) -> Difference | None:
    if len(published) != len(read):
        return _unless(False, published)
    return _first(enumerate(published), read)


def _of_mappings(published: Any, read: Any) -> Difference | None:
    if _of_sequences([*published], [*read]) is not None:
        return _unless(False, published)
    return _first(published.items(), read.values())


def _of_sets(published: Any, read: Any) -> Difference | None:
    if published != read:
        return _unless(False, published)
    # Equal items can have different types: 1 == True.
    counterparts = {item: item for item in read}
    return _first(((item, item) for item in published), [counterparts[x] for x in published])


_COMPARISONS: list[tuple[tuple[type, ...], Compare]] = [
    ((Enum,), _by_identity),
    ((datetime, time), _of_moments),
    ((list, tuple, deque), _of_sequences),
    ((Mapping,), _of_mappings),
    ((set, frozenset), _of_sets),
]


def _first(published: Iterable[tuple[object, Any]], read: Iterable[Any]) -> Difference | None:
    for (place, one), other in zip(published, read, strict=True):
        found = difference(one, other)
        if found is not None:
            return _under(place, found)
    return None


def _under(place: object, found: Difference) -> Difference:
    return found._replace(path=(place, *found.path))


def _unless(same: bool, value: object) -> Difference | None:
    name = type(value).__name__
    return None if same else Difference((), name, f"another {name}")
