"""Parses and measures each document once, and validates it once against each set of rules."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from sys import getsizeof
from typing import Any

from graphql import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    GraphQLError,
    Node,
    NonNullTypeNode,
    OperationDefinitionNode,
    OverlappingFieldsCanBeMergedRule,
    VariableDefinitionNode,
    VariableNode,
    parse,
)
from strawberry import Schema
from strawberry.extensions import SchemaExtension
from strawberry.types import ExecutionContext
from typing_extensions import override

from gqlnotify.errors import NotifyError, QueryTooDeep
from gqlnotify.execution.cache import Cache
from gqlnotify.execution.fingerprint import Same, fingerprint_of_class
from gqlnotify.execution.limits import NO_LIMITS, Limits, measure
from gqlnotify.execution.merging import FieldsCanMergeRule
from gqlnotify.execution.pace import Pace
from gqlnotify.execution.persisted import NONE_PERSISTED, PersistedOperations
from gqlnotify.execution.strawberry_adapter import RULES, core_schema
from gqlnotify.execution.validation import Validation
from gqlnotify.observability.metrics import refused

# The cache of accepted documents, and the cache of refused ones with their errors.
MAX_BYTES = 32 * 1024 * 1024
MAX_REFUSED_BYTES = 8 * 1024 * 1024
MAX_SETS_OF_RULES = 16
# An error can quote a whole argument, so many errors can be larger than the document.
MAX_ERRORS = 10
# Node visits before the event loop runs again: about 10 ms with the specification's rules.
VISITS_PER_STEP = 250
# Measured: a token, its node and their locations take 320 to 610 bytes.
_TOKEN_BYTES = 650
_DOCUMENT_BYTES = 2000
_RESUME_ARGUMENT = "after"
# Each operation begins with one of these, except an anonymous query, which validation accepts only
# as the single operation of a document.
_OPERATION_WORD = re.compile(r"\b(?:query|mutation|subscription)\b")
_SUGGESTION = re.compile(r" Did you mean .*\?", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One parsed document and its validation results.

    `obeys` has the sets of rules that it is valid by, and `breaks` the errors for the others.
    `bytes` is its estimated size in memory.
    """

    ast: DocumentNode
    bytes: int
    obeys: set[Hashable] = field(default_factory=set)
    breaks: dict[Hashable, list[GraphQLError]] = field(default_factory=dict)
    resuming: dict[str | None, Mapping[str, bool]] = field(default_factory=dict)

    def errors(self, rules: tuple[Any, ...], key: Hashable) -> list[GraphQLError] | None:
        """Return the errors by these rules, which `key` describes; None if not validated yet."""
        return [] if rules in self.obeys or key in self.obeys else self.breaks.get(key)


def remembering(schema: Schema, documents: "Documents", asker: Hashable) -> Schema:
    """Return a copy of `schema` that caches parsed and validated documents in `documents`.

    An unknown document waits for the turn of `asker`.
    """
    copied = copy(schema)

    def get_extensions(sync: bool = False) -> list[SchemaExtension]:
        if sync:
            # Only the application's own code executes synchronously.
            return schema.get_extensions(sync)
        return documents.around(schema.get_extensions(sync), asker)

    # Not through `extensions`: a subclass that overrides `get_extensions` may ignore them.
    copied.get_extensions = get_extensions  # type: ignore[method-assign]
    return copied


def has_extensions(schema: Schema) -> bool:
    """Return whether operations of `schema` may have extensions, without creating them."""
    overridden = type(schema).get_extensions is not Schema.get_extensions
    return overridden or bool(schema.extensions or schema.directives)


def takes_part_in_preparation(extension: SchemaExtension) -> bool:
    """Return whether `extension` does something while a document is parsed or validated."""
    kind = type(extension)
    return (
        kind.on_parse is not SchemaExtension.on_parse
        or kind.on_validate is not SchemaExtension.on_validate
    )


def without_suggestions(schema: Schema) -> Schema:
    """Return a copy of `schema` whose execution errors have no "Did you mean" suggestions."""
    copied = copy(schema)
    executor: Any = schema.execution_context_class
    copied.execution_context_class = _silent(executor)
    return copied


@lru_cache
def _silent(executor: Any) -> Any:
    class Silent(executor):  # type: ignore[misc]
        @classmethod
        def build(cls, *args: Any, **options: Any) -> Any:
            return super().build(*args, **{**options, "hide_suggestions": True})

    return Silent


