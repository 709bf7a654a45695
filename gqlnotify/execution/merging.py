"""Checks in one pass over the document whether fields with the same response name can be merged.

https://spec.graphql.org/draft/#sec-Field-Selection-Merging

The specification, and graphql-core with it, compares each pair of fields that have the same
response name: 2000 tokens can take a second. Here, all fields that may be part of the same response
form one group, with each field only once. The group is checked, and the selections of its fields
form the next group.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLNamedType,
    GraphQLOutputType,
    GraphQLSchema,
    InlineFragmentNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValidationContext,
    ValidationRule,
    ValueNode,
    get_named_type,
    is_interface_type,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
    is_object_type,
    print_ast,
    type_from_ast,
)

from gqlnotify.errors import QueryTooComplex

# The limit on visits of fields. A field is visited once for each group that it is part of. So a
# document without type conditions takes one visit for each field, with fragments written out.
MAX_STEPS = 20_000


class _Selection(NamedTuple):
    """A selection set and the type that it selects from."""

    parent: GraphQLNamedType | None
    node: SelectionSetNode


@dataclass(frozen=True, slots=True)
class _Group:
    """Selection sets that may be part of the same response.

    In an `exclusive` group, two fields never belong to the same object, so only the shapes of
    their results have to agree. `path` has the response names of the merged fields above.
    """

    selections: tuple[_Selection, ...]
    exclusive: bool
    path: tuple[str, ...] = ()

    @property
    def key(self) -> Hashable:
        """A key that is equal for groups with the same result."""
        return self.exclusive, frozenset((id(s.parent), id(s.node)) for s in self.selections)


class _Field(NamedTuple):
    parent: GraphQLNamedType | None
    node: FieldNode
    type: GraphQLOutputType | None


class _Conflict(NamedTuple):
    reason: str
    first: FieldNode
    second: FieldNode


class FieldsCanMergeRule(ValidationRule):
    """Replaces graphql-core's `OverlappingFieldsCanBeMergedRule`.

    Raises:
        QueryTooComplex: the document takes more than `MAX_STEPS` visits.
    """

    def __init__(self, context: ValidationContext) -> None:
        super().__init__(context)
        self._steps = 0
        self._checked: set[Hashable] = set()
        self._spread_somewhere: set[str] = set()
        self._calls: dict[int, str] = {}

    def enter_operation_definition(self, node: OperationDefinitionNode, *_: Any) -> None:
        """Check an operation, with the fragments that it spreads."""
        root = self.context.schema.get_root_type(node.operation)
        self._check(_Selection(root, node.selection_set))

    def leave_document(self, node: DocumentNode, *_: Any) -> None:
        """Check the fragments that no operation has spread."""
        for definition in node.definitions:
            if isinstance(definition, FragmentDefinitionNode) and self._is_left(definition):
                self._check(_of_fragment(self.context.schema, definition))

    def _is_left(self, definition: FragmentDefinitionNode) -> bool:
        return definition.name.value not in self._spread_somewhere

    def _check(self, selection: _Selection) -> None:
        left = [_Group((selection,), exclusive=False)]
        while left:
            group = left.pop()
            if group.key not in self._checked:
                self._checked.add(group.key)
                for name, fields in self._collect(group.selections).items():
                    left.extend(self._check_fields(group, name, fields))

    def _check_fields(self, group: _Group, name: str, fields: list[_Field]) -> Iterable[_Group]:
        conflict = _find_conflict(fields, group.exclusive, self._call)
        path = (*group.path, name)
        if conflict is None:
            return _groups_below(fields, group.exclusive, path)
        self.report_error(_error_of(conflict, path))
        return ()

    def _collect(self, selections: Iterable[_Selection]) -> dict[str, list[_Field]]:
        """Return the fields of all `selections` by their response names, each once."""
        found: dict[str, list[_Field]] = {}
        spread: set[str] = set()
        left = deque(selections)
        while left:
            parent, node = left.popleft()
            self._count(len(node.selections))
            for selection in node.selections:
                if isinstance(selection, FieldNode):
                    name = (selection.alias or selection.name).value
                    found.setdefault(name, []).append(_field_of(parent, selection))
                elif isinstance(selection, InlineFragmentNode):
                    left.append(self._inline(parent, selection))
                elif isinstance(selection, FragmentSpreadNode):
                    left.extend(self._spread(selection.name.value, spread))
        self._spread_somewhere |= spread
        return found

    def _inline(self, parent: GraphQLNamedType | None, node: InlineFragmentNode) -> _Selection:
        condition = node.type_condition
        type_ = type_from_ast(self.context.schema, condition) if condition else parent
        return _Selection(type_, node.selection_set)

    def _spread(self, name: str, spread: set[str]) -> Iterator[_Selection]:
        fragment = None if name in spread else self.context.get_fragment(name)
        spread.add(name)
        if fragment is not None:
            yield _of_fragment(self.context.schema, fragment)

    def _call(self, node: FieldNode) -> str:
        # Cached, because a field with large arguments can be in many groups.
        call = self._calls.get(id(node))
        if call is None:
            call = self._calls[id(node)] = _call(node)
        return call

    def _count(self, steps: int) -> None:
        self._steps += steps + 1
        if self._steps > MAX_STEPS:
            raise QueryTooComplex(
                "The document is too large: too many of its fields answer together. "
                "Split it into several operations"
            )


def _of_fragment(schema: GraphQLSchema, fragment: FragmentDefinitionNode) -> _Selection:
    return _Selection(type_from_ast(schema, fragment.type_condition), fragment.selection_set)


def _field_of(parent: GraphQLNamedType | None, node: FieldNode) -> _Field:
    definition = None
    if is_object_type(parent) or is_interface_type(parent):
        definition = parent.fields.get(node.name.value)
    return _Field(parent, node, definition and definition.type)


def _find_conflict(
    fields: Sequence[_Field], exclusive: bool, call_of: Callable[[FieldNode], str]
) -> _Conflict | None:
    """Return the first conflict among fields of one response name."""
    if len(fields) == 1:
        return None
    found = _conflicting_streams(fields)
    if found is None and not exclusive:
        found = _conflicting_calls(fields, call_of)
    return found or _conflicting_shapes(fields)


def _conflicting_streams(fields: Sequence[_Field]) -> _Conflict | None:
    for field in fields:
        if any(directive.name.value == "stream" for directive in field.node.directives or ()):
            other = fields[0] if field is not fields[0] else fields[1]
            return _Conflict("they have overlapping stream directives", field.node, other.node)
    return None


def _conflicting_calls(
    fields: Sequence[_Field], call_of: Callable[[FieldNode], str]
) -> _Conflict | None:
    """Compare the names and arguments of fields that may belong to the same object.

    Fields of two different object types never do. A field of an interface may belong to any object.
    """
    anywhere = next((field for field in fields if not is_object_type(field.parent)), None)
    first: dict[GraphQLNamedType | None, _Field] = {}
    for field in fields:
        other = anywhere or first.setdefault(field.parent, field)
        reason = None if other is field else _different_call(other.node, field.node, call_of)
        if reason is not None:
            return _Conflict(reason, other.node, field.node)
    return None


def _different_call(
    one: FieldNode, other: FieldNode, call_of: Callable[[FieldNode], str]
) -> str | None:
    if one.name.value != other.name.value:
        return f"'{one.name.value}' and '{other.name.value}' are different fields"
    if not one.arguments and not other.arguments:
        return None
    return None if call_of(one) == call_of(other) else "they have differing arguments"


def _call(node: FieldNode) -> str:
    """Return a text that is equal for the same arguments in any order."""
    return _in_order((each.name.value, each.value) for each in node.arguments or ())


def _in_order(values: Iterable[tuple[str, ValueNode]]) -> str:
    ordered = sorted(values, key=itemgetter(0))
    return "{" + ",".join(f"{name}:{_text(value)}" for name, value in ordered) + "}"


def _text(value: ValueNode) -> str:
    """Return a text that is equal for the same values: the fields of an object have no order."""
    if isinstance(value, ListValueNode):
        return "[" + ",".join(map(_text, value.values)) + "]"
    if isinstance(value, ObjectValueNode):
        return _in_order((each.name.value, each.value) for each in value.fields)
    return print_ast(value)


def _conflicting_shapes(fields: Sequence[_Field]) -> _Conflict | None:
    known = [field for field in fields if field.type is not None]
    for field in known[1:]:
        if field.type is not known[0].type and _shape(field.type) != _shape(known[0].type):
            reason = f"they return conflicting types '{known[0].type}' and '{field.type}'"
            return _Conflict(reason, known[0].node, field.node)
    return None


def _shape(type_: Any) -> Hashable:
    """Return a key that is equal for types of the same shape. All composite types are equal."""
    if is_list_type(type_) or is_non_null_type(type_):
        return is_list_type(type_), _shape(type_.of_type)
    return type_ if is_leaf_type(type_) else None


def _groups_below(
    fields: Sequence[_Field], exclusive: bool, path: tuple[str, ...]
) -> Iterator[_Group]:
    """Yield the groups of the selections of fields with the same response name."""
    parents = {field.parent for field in fields if is_object_type(field.parent)}
    if exclusive or len(parents) < 2:
        yield from _group_below(fields, exclusive, path)
        return
    for parent in parents:
        together = [f for f in fields if f.parent is parent or not is_object_type(f.parent)]
        yield from _group_below(together, False, path)
    yield from _group_below(fields, True, path)


def _group_below(
    fields: Iterable[_Field], exclusive: bool, path: tuple[str, ...]
) -> Iterator[_Group]:
    selections = tuple(
        _Selection(get_named_type(field.type), field.node.selection_set)
        for field in fields
        if field.node.selection_set
    )
    if selections:
        yield _Group(selections, exclusive, path if len(selections) > 1 else ())


def _error_of(conflict: _Conflict, path: tuple[str, ...]) -> GraphQLError:
    *above, name = path
    reason = conflict.reason
    for response_name in [name, *reversed(above)][:-1]:
        reason = f"subfields '{response_name}' conflict because {reason}"
    return GraphQLError(
        f"Fields '{path[0]}' conflict because {reason}. Use different aliases on the fields to "
        "fetch both if this was intentional.",
        [conflict.first, conflict.second],
    )
