"""Limits the size of a document. One pass before validation measures it.

A fragment counts at each spread, as if it were written there. It is measured only once, so
fragments that spread each other twice, and double the size with every line, take no extra time.
"""

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from math import inf
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionNode,
    ValueNode,
    VariableNode,
)

from gqlnotify.errors import (
    ExtensionsTooBig,
    IntrospectionDisabled,
    QueryTooComplex,
    QueryTooDeep,
    TooManyAliases,
    TooManyTokens,
)
from gqlnotify.settings import Settings

# Nested fragments can multiply to numbers with a thousand digits: cap the sums.
_ENORMOUS = 10**9
_INTROSPECTION = frozenset({"__schema", "__type"})
_TOO_MANY_TOKENS = "Syntax Error: Document contains more than"


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a document.

    `depth` and `aliases` are those of its largest operation. `depth` excludes introspection
    fields, which validation limits itself. `fields` counts the fields, fragment spreads and uses
    of variables in all operations, because validation visits each of them for each operation.
    """

    depth: int = 0
    aliases: int = 0
    fields: int = 0
    introspects: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits on a document's size, and whether introspection is allowed."""

    tokens: int = sys.maxsize
    depth: int = sys.maxsize
    aliases: int = sys.maxsize
    fields: int = sys.maxsize
    extensions_bytes: int = sys.maxsize
    introspection: bool = True

    @classmethod
    def from_settings(cls, settings: Settings) -> "Limits":
        """Return the limits from the settings."""
        return cls(
            tokens=settings.query_max_tokens,
            depth=settings.query_max_depth,
            aliases=settings.query_max_aliases,
            fields=settings.query_max_complexity,
            extensions_bytes=settings.extensions_max_bytes,
            introspection=settings.introspection,
        )

    def check(self, size: Size) -> None:
        """Refuse a document that is over a limit.

        Raises:
            QueryTooDeep, TooManyAliases, QueryTooComplex: it is over this limit.
            IntrospectionDisabled: it asks for the schema, and introspection is disabled.
        """
        if size.introspects and not self.introspection:
            raise IntrospectionDisabled("This server does not answer queries about its schema")
        if size.depth > self.depth:
            raise QueryTooDeep(
                _over("Its fields are nested", size.depth, "deep", "depth", self.depth)
            )
        if size.aliases > self.aliases:
            raise TooManyAliases(_over("It has", size.aliases, "aliases", "aliases", self.aliases))
        if size.fields > self.fields:
            raise QueryTooComplex(
                _over(
                    "It asks for",
                    size.fields,
                    "fields, spreads and variables",
                    "complexity",
                    self.fields,
                )
            )

    def check_extensions(self, extensions: Mapping[str, Any] | None) -> None:
        """Refuse an operation's `extensions` if they are too large.

        Raises:
            ExtensionsTooBig: they are too large.
        """
        if extensions and _json_size(extensions) > self.extensions_bytes:
            raise ExtensionsTooBig(
                f"The extensions of an operation may have {self.extensions_bytes} bytes, "
                "the limit that extensions_max_bytes sets"
            )

    def check_tokens(self, error: GraphQLError) -> None:
        """Refuse a document whose parsing stopped at the limit of `tokens`.

        Raises:
            TooManyTokens: `error` is about the number of tokens, not about the syntax.
        """
        if error.message.startswith(f"{_TOO_MANY_TOKENS} {self.tokens} tokens"):
            raise TooManyTokens(
                f"The document is too large: it has more than {self.tokens} tokens, "
                "the limit that query_max_tokens sets"
            )


NO_LIMITS = Limits()


def measure(document: DocumentNode) -> Size:
    """Return the size of `document`. It may be deep, long or circular."""
    parts: dict[str, _Part] = {}
    operations: list[_Part] = []
    for definition in document.definitions:
        if isinstance(definition, FragmentDefinitionNode):
            parts[definition.name.value] = _part(definition.selection_set.selections)
        elif isinstance(definition, OperationDefinitionNode):
            operations.append(_part(definition.selection_set.selections))
    totals: dict[str, Size] = {}
    for name in _used_first(parts):
        totals[name] = _total(parts[name], totals)
    return _of_document([_total(part, totals) for part in operations], totals.values())