class ValidateDocuments(SchemaExtension):
    """Validates a document within the limits, unless its result is cached."""

    def __init__(self, documents: "Documents", asker: Hashable) -> None:
        self._documents = documents
        self._asker = asker

    @override
    def on_operation(self) -> Iterator[None]:
        # Other extensions may parse before `ProvideDocuments` does.
        self._documents.bound(self.execution_context)
        yield

    @override
    async def on_validate(self) -> AsyncIterator[None]:
        await self._documents.validate(self.execution_context, self._asker)
        yield
        # Another extension may have validated as well.
        self._documents.hide_suggestions(self.execution_context)


class ProvideDocuments(SchemaExtension):
    """Provides the parsed document from the cache, unless another extension has provided one."""

    def __init__(self, documents: "Documents", asker: Hashable) -> None:
        self._documents = documents
        self._asker = asker

    @override
    async def on_parse(self) -> AsyncIterator[None]:
        await self._documents.provide(self.execution_context, self._asker)
        yield


class Documents:
    """A bounded cache of the documents that clients of one schema have sent.

    An unknown document waits for the turn of its `asker`: any hashable value that is the same for
    all requests that should wait for each other, such as a subject or an address.

    Args:
        schema: the documents are validated against this schema.
        limits: the limits on a document's size.
        persisted: the allowed documents, if not all are allowed.
        max_bytes: the size of the cache of accepted documents.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        limits: Limits = NO_LIMITS,
        persisted: PersistedOperations = NONE_PERSISTED,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._schema = schema
        self._limits = limits
        self._persisted = persisted
        self._cache: Cache[Hashable, Document] = Cache(max_bytes)
        self._refused: Cache[Hashable, Document | Exception] = Cache(MAX_REFUSED_BYTES)

    @property
    def weight(self) -> int:
        """The estimated size of the cached documents in bytes."""
        return self._cache.weight + self._refused.weight

    def bound(self, context: ExecutionContext) -> None:
        """Apply the limits to the parsing and validation options of `context`.

        Other extensions may parse or validate with these options too.
        """
        context.parse_options["max_tokens"] = self._max_tokens(context.parse_options)
        if OverlappingFieldsCanBeMergedRule in context.validation_rules:
            context.validation_rules = tuple(map(_linear, context.validation_rules))

    def around(
        self, extensions: Sequence[SchemaExtension], asker: Hashable
    ) -> list[SchemaExtension]:
        """Return `extensions` and those that parse and validate with this cache."""
        return [
            # First, so that no other extension validates a document that is refused here.
            ValidateDocuments(self, asker),
            *extensions,
            # Last, because another extension may provide the document or replace the query.
            ProvideDocuments(self, asker),
        ]

    async def provide(self, context: ExecutionContext, asker: Hashable) -> None:
        """Set the parsed document of `context`, unless it has one.

        Raises:
            GraphQLError: the query can't be parsed.
            OperationNotAllowed: only persisted documents are allowed, and it is not one.
            TooManyTokens, QueryTooDeep, TooManyAliases, QueryTooComplex: it is over a limit.
            IntrospectionDisabled: it asks for the schema, and introspection is disabled.
        """
        self._persisted.check(context.query)
        self.bound(context)
        if context.graphql_document is None and context.query:
            with _counting_refusals():
                document = await self._parse(context.query, context.parse_options, asker)
            context.graphql_document = document.ast
        self._check_size(context)

    async def validate(self, context: ExecutionContext, asker: Hashable) -> None:
        """Set the validation errors of `context`, unless it has some.

        Raises:
            QueryTooDeep, TooManyAliases, QueryTooComplex: it is over a limit.
            IntrospectionDisabled: it asks for the schema, and introspection is disabled.
        """
        if context.pre_execution_errors is None and context.graphql_document is not None:
            # Again, because an extension may have replaced the document.
            self._check_size(context)
            self.bound(context)
            context.pre_execution_errors = await self._errors_in(
                context, context.graphql_document, asker
            )

    def hide_suggestions(self, context: ExecutionContext) -> None:
        """Remove suggestions from the errors of `context` if introspection is disabled.

        They would reveal names of the schema.
        """
        if not self._limits.introspection:
            for error in context.pre_execution_errors or ():
                error.message = _SUGGESTION.sub("", error.message)

    async def is_ambiguous(
        self, query: str | None, operation_name: str | None, asker: Hashable
    ) -> bool:
        """Return whether the document has several operations and the request names none.

        "If operationName is null [...] if document contains exactly one operation, return [it];
        otherwise raise a request error" (GraphQL, section 6.1). Strawberry takes the first.
        """
        if not query or operation_name is not None or len(_OPERATION_WORD.findall(query)) < 2:
            return False
        document = await self.find(query, asker)
        return document is not None and len(_operations(document)) > 1

    async def find(self, query: str, asker: Hashable) -> DocumentNode | None:
        """Return the parsed document of `query`; None if it is refused."""
        try:
            return (await self._parse(query, self._options, asker)).ast
        except (GraphQLError, NotifyError):
            return None

    async def read(self, query: str, asker: Hashable) -> DocumentNode | None:
        """Return the parsed document of `query`, even if it is refused for its size."""
        try:
            return (await self._parse(query, self._options, asker)).ast
        except GraphQLError:
            return None
        except NotifyError:
            async with _turn(asker, query):
                return self._read(query)

    def _read(self, query: str) -> DocumentNode | None:
        try:
            with _pace().costly():
                return parse(query, **self._options)
        except (GraphQLError, RecursionError):
            return None

    def _max_tokens(self, options: Mapping[str, Any]) -> int:
        chosen: int = options.get("max_tokens", self._limits.tokens)
        return min(chosen, self._limits.tokens)

    @property
    def _options(self) -> Mapping[str, Any]:
        return {"max_tokens": self._limits.tokens}

    def _remembered(self, key: Hashable) -> Document | Exception | None:
        return self._cache.get(key) or self._refused.get(key)

    async def _parse(self, query: str, options: Mapping[str, Any], asker: Hashable) -> Document:
        key = _key(query, options)
        found = self._remembered(key)
        if found is None:
            async with _turn(asker, query):
                # Another request may have sent the same document during the wait.
                found = self._remembered(key) or self._parse_and_remember(key, query, options)
        if isinstance(found, Exception):
            raise _alone(found)
        return found

    def _parse_and_remember(
        self, key: Hashable, query: str, options: Mapping[str, Any]
    ) -> Document | Exception:
        try:
            with _pace().costly():
                document = self._parse_within_limits(query, options)
        except (GraphQLError, NotifyError) as error:
            refusal = _alone(error)
            self._refused.put(key, refusal, getsizeof(query) + _DOCUMENT_BYTES)
            return refusal
        self._cache.put(key, document, document.bytes)
        return document

    def _parse_within_limits(self, query: str, options: Mapping[str, Any]) -> Document:
        try:
            ast = parse(query, **options)
        except GraphQLError as error:
            self._limits.check_tokens(error)
            raise
        except RecursionError:
            raise QueryTooDeep("The document is nested too deeply to be parsed") from None
        self._limits.check(measure(ast))
        return Document(ast, weigh(query, ast))

    def _check_size(self, context: ExecutionContext) -> None:
        if context.graphql_document is None or self._known(context) is not None:
            return
        with _counting_refusals():
            self._limits.check(measure(context.graphql_document))

    async def _errors_in(
        self, context: ExecutionContext, ast: DocumentNode, asker: Hashable
    ) -> list[GraphQLError]:
        rules = tuple(context.validation_rules)
        if not rules:
            return []
        document = self._known(context)
        if document is not None and rules in document.obeys:
            return []
        # A rule class may be created for each operation, so compare its content, not its identity.
        key: Hashable = tuple(fingerprint_of_class(rule) for rule in rules)
        errors = None if document is None else document.errors(rules, key)
        if errors is None:
            async with _turn(asker, context.query):
                # Another request may have sent the same document during the wait.
                errors = None if document is None else document.errors(rules, key)
                if errors is None:
                    errors = await self._validate(ast, rules)
                    if document is not None:
                        self._note(context, document, rules, key, errors)
        return [_with_its_nodes(error) for error in errors]

    async def _validate(self, ast: DocumentNode, rules: tuple[Any, ...]) -> list[GraphQLError]:
        pace = _pace()
        with _counting_refusals():
            with pace.costly():
                validation = Validation(
                    core_schema(self._schema),
                    ast,
                    (*rules, *RULES),
                    max_errors=MAX_ERRORS,
                    hide_suggestions=not self._limits.introspection,
                )
                more = validation.step(VISITS_PER_STEP)
            while more:
                await pace.rest()
                with pace.costly():
                    more = validation.step(VISITS_PER_STEP)
        return validation.errors

    def _note(
        self,
        context: ExecutionContext,
        document: Document,
        rules: tuple[Any, ...],
        key: Hashable,
        errors: list[GraphQLError],
    ) -> None:
        if len(document.obeys) + len(document.breaks) >= MAX_SETS_OF_RULES:
            document.obeys.clear()
            document.breaks.clear()
        if not errors:
            lasting = isinstance(key, tuple) and all(isinstance(part, Same) for part in key)
            document.obeys.add(rules if lasting else key)
            return
        document.breaks[key] = [_without_frames(error) for error in errors]
        place = _key(context.query or "", context.parse_options)
        self._cache.discard(place)
        texts = sum(getsizeof(error.message) for error in errors)
        self._refused.put(place, document, document.bytes + texts)

    def resume_variables(self, context: ExecutionContext) -> Mapping[str, bool]:
        """Return `resume_variables` of the context's operation."""
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
        found = self._remembered(_key(context.query, context.parse_options))
        document = found if isinstance(found, Document) else None
        # An extension may have replaced the document.
        return document if document and document.ast is context.graphql_document else None


