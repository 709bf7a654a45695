"""Lets pydantic find the types that `strawberry.lazy` names. Pure.

This module does not import Strawberry: if no other module has, there are no lazy types.
"""

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any, ForwardRef, get_args

_HOOK = "__get_pydantic_core_schema__"


def teach_pydantic() -> None:
    """Add pydantic's hook for custom types to Strawberry's lazy types.

    Raises:
        ImportError: This version of Strawberry has no lazy types that can be resolved.
    """
    strawberry = sys.modules.get("strawberry")
    if strawberry is not None:
        _teach(strawberry)


def _teach(strawberry: Any) -> None:
    lazy_type = getattr(strawberry, "LazyType", None)
    if not hasattr(lazy_type, "resolve_type"):
        raise ImportError(
            "gqlnotify can't resolve the lazy types of this version of strawberry-graphql: install "
            "one of the versions that gqlnotify's own requirements name"
        )
    if not hasattr(lazy_type, _HOOK):
        setattr(lazy_type, _HOOK, _schema_of)


def _schema_of(lazy: Any, _source: Any, handler: Any) -> Any:
    return handler.generate_schema(lazy.resolve_type())


def names_in(type_: Any) -> dict[str, Any]:
    """Return the names of the lazy references in `type_` and in its fields, with their types.

    Raises:
        KeyError, ImportError: A module does not exist yet, or does not define the type yet.
    """
    names: dict[str, Any] = {}
    _collect(type_, names, set())
    return names


def _collect(type_: Any, names: dict[str, Any], seen: set[int]) -> None:
    if id(type_) in seen:
        return
    seen.add(id(type_))
    for lazy in _references(type_):
        names[lazy.type_name] = lazy.resolve_type()
        _collect(names[lazy.type_name], names, seen)
    for argument in get_args(type_):
        _collect(argument, names, seen)
    if isinstance(type_, type) and dataclasses.is_dataclass(type_):
        for field in dataclasses.fields(type_):
            _collect(field.type, names, seen)


def _references(type_: Any) -> Iterator[Any]:
    if hasattr(type_, "resolve_type") and hasattr(type_, "type_name"):
        yield type_
    reference = getattr(type_, "__origin__", None)
    for metadata in getattr(type_, "__metadata__", ()):
        if isinstance(reference, ForwardRef) and hasattr(metadata, "resolve_forward_ref"):
            yield metadata.resolve_forward_ref(reference)
