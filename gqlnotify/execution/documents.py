"""Each document is parsed once, and validated once against each set of rules."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    GraphQLError,
    Node,
    OperationDefinitionNode,
    VariableDefinitionNode,
    VariableNode,
    parse,
    validate,
)
from strawberry import Schema
from strawberry.extensions import SchemaExtension
from strawberry.types import ExecutionContext

from gqlnotify.execution.cache import Cache
from gqlnotify.fingerprint import fingerprint_of_class

MAX_CHARACTERS = 1024 * 1024
_RESUME_ARGUMENT = "after"


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One parsed document, and the sets of rules that it is known to obey."""

    ast: DocumentNode
    obeys: set[Hashable] = field(default_factory=set)


def remembering(schema: Schema) -> Schema:
    """Return `schema`, but one that remembers the documents that it has parsed and validated."""
    documents = Documents(schema)
    copied = copy(schema)
    copied.extensions = (*schema.extensions, lambda: RememberDocuments(documents))
    return copied


class RememberDocuments(SchemaExtension):
    """Takes the document from those that are known, unless another extension has provided it."""

    def __init__(self, documents: "Documents") -> None:
        self._documents = documents

    def on_parse(self) -> Iterator[None]:
        """See `SchemaExtension.on_parse`."""
        context = self.execution_context
        if context.graphql_document is None and context.query:
            # Strawberry parses what is wrong once more, and tells the client what it is.
            with suppress(GraphQLError, RecursionError):
                context.graphql_document = self._documents.parse(
                    context.query, context.parse_options
                )
        yield

    def on_validate(self) -> Iterator[None]:
        """See `SchemaExtension.on_validate`."""
        context = self.execution_context
        if context.pre_execution_errors is None:
            context.pre_execution_errors = self._documents.check(context)
        yield


class Documents:
    """The documents that clients of one schema have sent lately, a bounded number of characters."""

    def __init__(self, schema: Schema, *, max_characters: int = MAX_CHARACTERS) -> None:
        self._schema = schema
        self._cache: Cache[Hashable, Document] = Cache(max_characters)

    def parse(self, query: str, options: Mapping[str, Any]) -> DocumentNode:
        """Return the document that `query` spells.

        Raises:
            GraphQLError: it spells none.
        """
        return self._document(query, options).ast

    def check(self, context: ExecutionContext) -> list[GraphQLError]:
        """Return what is wrong with the context's document under the context's rules."""
        assert context.graphql_document is not None
        rules = context.validation_rules
        if not rules:
            return []
        document = self._document(context.query or "", context.parse_options)
        if document.ast is not context.graphql_document:
            # An extension has put another one in its place.
            return validate(self._schema._schema, context.graphql_document, rules)
        # A rule that is made anew for each operation is known by what it is made of.
        key = tuple(fingerprint_of_class(rule) for rule in rules)
        if key in document.obeys:
            return []
        errors = validate(self._schema._schema, document.ast, rules)
        if not errors:
            document.obeys.add(key)
        return errors

    def _document(self, query: str, options: Mapping[str, Any]) -> Document:
        key = (query, *sorted(options.items()))
        document = self._cache.get(key)
        if document is None:
            document = Document(parse(query, **options))
            self._cache.put(key, document, len(query))
        return document


def resume_variables(document: DocumentNode, operation_name: str | None) -> frozenset[str]:
    """Return the variables that say where a subscription begins, and nothing else.

    They are the ones that occur only as the `after` argument of the operation's own field.
    """
    operation = _operation(document, operation_name)
    if operation is None:
        return frozenset()
    resuming = [argument.value for argument in _resume_arguments(operation)]
    names = {value.name.value for value in resuming if isinstance(value, VariableNode)}
    used = [node.name.value for node in _variables(document)]
    return frozenset(
        name
        for name in names
        if used.count(name) == sum(1 for v in resuming if _is_variable(v, name))
    )


def _operation(document: DocumentNode, name: str | None) -> OperationDefinitionNode | None:
    operations = (d for d in document.definitions if isinstance(d, OperationDefinitionNode))
    return next((o for o in operations if name is None or (o.name and o.name.value == name)), None)


def _resume_arguments(operation: OperationDefinitionNode) -> Iterable[ArgumentNode]:
    for selection in operation.selection_set.selections:
        if isinstance(selection, FieldNode):
            yield from (a for a in selection.arguments or () if a.name.value == _RESUME_ARGUMENT)


def _is_variable(node: Node, name: str) -> bool:
    return isinstance(node, VariableNode) and node.name.value == name


def _variables(document: DocumentNode) -> Iterator[VariableNode]:
    """Yield each use of a variable, not its definition. Documents may be deep: no recursion."""
    nodes: list[Node] = [document]
    while nodes:
        node = nodes.pop()
        children = list(_children(node))
        nodes.extend(children)
        if not isinstance(node, VariableDefinitionNode):
            yield from (child for child in children if isinstance(child, VariableNode))


def _children(node: Node) -> Iterator[Node]:
    for key in node.keys:
        value = getattr(node, key, None)
        yield from (
            x
            for x in (value if isinstance(value, list | tuple) else (value,))
            if isinstance(x, Node)
        )