def _key(query: str, options: Mapping[str, Any]) -> Hashable:
    return (query, *sorted(options.items()))


def _pace() -> Pace:
    return Pace.of(asyncio.get_running_loop())


def _turn(asker: Hashable, query: str | None) -> AbstractAsyncContextManager[None]:
    # The length is known before parsing, and is a good estimate of the cost.
    return _pace().turn(asker, len(query or ""))


@contextmanager
def _counting_refusals() -> Iterator[None]:
    try:
        yield
    except NotifyError as error:
        refused(error.code)
        raise


def _linear(rule: type[Any]) -> type[Any]:
    return FieldsCanMergeRule if rule is OverlappingFieldsCanBeMergedRule else rule


def _alone(error: Exception) -> Exception:
    """Return the same error without its traceback, which would keep frames alive."""
    if isinstance(error, GraphQLError):
        return GraphQLError(error.message, source=error.source, positions=error.positions)
    return copy(error).with_traceback(None)


def _without_frames(error: GraphQLError) -> GraphQLError:
    """Return a copy of `error` that can be cached.

    graphql-core raises and catches some errors. Their tracebacks refer to the operation's frames,
    and so to its context, viewer and socket.
    """
    if error.original_error is not None:
        error.original_error.__traceback__ = None
        error.original_error.__context__ = error.original_error.__cause__ = None
    return _with_its_nodes(error)


