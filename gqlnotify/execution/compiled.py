"""A fast path for selections of plain fields, which needs no executor.

Most events are plain data, whose fields have no resolvers. Their selection is compiled once into
nested functions, at a tenth of the cost of an execution. For anything else in the schema or in a
value, graphql-core executes the event from the start. Reading an attribute twice is harmless.
"""

from collections.abc import Callable
from typing import Any

from graphql import (
    GraphQLLeafType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    Undefined,
    is_leaf_type,
)

from gqlnotify.execution.strawberry_adapter import (
    Executor,
    FieldDetailsList,
    GroupedFieldSet,
    collect_root_fields,
    collect_subfields,
    executes_as_usual,
    is_default_resolver,
    root_type,
)

Render = Callable[[Any], Any]
"""Returns the response for a value. Raises any exception if the value does not fit its type."""


class NotPlain(Exception):
    """The fast path does not support this: graphql-core has to execute it."""


def compile_plain(executor: Executor[Any]) -> Render | None:
    """Return a function from an event's value to `data`; None if graphql-core has to execute."""
    collected = collect_root_fields(executor)
    if len(collected) != 1 or not executes_as_usual(executor):
        return None
    ((name, fields),) = collected.items()
    field = executor.schema.get_field(root_type(executor), fields[0].node.name.value)
    if field is None:
        return None
    try:
        complete = _Compiler(executor).complete(field.type, fields)
    except (NotPlain, RecursionError):
        return None
    # Strawberry resolves the subscription's root field to the event's value itself.
    return lambda value: {name: complete(value)}


class _Compiler:
    def __init__(self, executor: Executor[Any]) -> None:
        self._executor = executor

    def complete(self, type_: GraphQLOutputType, fields: FieldDetailsList) -> Render:
        if isinstance(type_, GraphQLNonNull):
            return _present(self.complete(type_.of_type, fields))
        if is_leaf_type(type_):
            return _leaf(type_)
        if isinstance(type_, GraphQLList):
            return _each(self.complete(type_.of_type, fields))
        if isinstance(type_, GraphQLObjectType) and type_.is_type_of is None:
            return self._object(type_, fields)
        raise NotPlain

    def _object(self, type_: GraphQLObjectType, fields: FieldDetailsList) -> Render:
        collected = collect_subfields(self._executor, type_, fields)
        members = self._members(type_, collected.grouped_field_set)

        def render(value: Any) -> Any:
            if value is None:
                return None
            return {name: complete(get(value)) for name, get, complete in members}

        return render

    def _members(
        self, type_: GraphQLObjectType, grouped: GroupedFieldSet
    ) -> list[tuple[str, Render, Render]]:
        return [(name, *self._member(type_, fields)) for name, fields in grouped.items()]

    def _member(self, type_: GraphQLObjectType, fields: FieldDetailsList) -> tuple[Render, Render]:
        field_name = fields[0].node.name.value
        if field_name == "__typename":
            return (lambda _value: type_.name), str
        field = self._executor.schema.get_field(type_, field_name)
        resolve: Any = None if field is None or field.args else field.resolve
        # A default resolver only reads an attribute.
        if field is None or resolve is None or not is_default_resolver(resolve):
            raise NotPlain
        return resolve, self.complete(field.type, fields)


def _present(complete: Render) -> Render:
    def render(value: Any) -> Any:
        completed = complete(value)
        if completed is None:
            raise NotPlain
        return completed

    return render


def _leaf(type_: GraphQLLeafType) -> Render:
    coerce = type_.coerce_output_value

    def render(value: Any) -> Any:
        if value is None:
            return None
        coerced = coerce(value)
        if coerced is None or coerced is Undefined:
            raise NotPlain
        return coerced

    return render


def _each(complete: Render) -> Render:
    def render(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise NotPlain
        return [complete(item) for item in value]

    return render
