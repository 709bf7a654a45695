"""Lets pydantic understand the types of fields that `strawberry.field(...)` declares. Pure.

Strawberry puts objects of its own in the place of `X | None`, `list[X]` and enums there. This
module does not import Strawberry: if no other module has, there are no such fields.
"""

import sys
from typing import Any

_HOOK = "__get_pydantic_core_schema__"


def teach_pydantic() -> None:
    """Add pydantic's hook for custom types to Strawberry's objects for types."""
    base, enums = map(sys.modules.get, ("strawberry.types.base", "strawberry.types.enum"))
    if base is None or enums is None:
        return
    # Not to their base class. A union has it too, and also stands in `Annotated[...]`, where
    # pydantic would call the hook of the union.
    for kind in (base.StrawberryOptional, base.StrawberryList, enums.StrawberryEnumDefinition):
        if _HOOK not in vars(kind):
            setattr(kind, _HOOK, _schema_of)


def _schema_of(type_: Any, _source: Any, handler: Any) -> Any:
    return handler.generate_schema(_annotation_of(type_))


def _annotation_of(type_: Any) -> Any:
    """Return the annotation that the type has in plain Python."""
    base = sys.modules["strawberry.types.base"]
    if isinstance(type_, base.StrawberryOptional):
        return _annotation_of(type_.of_type) | None
    if isinstance(type_, base.StrawberryList):
        return list[_annotation_of(type_.of_type)]  # type: ignore[misc]  # it is an argument
    return getattr(type_, "wrapped_cls", type_)
