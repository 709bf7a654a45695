"""What operations of one document share, even if their variables, filters or scopes differ.

A selection of plain fields runs no code of the application. So its result for an event is the same
for all of these operations, and it is rendered and encoded once.
"""

from collections.abc import Hashable, Iterator
from typing import Any
from weakref import WeakValueDictionary

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    Node,
    OperationDefinitionNode,
    VariableNode,
)

from gqlnotify.event import Cursor, Event
from gqlnotify.execution.cache import Cache
from gqlnotify.execution.compiled import Render, compile_plain
from gqlnotify.execution.encoded_result import EncodedResult
from gqlnotify.execution.strawberry_adapter import QUERY_DOCUMENT_KEYS, Executor

# What a cached result takes in addition to its message, at most.
RESULT_BYTES = 2000


class Selection:
    """A compiled selection of plain fields, and its recent results."""

    def __init__(
        self, render: Render, results: "Cache[tuple[Hashable, Cursor], EncodedResult]"
    ) -> None:
        self.render = render
        self.is_shared = False
        """Whether several executions use it."""
        self._results = results

    def known(self, event: Event) -> EncodedResult | None:
        """Return the encoded result of `event` if another execution has rendered it."""
        return self._results.get((self, event.cursor)) if self.is_shared else None

    def remember(self, encoded: EncodedResult) -> None:
        """Keep a result for the other executions."""
        if self.is_shared and encoded.body is not None:
            weight = len(encoded.body.data) + RESULT_BYTES
            self._results.put((self, encoded.cursor), encoded, weight)


class Selections:
    """The compiled selections that the executions of one router share."""

    def __init__(self, results: "Cache[tuple[Hashable, Cursor], EncodedResult]") -> None:
        self._results = results
        self._by_key: WeakValueDictionary[Hashable, Selection] = WeakValueDictionary()

    def of(
        self, key: Hashable, document: DocumentNode, executor: Executor[Any]
    ) -> Selection | None:
        """Return the selection of `executor`; None if graphql-core has to execute it.

        `key` stands for the document, the name of the operation, and the values that it selects
        from.
        """
        known = self._by_key.get(key)
        if known is not None:
            known.is_shared = True
            return known
        render = compile_plain(executor)
        if render is None:
            return None
        selection = Selection(render, self._results)
        if not _depends_on_variables(document):
            self._by_key[key] = selection
        return selection


def _depends_on_variables(document: DocumentNode) -> bool:
    """Return whether a variable is used anywhere but in the arguments of a root field."""
    return any(_uses_a_variable(node) for node in _nodes_of_selections(document))


def _nodes_of_selections(document: DocumentNode) -> Iterator[Node]:
    for definition in document.definitions:
        if isinstance(definition, FragmentDefinitionNode):
            yield definition
        elif isinstance(definition, OperationDefinitionNode):
            yield from definition.directives or ()
            for selection in definition.selection_set.selections:
                yield from _nodes_of_root(selection)


def _nodes_of_root(selection: Node) -> Iterator[Node]:
    if not isinstance(selection, FieldNode):
        yield selection
        return
    yield from selection.directives or ()
    if selection.selection_set is not None:
        yield selection.selection_set


def _uses_a_variable(node: Node) -> bool:
    # No recursion: a document may be nested deeply.
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, VariableNode):
            return True
        for key in QUERY_DOCUMENT_KEYS.get(node.kind, ()):
            child = getattr(node, key, None)
            if isinstance(child, Node):
                waiting.append(child)
            elif child:
                waiting.extend(child)
    return False
