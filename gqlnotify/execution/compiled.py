"""Selections that need no executor: fields without resolvers, on values that are as promised.

Most events are plain data. What is selected of them is compiled once, into nested functions, and
costs a tenth of an execution. Whatever is out of the ordinary, in the schema or in a value, is left
to graphql-core, which then starts anew: reading an attribute twice does no harm.
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
    is_default_resolver,
    root_type,
)

Render = Callable[[Any], Any]
"""Makes the response of a value; raises whatever it likes where the value is not as promised."""


class NotPlain(Exception):
    """Only graphql-core knows what to make of this."""


def compile_plain(executor: Executor[Any]) -> Render | None:
    """Return what makes `data` of an event's value; None if graphql-core has to."""
    collected = collect_root_fields(executor)
    if len(collected) != 1:
        return None
    ((name, fields),) = collected.items()
    field = executor.schema.get_field(root_type(executor), fields[0].node.name.value)
    if field is None:
        return None
    try:
        complete = _Compiler(executor).complete(field.type, fields)
    except (NotPlain, RecursionError):
        return None
    # Strawberry resolves the field of an event to the event.
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
        # A default resolver does nothing but read an attribute.
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