def _with_its_nodes(error: GraphQLError) -> GraphQLError:
    # A copy, because an extension may change the error that it gets.
    return GraphQLError(
        error.message,
        error.nodes,
        original_error=error.original_error,
        extensions=error.extensions,
    )


def weigh(query: str | None, ast: DocumentNode) -> int:
    """Return the estimated size in bytes of a document with its text."""
    return getsizeof(query) + _TOKEN_BYTES * (ast.token_count or 0) + _DOCUMENT_BYTES


def resume_variables(document: DocumentNode, operation_name: str | None) -> Mapping[str, bool]:
    """Return the variables that hold a subscription's cursor, and whether each is required.

    Such a variable is used only as the `after` argument of the operation's root field.
    """
    operation = _operation(document, operation_name)
    if operation is None:
        return {}
    resuming = [argument.value for argument in _resume_arguments(operation)]
    used = Counter(node.name.value for node in _variables(document))
    return {
        name: isinstance(definition.type, NonNullTypeNode)
        for definition in operation.variable_definitions or ()
        if (name := definition.variable.name.value) in used
        and used[name] == sum(_is_variable(value, name) for value in resuming)
    }


def _operation(document: DocumentNode, name: str | None) -> OperationDefinitionNode | None:
    operations = _operations(document)
    return next((o for o in operations if name is None or (o.name and o.name.value == name)), None)


def _operations(document: DocumentNode) -> list[OperationDefinitionNode]:
    return [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]


def _resume_arguments(operation: OperationDefinitionNode) -> Iterable[ArgumentNode]:
    for selection in operation.selection_set.selections:
        if isinstance(selection, FieldNode):
            yield from (a for a in selection.arguments or () if a.name.value == _RESUME_ARGUMENT)


def _is_variable(node: Node, name: str) -> bool:
    return isinstance(node, VariableNode) and node.name.value == name


def _variables(document: DocumentNode) -> Iterator[VariableNode]:
    """Yield each use of a variable, not its definition. No recursion: documents may be deep."""
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
