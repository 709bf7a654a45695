"""Each document is parsed and measured once, and validated once against each set of rules."""

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
    NonNullTypeNode,
    OperationDefinitionNode,
    VariableDefinitionNode,
    VariableNode,
    parse,
    validate,
)
from strawberry import Schema
from strawberry.extensions import SchemaExtension
from strawberry.types import ExecutionContext

from gqlnotify.errors import NotifyError, TooManyTokens
from gqlnotify.execution.cache import Cache
from gqlnotify.execution.limits import NO_LIMITS, Limits, Size, measure
from gqlnotify.execution.persisted import NONE_PERSISTED, PersistedOperations
from gqlnotify.fingerprint import Same, fingerprint_of_class
from gqlnotify.metrics import refused

MAX_CHARACTERS = 1024 * 1024
MAX_SETS_OF_RULES = 16
_RESUME_ARGUMENT = "after"


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One parsed document, its size, and the sets of rules that it is known to obey."""

    ast: DocumentNode
    size: Size
    obeys: set[Hashable] = field(default_factory=set)
    resuming: dict[str | None, Mapping[str, bool]] = field(default_factory=dict)


def remembering(schema: Schema, documents: "Documents") -> Schema:
    """Return `schema`, but one that remembers in `documents` what it has parsed and validated."""
    copied = copy(schema)

    def get_extensions(sync: bool = False) -> list[SchemaExtension]:
        return [*schema.get_extensions(sync), RememberDocuments(documents)]

    # Not by `extensions`: a subclass that overrides this method may ignore them.
    copied.get_extensions = get_extensions  # type: ignore[method-assign]
    return copied


def has_extensions(schema: Schema) -> bool:
    """Tell whether operations of `schema` may have extensions, without making any."""
    overridden = type(schema).get_extensions is not Schema.get_extensions
    return overridden or bool(schema.extensions or schema.directives)


class RememberDocuments(SchemaExtension):
    """Takes the document from those that are known, unless another extension has provided it."""

    def __init__(self, documents: "Documents") -> None:
        self._documents = documents

    def on_operation(self) -> Iterator[None]:
        """See `SchemaExtension.on_operation`."""
        # Other extensions may parse before this one does.
        self._documents.bound(self.execution_context)
        yield

    def on_parse(self) -> Iterator[None]:
        """See `SchemaExtension.on_parse`."""
        self._documents.provide(self.execution_context)
        yield

    def on_validate(self) -> Iterator[None]:
        """See `SchemaExtension.on_validate`."""
        self._documents.validate(self.execution_context)
        yield


class Documents:
    """The documents that clients of one schema have sent lately, a bounded number of characters.

    Args:
        schema: what they are validated against.
        limits: how large they may be.
        persisted: those that are allowed, where not all are.
        max_characters: how much is remembered.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        limits: Limits = NO_LIMITS,
        persisted: PersistedOperations = NONE_PERSISTED,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        self._schema = schema
        self._limits = limits
        self._persisted = persisted
        self._cache: Cache[Hashable, Document] = Cache(max_characters)

    def bound(self, context: ExecutionContext) -> None:
        """Let nobody parse more tokens for `context` than the limits allow."""
        chosen = context.parse_options.get("max_tokens", self._limits.tokens)
        context.parse_options["max_tokens"] = min(chosen, self._limits.tokens)

    def provide(self, context: ExecutionContext) -> None:
        """Give `context` the document that its query spells, unless it has one.

        Raises:
            OperationNotAllowed: it is not one of the persisted ones, and has to be.
            TooManyTokens, QueryTooDeep, TooManyAliases, QueryTooComplex: it is over a limit.
            IntrospectionDisabled: it asks about the schema, which it may not.
        """
        self._persisted.check(context.query)
        self.bound(context)
        if context.graphql_document is None and context.query:
            # Strawberry parses what is wrong once more, and tells the client what it is.
            with suppress(GraphQLError, RecursionError):
                context.graphql_document = self._parse(context.query, context.parse_options)
        self._check_size(context)

    def validate(self, context: ExecutionContext) -> None:
        """Note in `context` what is wrong with its document, unless that is known.

        Raises:
            QueryTooDeep, TooManyAliases, QueryTooComplex: it is over a limit.
            IntrospectionDisabled: it asks about the schema, which it may not.
        """
        if context.pre_execution_errors is None and context.graphql_document is not None:
            # Again, as an extension may have put another one in its place.
            self._check_size(context)
            context.pre_execution_errors = self._errors_in(context, context.graphql_document)

    def _parse(self, query: str, options: Mapping[str, Any]) -> DocumentNode:
        key = _key(query, options)
        document = self._cache.get(key)
        if document is None:
            ast = self._parse_anew(query, options)
            document = Document(ast, measure(ast))
            self._cache.put(key, document, len(query))
        return document.ast

    def _parse_anew(self, query: str, options: Mapping[str, Any]) -> DocumentNode:
        try:
            return parse(query, **options)
        except GraphQLError as error:
            # Not remembered: the parser stops at the limit, and one more word makes it unknown.
            if self._limits.are_too_few_tokens(error):
                refused(TooManyTokens.code)
                raise TooManyTokens(str(error)) from None
            raise

    def _check_size(self, context: ExecutionContext) -> None:
        if context.graphql_document is None:
            return
        document = self._known(context)
        size = measure(context.graphql_document) if document is None else document.size
        try:
            self._limits.check(size)
        except NotifyError as error:
            refused(error.code)
            raise

    def _errors_in(self, context: ExecutionContext, ast: DocumentNode) -> list[GraphQLError]:
        rules = tuple(context.validation_rules)
        document = self._known(context)
        if document is None:
            return validate(self._schema._schema, ast, rules)
        if rules in document.obeys:
            return []
        # A rule that is made anew for each operation is known by what it is made of.
        key = tuple(fingerprint_of_class(rule) for rule in rules)
        if key in document.obeys:
            return []
        errors = validate(self._schema._schema, ast, rules)
        if not errors:
            lasting = all(isinstance(part, Same) for part in key)
            if len(document.obeys) == MAX_SETS_OF_RULES:
                document.obeys.clear()
            document.obeys.add(rules if lasting else key)
        return errors

    def resume_variables(self, context: ExecutionContext) -> Mapping[str, bool]:
        """See `resume_variables`, for the context's operation."""
        assert context.graphql_document is not None
        document, name = self._known(context), context.operation_name
        if document is None:
            return resume_variables(context.graphql_document, name)
        if name not in document.resuming:
            document.resuming[name] = resume_variables(document.ast, name)
        return document.resuming[name]

    def _known(self, context: ExecutionContext) -> Document | None:
        if not context.query:
            return None
        document = self._cache.get(_key(context.query, context.parse_options))
        # An extension may have put another one in its place.
        return document if document and document.ast is context.graphql_document else None


def _key(query: str, options: Mapping[str, Any]) -> Hashable:
    return (query, *sorted(options.items()))


def resume_variables(document: DocumentNode, operation_name: str | None) -> Mapping[str, bool]:
    """Return the variables that say where a subscription begins, and whether each is required.

    They are the ones that occur only as the `after` argument of the operation's own field.
    """
    operation = _operation(document, operation_name)
    if operation is None:
        return {}
    resuming = [argument.value for argument in _resume_arguments(operation)]
    used = [node.name.value for node in _variables(document)]
    return {
        name: isinstance(definition.type, NonNullTypeNode)
        for definition in operation.variable_definitions or ()
        if (name := definition.variable.name.value) in used
        and used.count(name) == sum(_is_variable(value, name) for value in resuming)
    }


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