@dataclass(slots=True)
class _Part:
    """The size of one definition without its fragments, and the fragments that it spreads.

    Each spread comes with the number of fields above it; None inside an introspection field.
    """

    depth: int = 0
    aliases: int = 0
    fields: int = 0
    introspects: bool = False
    spreads: list[tuple[str, int | None]] = field(default_factory=list)

    def add(self, node: FieldNode, above: int | None) -> int | None:
        """Count `node`, which has `above` fields above it; return that number for its subfields."""
        self.fields += 1 + _uses_of_variables(node)
        self.aliases += node.alias is not None
        if node.name.value in _INTROSPECTION:
            self.introspects = True
            return None
        if above is None:
            return None
        self.depth = max(self.depth, above + 1)
        return above + 1


def _part(selections: Iterable[SelectionNode]) -> _Part:
    part = _Part()
    # No recursion: the parser accepts documents that are deeper than the remaining stack.
    left: list[tuple[SelectionNode, int | None]] = [(node, 0) for node in selections]
    while left:
        node, above = left.pop()
        if isinstance(node, FragmentSpreadNode):
            part.fields += 1 + _uses_of_variables(node)
            part.spreads.append((node.name.value, above))
            continue
        below = part.add(node, above) if isinstance(node, FieldNode) else above
        selection_set = getattr(node, "selection_set", None)
        if selection_set is not None:
            left.extend((child, below) for child in selection_set.selections)
    return part


def _uses_of_variables(node: FieldNode | FragmentSpreadNode) -> int:
    arguments = [*(getattr(node, "arguments", None) or ())]
    for directive in node.directives or ():
        arguments.extend(directive.arguments or ())
    left: list[ValueNode] = [argument.value for argument in arguments]
    uses = 0
    while left:
        value = left.pop()
        uses += isinstance(value, VariableNode)
        if isinstance(value, ListValueNode):
            left.extend(value.values)
        elif isinstance(value, ObjectValueNode):
            left.extend(field.value for field in value.fields)
    return uses


def _used_first(parts: Mapping[str, _Part]) -> Iterator[str]:
    """Yield the names of the fragments, each after the fragments that it spreads."""
    graph = {name: {used for used, _ in part.spreads} for name, part in parts.items()}
    try:
        yield from [name for name in TopologicalSorter(graph).static_order() if name in parts]
    except CycleError:
        # Validation reports cycles with a better error: any order will do here.
        yield from parts


def _total(part: _Part, totals: Mapping[str, Size]) -> Size:
    spread = [(totals[name], above) for name, above in part.spreads if name in totals]
    deep = (above + size.depth for size, above in spread if above is not None)
    return Size(
        depth=max([part.depth, *deep]),
        aliases=min(part.aliases + sum(size.aliases for size, _ in spread), _ENORMOUS),
        fields=min(part.fields + sum(size.fields for size, _ in spread), _ENORMOUS),
        introspects=part.introspects or any(size.introspects for size, _ in spread),
    )


def _of_document(operations: Collection[Size], fragments: Collection[Size]) -> Size:
    # Unused fragments count too: validation visits them before it refuses them.
    found = [*operations, *fragments]
    return Size(
        depth=max((size.depth for size in operations), default=0),
        aliases=max((size.aliases for size in found), default=0),
        fields=max([sum(size.fields for size in operations), *(s.fields for s in fragments)]),
        introspects=any(size.introspects for size in found),
    )


def _json_size(values: Mapping[str, Any]) -> float:
    try:
        return len(json.dumps(values))
    except (TypeError, ValueError, RecursionError):
        return inf


def _over(begin: str, figure: int, unit: str, setting: str, limit: int) -> str:
    return (
        f"The document is too large: {begin} {figure} {unit}, "
        f"the limit that query_max_{setting} sets is {limit}"
    )
